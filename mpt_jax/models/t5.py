"""The T5 network (v1.0 and v1.1) as Flax modules, with T5X's parameter names, shapes and axes.

Sources: Raffel et al. 2020 (v1.0), Shazeer 2020 (the gated feed-forward layer of v1.1). The
parameter tree is the one of T5X's example network, so checkpoints need no renaming.

The network knows nothing of prompts but this: a token id of `vocab_size` or more is *virtual*, and
its embedding comes from `read_virtual` instead of the vocabulary table. Masks, positions and the
decode cache treat virtual tokens like any others.

Layout: activations are `[B, T, D]`; inside attention heads come first (`[B, H, T, head_dim]`) and
projections are plain two-dimensional matrices: measured to be the fastest form on CPU.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jaxtyping import Array, Bool, Float, Int

from mpt_jax.models.relative_position import relative_position_buckets

param_with_axes = nn_partitioning.param_with_axes

PAD_ID = 0
EOS_ID = 1
MASKED = -1e10  # Added to attention logits of positions that must not be seen; finite in bf16 too.

ReadVirtual = Callable[[Int[Array, "B T"]], Float[Array, "B T D"]]


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shape of a T5 model.

    Attributes:
        vocab_size: V, rows of the embedding table; ids from V on are virtual tokens.
        emb_dim: D, model width.
        num_heads: H.
        head_dim: width of one head; H * head_dim need not be D.
        mlp_dim: width of the feed-forward layer.
        num_encoder_layers: blocks of the encoder.
        num_decoder_layers: blocks of the decoder.
        mlp_activations: ("relu",) for v1.0, ("gelu", "linear") for v1.1's gated layer.
        logits_via_embedding: True for v1.0: logits reuse the embedding table, scaled by 1/sqrt(D).
        relpos_num_buckets: buckets of the relative position bias.
        relpos_max_distance: distance from which on all positions share the last bucket.
        layer_norm_epsilon: added to the mean square in the RMS norm.
        dropout_rate: used only where the caller passes `deterministic=False`.
        dtype: of activations and matrix products, "float32" or "bfloat16".
        scan_layers: stack the blocks' parameters and run them with `lax.scan`: compile time then
            does not grow with depth (deep models); unrolled is faster on CPU.
        remat: "none", "dots" (keep matrix products) or "full" (keep block inputs only).
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    relpos_num_buckets: int = 32
    relpos_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    dtype: str = "float32"
    scan_layers: bool = False
    remat: str = "none"

    def __post_init__(self):
        unknown = [name for name in self.mlp_activations if name not in ACTIVATIONS]
        if unknown:
            raise ValueError(
                f"mlp_activations: got {unknown}, expected names among {sorted(ACTIVATIONS)}."
            )
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat: got {self.remat!r}, expected one of {list(REMAT_POLICIES)}.")


# T5 v1.1's "gelu" is the tanh approximation (Hugging Face calls it gelu_new).
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}

REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Hidden(NamedTuple):
    """States behind each block, and last the normed output, of both stacks."""

    encoder: tuple[Float[Array, "B T D"], ...]
    decoder: tuple[Float[Array, "B L D"], ...]


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
    dtype: str
    kernel_init: Callable = fan_in()

    @nn.compact
    def __call__(self, x: Float[Array, "B T In"]) -> Float[Array, "B T Out"]:
        shape = (x.shape[-1], self.features)
        kernel = param_with_axes("kernel", self.kernel_init, shape, jnp.float32, axes=self.axes)
        return jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))


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


class Embedder(nn.Module):
    """The vocabulary table, and the one place where virtual tokens are told from words."""

    config: T5Config

    def setup(self):
        cfg = self.config
        self.embedding = param_with_axes(
            "embedding",
            nn.initializers.normal(stddev=1.0),
            (cfg.vocab_size, cfg.emb_dim),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(
        self, ids: Int[Array, "B T"], read_virtual: ReadVirtual | None = None
    ) -> Float[Array, "B T D"]:
        size = self.config.vocab_size
        table = self.embedding.astype(self.config.dtype)
        words = jnp.take(table, jnp.clip(ids, 0, size - 1), axis=0)
        if read_virtual is None:
            return words
        prompts = read_virtual(jnp.maximum(ids - size, 0)).astype(self.config.dtype)
        return jnp.where((ids >= size)[..., None], prompts, words)

    def attend(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Logits from the tied table (v1.0), scaled by 1/sqrt(D) as T5 was trained."""
        table = self.embedding.astype(self.config.dtype)
        return jnp.dot(x / np.sqrt(x.shape[-1]).astype(x.dtype), table.T)


