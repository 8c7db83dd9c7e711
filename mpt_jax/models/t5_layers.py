"""The layers of T5, from projections to the blocks of encoder and decoder.

Layout: activations are `[B, T, D]`; inside attention heads come first (`[B, H, T, head_dim]`) and
projections are plain two-dimensional matrices: measured to be the fastest form on CPU.
"""

import functools
import operator
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jaxtyping import Array, Float, Int

from mpt_jax.models import segment_attention
from mpt_jax.models.relative_position import relative_position_buckets
from mpt_jax.models.segment_attention import SegmentBias
from mpt_jax.models.t5_config import ACTIVATIONS, T5Config
from mpt_jax.models.weight_precision import declare, product, rows

param_with_axes = nn_partitioning.param_with_axes

# (token ids, the words' embeddings) -> embeddings of words and virtual tokens; see methods/bank.py
Embed = Callable[[Int[Array, "B T"], Float[Array, "B T D"]], Float[Array, "B T D"]]


class KeysValues(NamedTuple):
    """Keys and values of one attention layer, heads first."""

    keys: Float[Array, "B H S head_dim"]
    values: Float[Array, "B H S head_dim"]


def fan_in(
    scale: float = 1.0, distribution: Literal["truncated_normal", "normal"] = "truncated_normal"
):
    return jax.nn.initializers.variance_scaling(scale, "fan_in", distribution)


class Linear(nn.Module):
    """A bias-free projection of the last axis."""

    features: int
    axes: tuple[str, str]
    config: T5Config
    kernel_init: Callable = fan_in()

    @nn.compact
    def __call__(self, x: Float[Array, "B T In"]) -> Float[Array, "B T Out"]:
        shape = (x.shape[-1], self.features)
        kernel, scale = declare("kernel", self.kernel_init, shape, self.axes, self.config)
        return product(x.astype(self.config.dtype), kernel, scale)


class RMSNorm(nn.Module):
    """T5's layer norm: no mean, no bias; statistics in float32."""

    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        shape = (x.shape[-1],)
        scale = param_with_axes("scale", nn.initializers.ones, shape, jnp.float32, axes=("embed",))
        x = x.astype(jnp.float32)
        normed = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return normed.astype(self.dtype) * scale.astype(self.dtype)[None, None, :]


class ResidualSum(nn.Module):
    """Adds a sublayer's output to what it read: a layer, so that an edit can stand behind the sum."""

    def __call__(
        self, stream: Float[Array, "B T D"], output: Float[Array, "B T D"]
    ) -> Float[Array, "B T D"]:
        return stream + output


