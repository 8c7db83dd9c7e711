"""The T5 network (v1.0 and v1.1) as Flax modules, with T5X's parameter names, shapes and axes.

Sources: Raffel et al. 2020 (v1.0), Shazeer 2020 (the gated feed-forward layer of v1.1). The
parameter tree is the one of T5X's example network, so checkpoints need no renaming.

The network knows nothing of prompts but this: a token id of `vocab_size` or more is *virtual*, and
the caller's `embed` says what stands in its place. Masks, positions and the
decode cache treat virtual tokens like any others.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from mpt_jax.models.segment_attention import SegmentBias, is_fused, segment_blocks
from mpt_jax.models.t5_config import REMAT_POLICIES, T5Config
from mpt_jax.models.t5_layers import (
    DecoderBlock,
    Embed,
    Embedder,
    EncoderBlock,
    KeysValues,
    Linear,
    RelativePositionBias,
    RMSNorm,
    with_positions,
)

PAD_ID = 0
EOS_ID = 1
MASKED = -1e10  # Added to attention logits of positions that must not be seen; finite in bf16 too.


class Hidden(NamedTuple):
    """States behind each block, and last the normed output, of both stacks."""

    encoder: tuple[Float[Array, "B T D"], ...]
    decoder: tuple[Float[Array, "B L D"], ...]


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
        self.relpos_bias = (
            None if cfg.relpos_per_layer else RelativePositionBias(cfg, bidirectional)
        )
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
        masked = mask_bias(mask, self.config.dtype)
        bias = with_positions(self.relpos_bias, masked, positions, positions)
        return self._through_blocks(x, bias, context)

    def over_segments(self, x: Float[Array, "B T D"], bias: SegmentBias):
        """The encoder, where its attention is fused."""
        if self.relpos_bias is not None:
            bias = self.relpos_bias.over_segments(bias)
        return self._through_blocks(x, bias, ())

    def _through_blocks(self, x, bias, context):
        if not self.config.scan_layers:
            states = []
            x = self.dropout(x)
            for layer in self.layers:
                x, _ = layer(x, *_after_first(context, bias))
                states.append(x)
            return self.norm(x), tuple(states)
        x, stacked = self.layers(self.dropout(x), *_after_first(context, bias))
        return self.norm(x), tuple(stacked[i] for i in range(self.num_layers))


def _after_first(context: tuple, bias: Array | SegmentBias) -> tuple:
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
    """T5: `__call__` for training, `encode` / `cross_keys_values` / `decode_step` for decoding.

    Attributes:
        config: its shape, and how it runs.
        deterministic: False for dropout.
        mesh: over which rows and weights are laid; fused attention needs it, nothing else.
    """

    config: T5Config
    deterministic: bool = True
    mesh: Mesh | None = None

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
        embed: Embed | None = None,
        encoder_segment_ids: Int[Array, "B T"] | None = None,
        decoder_segment_ids: Int[Array, "B L"] | None = None,
        return_hidden: bool = False,
    ) -> Float[Array, "B L V"] | tuple[Float[Array, "B L V"], Hidden]:
        """Teacher-forced logits in float32.

        Args:
            encoder_input_tokens: ids; those >= V are virtual, 0 is padding.
            decoder_input_tokens: targets shifted right; 0 starts each segment.
            embed: maps ids and the words' embeddings to the encoder's input embeddings; needed
                where virtual ids occur.
            encoder_segment_ids: 1, 2, ... for packed rows, 0 for padding.
            decoder_segment_ids: likewise.
            return_hidden: also return the hidden states that distillation compares.
        """
        segments = _segments_or_padding(encoder_segment_ids, encoder_input_tokens)
        encoded, encoder_states = self._encode(
            encoder_input_tokens, segments, embed, packed=encoder_segment_ids is not None
        )
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

    def _encode(self, tokens, segments, embed, *, packed):
        cfg = self.config
        embedded = self.token_embedder(tokens, embed)
        dropping = cfg.dropout_rate > 0 and not self.deterministic
        if is_fused(cfg, self.mesh, *tokens.shape, packed=packed, dropping=dropping):
            bias = SegmentBias(segment_blocks(segments), None, self.mesh)
            return self.encoder.over_segments(embedded, bias)
        return self.encoder(embedded, padding_or_segment_mask(segments, segments))

    def encode(
        self, tokens: Int[Array, "B T"], *, embed: Embed | None = None
    ) -> Float[Array, "B T D"]:
        segments = _segments_or_padding(None, tokens)
        return self._encode(tokens, segments, embed, packed=False)[0]

    def logits(self, decoded: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """What `__call__` returns, from the decoder's normed output (the last of `Hidden.decoder`)."""
        return self.decoder.logits(decoded, self.token_embedder)

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
            self.logits_dense = Linear(cfg.vocab_size, ("embed", "vocab"), cfg)

    def logits(self, x: Float[Array, "B L D"], embedder: Embedder) -> Float[Array, "B L V"]:
        attend = embedder.attend if self.config.logits_via_embedding else self.logits_dense
        return attend(x).astype(jnp.float32)

    def teacher_forced(self, embedded, encoded, target_segments, segments, embedder):
        length = embedded.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        mask = causal & padding_or_segment_mask(target_segments, target_segments)
        cross_mask = padding_or_segment_mask(target_segments, segments)
        cross_bias = mask_bias(cross_mask, self.config.dtype)
        normed, states = self(embedded, mask, encoded, cross_bias)
        return self.logits(normed, embedder), (*states, normed)

    def step(self, embedded, position, cache, cross, cross_bias, embedder):
        length = cache[0].keys.shape[2]
        keys = jnp.arange(length, dtype=jnp.int32)
        masked = mask_bias((keys <= position)[None, None, None, :], self.config.dtype)
        bias = with_positions(self.relpos_bias, masked, position[None], keys)
        new_cache = []
        x = embedded
        for layer, layer_cache, layer_cross in zip(self.layers, cache, cross, strict=True):
            x, written = layer.step(x, position, layer_cache, bias, layer_cross, cross_bias)
            new_cache.append(written)
        return self.logits(self.norm(x), embedder)[:, 0], tuple(new_cache)


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
    plain = dataclasses.replace(config, attention="plain")  # the weights do not depend on it
    return dict(Transformer(plain).init(rng, ones, ones))


def init_params(config: T5Config, rng: Array) -> dict:
    return init_variables(config, rng)["params"]


def logical_axes(config: T5Config) -> dict:
    """The parameters' logical axis names, e.g. ("embed", "joined_kv"), from shapes alone."""
    return jax.tree.map(tuple, _axis_names(config))  # From PartitionSpec, which counts as a leaf.


@functools.lru_cache
def _axis_names(config: T5Config) -> dict:
    """Traces the network, as `parameter_shapes` does; not to be changed."""
    abstract = jax.eval_shape(lambda: init_variables(config, jax.random.key(0)))
    return flax.core.unfreeze(nn_partitioning.get_axis_names(abstract["params_axes"]))
