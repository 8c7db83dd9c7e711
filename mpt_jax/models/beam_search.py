"""Beam search with a key/value cache, by the rules of T5X or of transformers.

Of the 2 * beams best continuations, the best that do not end stay open. T5X takes all that end as
finished, and an open one wins only where none is. transformers (`early_stopping="never"`, the exact
form) takes those that end among the first `beams`, and at `max_length` the open ones compete too,
cut off as they are. A row stops once no open beam can still overtake the worst finished one.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mpt_jax.models.decoding import Cache, Ids, input_embeddings, start_decoding
from mpt_jax.models.edits import Edits, edited
from mpt_jax.models.t5 import EOS_ID, PAD_ID, Embed, T5Config, Transformer


class Rules(NamedTuple):
    """Which hypotheses are finished, and how they are compared.

    Attributes:
        penalty: of (length, alpha): what the sum of log-probabilities of a finished beam is divided
            by; `length` counts EOS.
        ends_behind: an end counts behind the first `beams` continuations too.
        cut_compete: at `max_length`, open hypotheses compete with finished ones.
    """

    penalty: Callable[..., Array]
    ends_behind: bool
    cut_compete: bool


RULES = {
    # Wu et al. 2016, equation 14
    "t5x": Rules(lambda length, alpha: ((5.0 + length) / 6.0) ** alpha, True, False),
    "hf": Rules(lambda length, alpha: length**alpha, False, True),
}
HOPELESS = -1e9


def beam_decode(
    network: Transformer,
    params: dict,
    encoder_input_tokens: Int[Ids, "B T"],
    max_length: int,
    embed: Embed | None = None,
    edits: Edits | None = None,
    *,
    beams: int = 4,
    alpha: float = 0.6,
    rules: str = "t5x",
) -> Int[Array, "B L"]:
    """The best of the finished beams: L = `max_length` ids, EOS kept, 0 behind it.

    Args:
        network: the T5.
        params: the backbone.
        encoder_input_tokens: ids; those >= V are virtual.
        max_length: L.
        embed: the bank's reader; needed where virtual ids occur.
        edits: of the layers' outputs.
        beams: hypotheses kept for each row.
        alpha: strength of the length penalty, >= 0; 0 compares plain sums of log-probabilities.
        rules: "t5x" or "hf"; T5X divides by ((5 + length) / 6)^alpha, transformers by length^alpha.
    """
    if rules not in RULES:
        raise ValueError(f"rules: got {rules!r}, expected one of {list(RULES)}.")
    if alpha < 0:
        raise ValueError(f"alpha: got {alpha}, expected >= 0.")
    if not 1 <= beams <= network.config.vocab_size // 2:
        raise ValueError(
            f"beams: got {beams}, expected 1 to half of the {network.config.vocab_size} tokens."
        )
    embedded = input_embeddings(network.config, params, encoder_input_tokens, embed)
    return _search(
        network.config,
        params,
        encoder_input_tokens,
        embedded,
        edits,
        max_length,
        beams,
        alpha,
        RULES[rules],
    )


class _Beams(NamedTuple):
    """Hypotheses of each row, best first; `N` of them."""

    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]

    def best(self, count: int) -> tuple["_Beams", Int[Array, "B count"]]:
        scores, chosen = jax.lax.top_k(self.scores, count)
        return _Beams(_pick(self.tokens, chosen), scores), chosen


class _State(NamedTuple):
    position: Int[Array, ""]
    open: _Beams
    finished: _Beams
    cache: Cache


def _pick(x: Array, chosen: Int[Array, "B N"]) -> Array:
    """x [B, M, ...] at `chosen` [B, N] of the M: [B, N, ...]."""
    return jax.vmap(lambda row, indices: row[indices])(x, chosen)


@partial(jax.jit, static_argnames=("config", "max_length", "beams", "alpha", "rules"))
def _search(
    config: T5Config,
    params: dict,
    encoder_tokens: Int[Ids, "B T"],
    embedded: Float[Array, "B T D"] | None,
    edits: Edits | None,
    max_length: int,
    beams: int,
    alpha: float,
    rules: Rules,
) -> Int[Array, "B L"]:
    with edited(edits):
        return _best(config, params, encoder_tokens, embedded, max_length, beams, alpha, rules)


def _best(config, params, encoder_tokens, embedded, max_length, beams, alpha, rules):
    step, cache = start_decoding(config, params, encoder_tokens, embedded, max_length, beams)
    batch = encoder_tokens.shape[0]

    def penalty(length: Int[Array, ""]) -> Float[Array, ""]:
        return rules.penalty(length.astype(jnp.float32), alpha)

    longest = penalty(jnp.asarray(max_length, jnp.int32))

    def unfinished(state: _State) -> Bool[Array, ""]:
        hoped = state.open.scores[:, 0] / longest
        return (state.position < max_length) & jnp.any(hoped > state.finished.scores[:, -1])

    def advance(state: _State) -> _State:
        position = state.position
        last = jax.lax.dynamic_index_in_dim(
            state.open.tokens, jnp.maximum(position - 1, 0), axis=2, keepdims=False
        )
        last = jnp.where(position == 0, PAD_ID, last)
        logits, cache = step(last.reshape(-1), position, state.cache)
        log_probs = jax.nn.log_softmax(logits, axis=-1).reshape(batch, beams, -1)
        sums = (state.open.scores[:, :, None] + log_probs).reshape(batch, -1)
        scores, flat = jax.lax.top_k(sums, 2 * beams)
        parents, chosen = jnp.divmod(flat, config.vocab_size)
        tokens = jax.lax.dynamic_update_slice_in_dim(
            _pick(state.open.tokens, parents), chosen[:, :, None], position, axis=2
        )

        ended = chosen == EOS_ID
        if rules.cut_compete:
            ended = ended | (position + 1 == max_length)
        still_open, kept = _Beams(tokens, jnp.where(ended, HOPELESS, scores)).best(beams)
        counts = ended
        if not rules.ends_behind:
            counts = ended & (jnp.arange(2 * beams, dtype=jnp.int32) < beams)[None, :]
        final = jnp.where(counts, scores / penalty(position + 1), HOPELESS)
        finished, _ = _Beams(
            jnp.concatenate([state.finished.tokens, tokens], axis=1),
            jnp.concatenate([state.finished.scores, final], axis=1),
        ).best(beams)

        origin = _pick(parents, kept) + beams * jnp.arange(batch, dtype=jnp.int32)[:, None]
        cache = jax.tree.map(lambda x: x[origin.reshape(-1)], cache)
        return _State(position + 1, still_open, finished, cache)

    empty = jnp.full((batch, beams, max_length), PAD_ID, jnp.int32)
    none = jnp.full((batch, beams), HOPELESS, jnp.float32)
    start = _State(
        position=jnp.zeros((), jnp.int32),
        open=_Beams(empty, none.at[:, 0].set(0.0)),  # All beams are equal at first: keep one.
        finished=_Beams(empty, none),
        cache=cache,
    )
    end = jax.lax.while_loop(unfinished, advance, start)
    none_finished = end.finished.scores[:, :1] <= HOPELESS
    return jnp.where(none_finished, end.open.tokens[:, 0], end.finished.tokens[:, 0])
