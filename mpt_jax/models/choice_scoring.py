"""Likelihood of fixed answers: classification without free decoding."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mpt_jax.models.decoding import Ids, encode_once, input_embeddings
from mpt_jax.models.edits import Edits, edited
from mpt_jax.models.t5 import PAD_ID, Embed, T5Config, Transformer


def score_choices(
    network: Transformer,
    params: dict,
    encoder_input_tokens: Int[Ids, "B T"],
    choices: Int[Ids, "C L"],
    embed: Embed | None = None,
    edits: Edits | None = None,
    *,
    length_normalised: bool = False,
) -> Float[Array, "B C"]:
    """log p(choice | input), summed over the choice's tokens.

    The encoder and the cross-attention's keys and values are computed once a row, the decoder once
    a row and choice; the logits of all B * C * L positions are held at a time.

    Args:
        network: the T5.
        params: the backbone.
        encoder_input_tokens: ids; those >= V are virtual.
        choices: the C answers, each with its EOS (else a prefix of another choice wins), 0-padded.
        embed: the bank's reader; needed where virtual ids occur.
        edits: of the layers' outputs.
        length_normalised: divide by the number of tokens, so that long answers do not suffer.
    """
    embedded = input_embeddings(network.config, params, encoder_input_tokens, embed)
    sums = _log_likelihoods(network.config, params, encoder_input_tokens, embedded, edits, choices)
    if not length_normalised:
        return sums
    lengths = jnp.sum(jnp.asarray(choices) != PAD_ID, axis=1).astype(jnp.float32)
    return sums / lengths[None, :]


@partial(jax.jit, static_argnames=("config",))
def _log_likelihoods(
    config: T5Config,
    params: dict,
    tokens: Int[Ids, "B T"],
    embedded: Float[Array, "B T D"] | None,
    edits: Edits | None,
    choices: Int[Ids, "C L"],
) -> Float[Array, "B C"]:
    with edited(edits):
        return _summed(config, params, tokens, embedded, choices)


def _summed(config, params, tokens, embedded, choices):
    network, variables, encoded = encode_once(config, params, tokens, embedded)
    batch = tokens.shape[0]

    def score(choice: Int[Array, "L"]) -> Float[Array, "B"]:
        shifted = jnp.concatenate([jnp.full((1,), PAD_ID, choice.dtype), choice[:-1]])
        rows = jnp.broadcast_to(shifted[None, :], (batch, choice.shape[0]))
        logits: Any = network.apply(variables, encoded, tokens != PAD_ID, rows, method="decode")
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.take_along_axis(log_probs, choice[None, :, None], axis=2)[:, :, 0]
        return jnp.sum(jnp.where((choice != PAD_ID)[None, :], chosen, 0.0), axis=1)

    # Under vmap, what does not depend on the choice (cross keys and values) stays computed once.
    return jax.vmap(score, out_axes=1)(jnp.asarray(choices))