class RelativePositionBias(nn.Module):
    """One learned bias per head and distance bucket, shared by the layers of a stack."""

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(self, queries: Int[Array, "Q"], keys: Int[Array, "S"]) -> Float[Array, "1 H Q S"]:
        cfg = self.config
        table = param_with_axes(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (cfg.num_heads, cfg.relpos_num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )
        buckets = relative_position_buckets(
            keys[None, :] - queries[:, None],
            bidirectional=self.bidirectional,
            num_buckets=cfg.relpos_num_buckets,
            max_distance=cfg.relpos_max_distance,
        )
        return jnp.take(table, buckets, axis=1)[None].astype(cfg.dtype)


class Attention(nn.Module):
    """Multi-head attention without bias; T5 folds the 1/sqrt(head_dim) into the query's start."""

    config: T5Config

    def setup(self):
        cfg = self.config
        joined = cfg.num_heads * cfg.head_dim
        inward = ("embed", "joined_kv")
        query_init = fan_in(1.0 / cfg.head_dim, "normal")
        self.query = Linear(joined, inward, cfg.dtype, query_init)
        self.key = Linear(joined, inward, cfg.dtype, fan_in(1.0, "normal"))
        self.value = Linear(joined, inward, cfg.dtype, fan_in(1.0, "normal"))
        self.out = Linear(cfg.emb_dim, ("joined_kv", "embed"), cfg.dtype, fan_in(1.0, "normal"))

    def _heads_first(self, x: Float[Array, "B T J"]) -> Float[Array, "B H T head_dim"]:
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
            branch = Linear(cfg.mlp_dim, ("embed", "mlp"), cfg.dtype, name=name)(x)
            branches.append(ACTIVATIONS[activation](branch))
        hidden = functools.reduce(operator.mul, branches)
        return Linear(cfg.emb_dim, ("mlp", "embed"), cfg.dtype, name="wo")(drop(hidden))


class EncoderBlock(nn.Module):
    config: T5Config
    deterministic: bool = True

    def setup(self):
        cfg = self.config
        self.pre_attention_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.attention = Attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.mlp = MLP(cfg)
        self.dropout = nn.Dropout(cfg.dropout_rate, deterministic=self.deterministic)

    def __call__(self, x: Float[Array, "B T D"], bias: Float[Array, "_ H T T"]):
        normed = self.pre_attention_layer_norm(x)
        x = x + self.dropout(self.attention(normed, normed, bias, self.dropout))
        x = x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x), self.dropout))
        return x, x


class DecoderBlock(nn.Module):
    config: T5Config
    deterministic: bool = True

    def setup(self):
        cfg = self.config
        self.pre_self_attention_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.self_attention = Attention(cfg)
        self.pre_cross_attention_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.encoder_decoder_attention = Attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg.layer_norm_epsilon, cfg.dtype)
        self.mlp = MLP(cfg)
        self.dropout = nn.Dropout(cfg.dropout_rate, deterministic=self.deterministic)

    def _cross_and_mlp(self, x, cross: KeysValues, cross_bias):
        normed = self.pre_cross_attention_layer_norm(x)
        attended = self.encoder_decoder_attention.attend(normed, cross, cross_bias, self.dropout)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x), self.dropout))

    def __call__(self, x: Float[Array, "B L D"], encoded, bias, cross_bias):
        normed = self.pre_self_attention_layer_norm(x)
        x = x + self.dropout(self.self_attention(normed, normed, bias, self.dropout))
        x = self._cross_and_mlp(x, self.cross_keys_values(encoded), cross_bias)
        return x, x

    def cross_keys_values(self, encoded: Float[Array, "B T D"]) -> KeysValues:
        return self.encoder_decoder_attention.keys_values(encoded)

    def step(self, x: Float[Array, "B 1 D"], position, cache: KeysValues, bias, cross, cross_bias):
        """One position of incremental decoding; the cache is written at `position`."""
        normed = self.pre_self_attention_layer_norm(x)
        new = self.self_attention.keys_values(normed)
        cache = KeysValues(
            *(
                jax.lax.dynamic_update_slice_in_dim(old, part, position, axis=2)
                for old, part in zip(cache, new, strict=True)
            )
        )
        x = x + self.self_attention.attend(normed, cache, bias, self.dropout)
        return self._cross_and_mlp(x, cross, cross_bias), cache