class Embedder(nn.Module):
    """The vocabulary table; a caller's `embed` puts the virtual tokens' embeddings in."""

    config: T5Config

    def setup(self):
        cfg = self.config
        shape = (cfg.vocab_size, cfg.emb_dim)
        self.embedding, self.scale = declare(
            "embedding", nn.initializers.normal(stddev=1.0), shape, ("vocab", "embed"), cfg
        )

    def __call__(self, ids: Int[Array, "B T"], embed: Embed | None = None) -> Float[Array, "B T D"]:
        size = self.config.vocab_size
        words = rows(self.embedding, self.scale, jnp.clip(ids, 0, size - 1), self.config.dtype)
        return words if embed is None else embed(ids, words).astype(self.config.dtype)

    def attend(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Logits from the tied table; v1.0 was trained with them scaled by 1/sqrt(D)."""
        if self.config.scale_tied_logits:
            x = x / np.sqrt(x.shape[-1]).astype(x.dtype)
        return product(x, self.embedding, self.scale, inward=1)


class RelativePositionBias(nn.Module):
    """One learned bias per head and distance bucket, of a stack's layers together or of one (umT5)."""

    config: T5Config
    bidirectional: bool

    def setup(self):
        cfg = self.config
        self.rel_embedding = param_with_axes(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (cfg.num_heads, cfg.relpos_num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )

    def over_segments(self, bias: SegmentBias) -> SegmentBias:
        return bias.with_positions(self.rel_embedding, self.config)

    def __call__(self, queries: Int[Array, "Q"], keys: Int[Array, "S"]) -> Float[Array, "1 H Q S"]:
        cfg = self.config
        buckets = relative_position_buckets(
            keys[None, :] - queries[:, None],
            bidirectional=self.bidirectional,
            num_buckets=cfg.relpos_num_buckets,
            max_distance=cfg.relpos_max_distance,
        )
        return jnp.take(self.rel_embedding, buckets, axis=1)[None].astype(cfg.dtype)


def own_positions(config: T5Config, *, bidirectional: bool) -> RelativePositionBias | None:
    """A block's own position bias (umT5), or None where its stack has one for all blocks."""
    return RelativePositionBias(config, bidirectional) if config.relpos_per_layer else None


def with_positions(
    own: RelativePositionBias | None,
    bias: Float[Array, "_ _ Q S"],
    queries: Int[Array, "Q"],
    keys: Int[Array, "S"],
) -> Float[Array, "_ _ Q S"]:
    """The stack's bias (mask, and positions where they are shared) and the block's own positions."""
    return bias if own is None else bias + own(queries, keys)


class Attention(nn.Module):
    """Multi-head attention without bias; T5 folds the 1/sqrt(head_dim) into the query's start."""

    config: T5Config

    def setup(self):
        cfg = self.config
        joined = cfg.num_heads * cfg.head_dim
        inward = ("embed", "joined_kv")
        query_init = fan_in(1.0 / cfg.head_dim, "normal")
        self.query = Linear(joined, inward, cfg, query_init)
        self.key = Linear(joined, inward, cfg, fan_in(1.0, "normal"))
        self.value = Linear(joined, inward, cfg, fan_in(1.0, "normal"))
        self.out = Linear(cfg.emb_dim, ("joined_kv", "embed"), cfg, fan_in(1.0, "normal"))

    def _heads_first(self, x: Float[Array, "B T J"]) -> Float[Array, "B H T head_dim"]:
        if self.config.scan_layers:
            # Without it XLA for TPUs lays the weights of all layers out anew before the loop, to save
            # this transpose inside: a copy of every such stack (1.5 GB for XL, 3 GB for XXL halved).
            x = jax.lax.optimization_barrier(x)
        split = x.reshape(*x.shape[:2], self.config.num_heads, self.config.head_dim)
        return split.transpose(0, 2, 1, 3)

    def keys_values(self, x: Float[Array, "B S D"]) -> KeysValues:
        return KeysValues(self._heads_first(self.key(x)), self._heads_first(self.value(x)))

    def attend(
        self,
        x: Float[Array, "B Q D"],
        kv: KeysValues,
        bias: Float[Array, "_ _ _ S"],
        drop: Callable[[Array], Array],
    ) -> Float[Array, "B Q D"]:
        query = self._heads_first(self.query(x))
        logits = jnp.einsum("bhqk,bhsk->bhqs", query, kv.keys) + bias
        weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(query.dtype)
        mixed = jnp.einsum("bhqs,bhsk->bhqk", drop(weights), kv.values)
        joined = mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1)
        return self.out(joined)

    def within_segments(self, x: Float[Array, "B T D"], bias: SegmentBias) -> Float[Array, "B T D"]:
        mixed = segment_attention.attend(self.query(x), self.key(x), self.value(x), bias)
        output = self.out(mixed)
        # As in `_heads_first`: without it XLA lays the stack of `out` anew, and the stream with it.
        return jax.lax.optimization_barrier(output) if self.config.scan_layers else output

    def __call__(self, x, source, bias, drop):
        return self.attend(x, self.keys_values(source), bias, drop)


class MLP(nn.Module):
    """The feed-forward layer: `wi` (v1.0), or the product of `wi_0` and `wi_1` (v1.1)."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], drop: Callable[[Array], Array]
    ) -> Float[Array, "B T D"]:
        cfg = self.config
        single = len(cfg.mlp_activations) == 1
        branches = []
        for i, activation in enumerate(cfg.mlp_activations):
            name = "wi" if single else f"wi_{i}"
            branch = Linear(cfg.mlp_dim, ("embed", "mlp"), cfg, name=name)(x)
            branches.append(ACTIVATIONS[activation](branch))
        hidden = functools.reduce(operator.mul, branches)
        return Linear(cfg.emb_dim, ("mlp", "embed"), cfg, name="wo")(drop(hidden))


class EncoderBlock(nn.Module):
    config: T5Config
    deterministic: bool = True

    def setup(self):
        cfg = self.config
        self.relpos_bias = own_positions(cfg, bidirectional=True)
        self.pre_attention_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.attention = Attention(cfg)
        self.attention_sum = ResidualSum()
        self.pre_mlp_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.mlp = MLP(cfg)
        self.mlp_sum = ResidualSum()
        self.dropout = nn.Dropout(cfg.dropout_rate, deterministic=self.deterministic)

    def __call__(self, x: Float[Array, "B T D"], bias: Float[Array, "_ _ T T"] | SegmentBias):
        normed = self.pre_attention_layer_norm(x)
        if isinstance(bias, SegmentBias):
            bias = bias if self.relpos_bias is None else self.relpos_bias.over_segments(bias)
            attended = self.attention.within_segments(normed, bias)
        else:
            positions = jnp.arange(x.shape[1], dtype=jnp.int32)
            bias = with_positions(self.relpos_bias, bias, positions, positions)
            attended = self.attention(normed, normed, bias, self.dropout)
        x = self.attention_sum(x, self.dropout(attended))
        x = self.mlp_sum(x, self.dropout(self.mlp(self.pre_mlp_layer_norm(x), self.dropout)))
        return x, x


class DecoderBlock(nn.Module):
    config: T5Config
    deterministic: bool = True

    def setup(self):
        cfg = self.config
        self.relpos_bias = own_positions(cfg, bidirectional=False)
        self.pre_self_attention_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.self_attention = Attention(cfg)
        self.self_attention_sum = ResidualSum()
        self.pre_cross_attention_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.encoder_decoder_attention = Attention(cfg)
        self.encoder_decoder_attention_sum = ResidualSum()
        self.pre_mlp_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.mlp = MLP(cfg)
        self.mlp_sum = ResidualSum()
        self.dropout = nn.Dropout(cfg.dropout_rate, deterministic=self.deterministic)

    def _cross_and_mlp(self, x, cross: KeysValues, cross_bias):
        normed = self.pre_cross_attention_layer_norm(x)
        attended = self.encoder_decoder_attention.attend(normed, cross, cross_bias, self.dropout)
        x = self.encoder_decoder_attention_sum(x, self.dropout(attended))
        fed = self.dropout(self.mlp(self.pre_mlp_layer_norm(x), self.dropout))
        return self.mlp_sum(x, fed)

    def __call__(self, x: Float[Array, "B L D"], encoded, bias, cross_bias):
        positions = jnp.arange(x.shape[1], dtype=jnp.int32)
        bias = with_positions(self.relpos_bias, bias, positions, positions)
        normed = self.pre_self_attention_layer_norm(x)
        attended = self.dropout(self.self_attention(normed, normed, bias, self.dropout))
        x = self.self_attention_sum(x, attended)
        x = self._cross_and_mlp(x, self.cross_keys_values(encoded), cross_bias)
        return x, x

    def cross_keys_values(self, encoded: Float[Array, "B T D"]) -> KeysValues:
        return self.encoder_decoder_attention.keys_values(encoded)

    def step(self, x: Float[Array, "B 1 D"], position, cache: KeysValues, bias, cross, cross_bias):
        """One position of incremental decoding; the cache is written at `position`."""
        keys = jnp.arange(cache.keys.shape[2], dtype=jnp.int32)
        bias = with_positions(self.relpos_bias, bias, position[None], keys)
        normed = self.pre_self_attention_layer_norm(x)
        new = self.self_attention.keys_values(normed)
        cache = KeysValues(
            *(
                jax.lax.dynamic_update_slice_in_dim(old, part, position, axis=2)
                for old, part in zip(cache, new, strict=True)
            )
        )
        attended = self.self_attention.attend(normed, cache, bias, self.dropout)
        x = self.self_attention_sum(x, attended)
        return self._cross_and_mlp(x, cross, cross_bias), cache
