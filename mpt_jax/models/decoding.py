"""Greedy decoding and sampling with a key/value cache.

The encoder and the cross-attention's keys and values are computed once; a compiled loop then writes
one token at a time and stops as soon as every row has ended. Virtual tokens in the encoder's input
are put in by `embed` before the compiled part, so that a changed prompt compiles nothing
anew. Networks with scanned layers decode through their unstacked parameters.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mpt_jax.models.edits import Edits, edited
from mpt_jax.models.layer_stacking import unstack_layers
from mpt_jax.models.t5 import (
    EOS_ID,
    PAD_ID,
    Embed,
    KeysValues,
    T5Config,
    Transformer,
    init_cache,
)
from mpt_jax.models.weight_precision import SCALE, rows

Cache = tuple[KeysValues, ...]
Ids = Array | np.ndarray
Step = Callable[[Int[Array, "B"], Int[Array, ""], Cache], tuple[Float[Array, "B V"], Cache]]
Choose = Callable[[Float[Array, "B V"], Array], Int[Array, "B"]]
NEVER = -1e30  # The logit of a token that sampling leaves out.


def greedy_decode(
    network: Transformer,
    params: dict,
    encoder_input_tokens: Int[Ids, "B T"],
    max_length: int,
    embed: Embed | None = None,
    edits: Edits | None = None,
) -> Int[Array, "B L"]:
    """The most probable token at each position: L = `max_length` ids, EOS kept, 0 behind it.

    Args:
        network: the T5.
        params: its weights.
        encoder_input_tokens: ids; those >= V are virtual.
        max_length: L.
        embed: the bank's reader; needed where virtual ids occur.
        edits: of the layers' outputs.
    """
    embedded = input_embeddings(network.config, params, encoder_input_tokens, embed)
    unused = jax.random.key(0)
    return _decode(
        network.config, params, encoder_input_tokens, embedded, edits, unused, max_length,
        _most_probable,
    )  # fmt: skip


def sample_decode(
    network: Transformer,
    params: dict,
    encoder_input_tokens: Int[Ids, "B T"],
    max_length: int,
    rng: Array,
    embed: Embed | None = None,
    edits: Edits | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Int[Array, "B L"]:
    """Tokens drawn at random; the settings apply in transformers' order.

    Args:
        network: as for `greedy_decode`, like all that is not explained here.
        encoder_input_tokens: one row is one sample; repeat rows to draw several.
        rng: a key; the same key gives the same tokens.
        temperature: divides the logits.
        top_k: draw among the k most probable tokens only.
        top_p: draw among the fewest most probable tokens that together reach this probability
            (Holtzman et al. 2020).
    """
    if temperature <= 0:
        raise ValueError(f"temperature: got {temperature}, expected > 0; or use greedy_decode.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}, expected a probability in (0, 1].")
    if top_k is not None and not 1 <= top_k <= network.config.vocab_size:
        raise ValueError(f"top_k: got {top_k}, expected 1 to {network.config.vocab_size} or None.")
    embedded = input_embeddings(network.config, params, encoder_input_tokens, embed)
    draw = Draw(temperature, top_k, top_p)
    return _decode(
        network.config, params, encoder_input_tokens, embedded, edits, rng, max_length, draw
    )


def _most_probable(logits: Float[Array, "B V"], rng: Array) -> Int[Array, "B"]:
    del rng
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Draw:
    """Draws one token a row; the attributes are `sample_decode`'s arguments."""

    temperature: float
    top_k: int | None
    top_p: float

    def __call__(self, logits: Float[Array, "B V"], rng: Array) -> Int[Array, "B"]:
        logits = logits / self.temperature
        if self.top_k is not None:
            least = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
            logits = jnp.where(logits >= least, logits, NEVER)
        if self.top_p < 1:
            descending = -jnp.sort(-logits, axis=-1)
            probabilities = jax.nn.softmax(descending, axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            least = jnp.min(jnp.where(before < self.top_p, descending, jnp.inf), axis=-1)
            logits = jnp.where(logits >= least[:, None], logits, NEVER)
        return jax.random.categorical(rng, logits, axis=-1).astype(jnp.int32)


def input_embeddings(
    config: T5Config, params: dict, tokens: Int[Ids, "B T"], embed: Embed | None
) -> Float[Array, "B T D"] | None:
    """What `embed` gives for `tokens`: an array can enter compiled code, a reader cannot."""
    if embed is None:
        return None
    ids = jnp.asarray(tokens)
    table = params["token_embedder"]
    words = jnp.clip(ids, 0, config.vocab_size - 1)
    return embed(ids, rows(table["embedding"], table.get(f"embedding{SCALE}"), words, config.dtype))


def encode_once(
    config: T5Config,
    params: dict,
    tokens: Int[Ids, "B T"],
    embedded: Float[Array, "B T D"] | None,
) -> tuple[Transformer, dict, Float[Array, "B T D"]]:
    """An unrolled network without dropout, its variables, and the encoder's output."""
    unrolled = dataclasses.replace(config, scan_layers=False, remat="none", attention="plain")
    network = Transformer(unrolled)
    variables = {"params": unstack_layers(params)}
    embed = None if embedded is None else lambda ids, words: embedded
    encoded: Any = network.apply(variables, tokens, embed=embed, method="encode")
    return network, variables, encoded


def start_decoding(
    config: T5Config,
    params: dict,
    tokens: Int[Ids, "B T"],
    embedded: Float[Array, "B T D"] | None,
    length: int,
    copies: int = 1,
) -> tuple[Step, Cache]:
    """A step function for `copies` decoded rows per input row (neighbours), and its first cache."""
    network, variables, encoded = encode_once(config, params, tokens, embedded)
    cross = network.apply(variables, encoded, method="cross_keys_values")
    cross, visible = jax.tree.map(
        lambda x: jnp.repeat(x, copies, axis=0), (cross, jnp.asarray(tokens) != PAD_ID)
    )

    def step(ids: Int[Array, "B"], position: Int[Array, ""], cache: Cache):
        return network.apply(variables, ids, position, cache, cross, visible, method="decode_step")

    return step, init_cache(config, tokens.shape[0] * copies, length)


class _State(NamedTuple):
    position: Int[Array, ""]
    last: Int[Array, "B"]
    ended: Bool[Array, "B"]
    written: Int[Array, "B L"]
    cache: Cache
    rng: Array


@partial(jax.jit, static_argnames=("config", "max_length", "choose"))
def _decode(
    config: T5Config,
    params: dict,
    tokens: Int[Ids, "B T"],
    embedded: Float[Array, "B T D"] | None,
    edits: Edits | None,
    rng: Array,
    max_length: int,
    choose: Choose,
) -> Int[Array, "B L"]:
    with edited(edits):
        return _write(config, params, tokens, embedded, rng, max_length, choose)


def _write(config, params, tokens, embedded, rng, max_length, choose):
    step, cache = start_decoding(config, params, tokens, embedded, max_length)
    batch = tokens.shape[0]

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.position < max_length) & ~jnp.all(state.ended)

    def advance(state: _State) -> _State:
        logits, cache = step(state.last, state.position, state.cache)
        rng, key = jax.random.split(state.rng)
        chosen = jnp.where(state.ended, PAD_ID, choose(logits, key))
        written = jax.lax.dynamic_update_slice_in_dim(
            state.written, chosen[:, None], state.position, axis=1
        )
        ended = state.ended | (chosen == EOS_ID)
        return _State(state.position + 1, chosen, ended, written, cache, rng)

    start = _State(
        position=jnp.zeros((), jnp.int32),
        last=jnp.full((batch,), PAD_ID, jnp.int32),
        ended=jnp.zeros((batch,), bool),
        written=jnp.full((batch, max_length), PAD_ID, jnp.int32),
        cache=cache,
        rng=rng,
    )
    return jax.lax.while_loop(unfinished, advance, start).written