class Stack(nn.Module):
    """The blocks of an encoder or a decoder, unrolled (`layers_i`) or scanned (`layers`)."""

    config: T5Config
    block: type[nn.Module]
    num_layers: int
    norm_name: str
    deterministic: bool = True

    def setup(self):
        cfg = self.config
        bidirectional = self.block is EncoderBlock
        self.relpos_bias = RelativePositionBias(cfg, bidirectional)
        block: Any = self.block
        self.layers: Any  # one scanned module, or a list of blocks
        if cfg.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[cfg.remat], prevent_cse=False)
        if cfg.scan_layers:
            scanned = nn_partitioning.scan_with_axes(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,
                length=self.num_layers,
                axis_name="layers",
                axes_collections=("params",),
            )
            self.layers = scanned(cfg, self.deterministic)
        else:
            self.layers = [block(cfg, self.deterministic) for _ in range(self.num_layers)]
        setattr(self, self.norm_name, RMSNorm(cfg.layer_norm_epsilon, cfg.dtype))
        self.dropout = nn.Dropout(cfg.dropout_rate, deterministic=self.deterministic)

    def norm(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.dropout(getattr(self, self.norm_name)(x))

    def __call__(self, x: Float[Array, "B T D"], mask, *context):
        """`mask` [B|1, 1, T, T] marks visible positions; `context` goes to every block."""
        positions = jnp.arange(x.shape[1], dtype=jnp.int32)
        bias = self.relpos_bias(positions, positions) + mask_bias(mask, self.config.dtype)
        if not self.config.scan_layers:
            states = []
            x = self.dropout(x)
            for layer in self.layers:
                x, _ = layer(x, *_after_first(context, bias))
                states.append(x)
            return self.norm(x), tuple(states)
        x, stacked = self.layers(self.dropout(x), *_after_first(context, bias))
        return self.norm(x), tuple(stacked[i] for i in range(self.num_layers))


def _after_first(context: tuple, bias: Array) -> tuple:
    """Block arguments after x: the encoder takes (bias), the decoder (encoded, bias, cross)."""
    return (bias,) if not context else (context[0], bias, *context[1:])


def mask_bias(mask: Bool[Array, "_ 1 Q S"], dtype: str) -> Float[Array, "_ 1 Q S"]:
    return jnp.where(mask, 0.0, MASKED).astype(dtype)


def padding_or_segment_mask(
    query_segments: Int[Array, "B Q"], key_segments: Int[Array, "B S"]
) -> Bool[Array, "B 1 Q S"]:
    """True where key and query are of one segment; segment 0 is padding and never seen."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments > 0)[:, None, :])[:, None]


class Transformer(nn.Module):
    """T5: `__call__` for training, `encode` / `cross_keys_values` / `decode_step` for decoding."""

    config: T5Config
    deterministic: bool = True

    def setup(self):
        cfg = self.config
        self.token_embedder = Embedder(cfg)
        self.encoder = Stack(
            cfg, EncoderBlock, cfg.num_encoder_layers, "encoder_norm", self.deterministic
        )
        self.decoder = Decoder(
            cfg, DecoderBlock, cfg.num_decoder_layers, "decoder_norm", self.deterministic
        )

    def __call__(
        self,
        encoder_input_tokens: Int[Array, "B T"],
        decoder_input_tokens: Int[Array, "B L"],
        *,
        read_virtual: ReadVirtual | None = None,
        encoder_segment_ids: Int[Array, "B T"] | None = None,
        decoder_segment_ids: Int[Array, "B L"] | None = None,
        return_hidden: bool = False,
    ) -> Float[Array, "B L V"] | tuple[Float[Array, "B L V"], Hidden]:
        """Teacher-forced logits in float32.

        Args:
            encoder_input_tokens: ids; those >= V are virtual, 0 is padding.
            decoder_input_tokens: targets shifted right; 0 starts each segment.
            read_virtual: maps (id - V) to embeddings; needed where virtual ids occur.
            encoder_segment_ids: 1, 2, ... for packed rows, 0 for padding.
            decoder_segment_ids: likewise.
            return_hidden: also return the hidden states that distillation compares.
        """
        segments = _segments_or_padding(encoder_segment_ids, encoder_input_tokens)
        encoded, encoder_states = self._encode(encoder_input_tokens, segments, read_virtual)
        target_segments = decoder_segment_ids
        if target_segments is None:  # Unpacked rows: padding behind a target harms nobody.
            target_segments = jnp.ones_like(decoder_input_tokens)
            segments = (segments > 0).astype(jnp.int32)
        logits, decoder_states = self.decoder.teacher_forced(
            self.token_embedder(decoder_input_tokens),
            encoded,
            target_segments,
            segments,
            self.token_embedder,
        )
        if not return_hidden:
            return logits
        return logits, Hidden((*encoder_states, encoded), decoder_states)

    def _encode(self, tokens, segments, read_virtual):
        embedded = self.token_embedder(tokens, read_virtual)
        return self.encoder(embedded, padding_or_segment_mask(segments, segments))

    def encode(
        self, tokens: Int[Array, "B T"], *, read_virtual: ReadVirtual | None = None
    ) -> Float[Array, "B T D"]:
        return self._encode(tokens, (tokens != PAD_ID).astype(jnp.int32), read_virtual)[0]

    def cross_keys_values(self, encoded: Float[Array, "B T D"]) -> tuple[KeysValues, ...]:
        """Keys and values of the encoder's output for every decoder layer: computed once."""
        return tuple(layer.cross_keys_values(encoded) for layer in self.decoder.layers)

    def decode(
        self,
        encoded: Float[Array, "B T D"],
        encoder_mask: Bool[Array, "B T"],
        decoder_input_tokens: Int[Array, "B L"],
    ) -> Float[Array, "B L V"]:
        """Teacher-forced logits on the encoder's output: several targets share one encoding."""
        return self.decoder.teacher_forced(
            self.token_embedder(decoder_input_tokens),
            encoded,
            jnp.ones_like(decoder_input_tokens),
            encoder_mask.astype(jnp.int32),
            self.token_embedder,
        )[0]

    def decode_step(
        self,
        ids: Int[Array, "B"],
        position: Int[Array, ""],
        cache: tuple[KeysValues, ...],
        cross: tuple[KeysValues, ...],
        encoder_mask: Bool[Array, "B T"],
    ) -> tuple[Float[Array, "B V"], tuple[KeysValues, ...]]:
        """Logits behind `ids`, which stand at `position`, and the cache with them written."""
        return self.decoder.step(
            self.token_embedder(ids[:, None]),
            position,
            cache,
            cross,
            mask_bias(encoder_mask[:, None, None, :], self.config.dtype),
            self.token_embedder,
        )


class Decoder(Stack):
    """The decoder's blocks with its two ways to run and the output layer."""

    def setup(self):
        super().setup()
        cfg = self.config
        if not cfg.logits_via_embedding:
            self.logits_dense = Linear(cfg.vocab_size, ("embed", "vocab"), cfg.dtype)

    def _logits(self, x: Float[Array, "B L D"], embedder: Embedder) -> Float[Array, "B L V"]:
        attend = embedder.attend if self.config.logits_via_embedding else self.logits_dense
        return attend(x).astype(jnp.float32)

    def teacher_forced(self, embedded, encoded, target_segments, segments, embedder):
        length = embedded.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        mask = causal & padding_or_segment_mask(target_segments, target_segments)
        cross_mask = padding_or_segment_mask(target_segments, segments)
        cross_bias = mask_bias(cross_mask, self.config.dtype)
        normed, states = self(embedded, mask, encoded, cross_bias)
        return self._logits(normed, embedder), (*states, normed)

    def step(self, embedded, position, cache, cross, cross_bias, embedder):
        length = cache[0].keys.shape[2]
        keys = jnp.arange(length, dtype=jnp.int32)
        bias = self.relpos_bias(position[None], keys)
        bias = bias + mask_bias((keys <= position)[None, None, None, :], self.config.dtype)
        new_cache = []
        x = embedded
        for layer, layer_cache, layer_cross in zip(self.layers, cache, cross, strict=True):
            x, written = layer.step(x, position, layer_cache, bias, layer_cross, cross_bias)
            new_cache.append(written)
        return self._logits(self.norm(x), embedder)[:, 0], tuple(new_cache)


def _segments_or_padding(segment_ids, tokens):
    return (tokens != PAD_ID).astype(jnp.int32) if segment_ids is None else segment_ids


def init_cache(config: T5Config, batch: int, length: int) -> tuple[KeysValues, ...]:
    """Empty self-attention caches for `length` decoded positions, one for each decoder layer."""
    shape = (batch, config.num_heads, length, config.head_dim)
    empty = jnp.zeros(shape, config.dtype)
    return tuple(KeysValues(empty, empty) for _ in range(config.num_decoder_layers))


def init_variables(config: T5Config, rng: Array) -> dict:
    """`params` and `params_axes` with fresh weights (T5X's initial distributions)."""
    ones = jnp.ones((1, 2), jnp.int32)
    return dict(Transformer(config).init(rng, ones, ones))


def init_params(config: T5Config, rng: Array) -> dict:
    return init_variables(config, rng)["params"]


def logical_axes(config: T5Config) -> dict:
    """The parameters' logical axis names, e.g. ("embed", "joined_kv"), from shapes alone."""
    abstract = jax.eval_shape(lambda: init_variables(config, jax.random.key(0)))
    axes = flax.core.unfreeze(nn_partitioning.get_axis_names(abstract["params_axes"]))
    return jax.tree.map(tuple, axes)  # From PartitionSpec, which counts as a leaf.
