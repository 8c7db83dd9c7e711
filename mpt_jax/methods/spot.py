"""SPoT's choice of a source prompt (Vu et al. 2022): which trained prompt should a target task start from.

Either by how each source prompt does on the target's training examples, untrained (cheap: one
evaluation for each source), or by similarity to a prompt trained a little on the target. The
chosen prompt, or a mean of all weighted by either, then starts
:class:`~mpt_jax.methods.prompt_tuning.PromptTuning`.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float

from mpt_jax.errors import UserError
from mpt_jax.methods.similarity import cosine_of_mean_slots


def rank_sources(
    values: Mapping[str, float], *, higher_is_better: bool
) -> tuple[tuple[str, float], ...]:
    """(source task, value), best first; equal values keep the mapping's order.

    Args:
      values: one number for each source prompt on the target's training examples: its loss
        (``higher_is_better=False``) or its score (True).

    Raises:
      ValueError: without any source, or where a value is not finite (named).
    """
    if not values:
        raise ValueError("No source prompt to choose from.")
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise ValueError(
            f"The source prompts {bad} have values that are not finite; evaluate them again or leave "
            "them out."
        )
    return tuple(sorted(values.items(), key=lambda item: -item[1] if higher_is_better else item[1]))


def best_source(values: Mapping[str, float], *, higher_is_better: bool) -> str:
    """The source task whose prompt has the best value; see :func:`rank_sources`."""
    return rank_sources(values, higher_is_better=higher_is_better)[0][0]


def similarities(
    target: Float[Array | np.ndarray, "P D"],
    sources: Mapping[str, Float[Array | np.ndarray, "p D"]],
) -> dict[str, float]:
    """Cosine of the target prompt's mean vector to that of each source prompt (SPoT's task similarity)."""
    matrix = cosine_of_mean_slots([target, *sources.values()])
    return {name: float(value) for name, value in zip(sources, matrix[0, 1:], strict=True)}


def most_similar_source(
    target: Float[Array | np.ndarray, "P D"],
    sources: Mapping[str, Float[Array | np.ndarray, "p D"]],
) -> str:
    """The source task whose prompt is most similar to ``target``."""
    return best_source(similarities(target, sources), higher_is_better=True)


def similarity_weights(cosines: Mapping[str, float]) -> dict[str, float]:
    """Weights of all sources in proportion to their similarity; those below 0 have none.

    ATTEMPT's program averages sources likewise, but sums the cosines of slot to slot and divides by the
    sum of all as it is: there dissimilar sources are subtracted, and a sum near 0 makes weights huge.

    Args:
      cosines: of :func:`similarities`.

    Raises:
      UserError: no source has a similarity above 0.
    """
    rank_sources(cosines, higher_is_better=True)  # for its checks
    positive = {name: max(value, 0.0) for name, value in cosines.items()}
    total = sum(positive.values())
    if total == 0:
        raise UserError(
            f"No source prompt is similar to the target's: the cosines are {dict(cosines)}, and weights "
            "need one above 0. Weigh the sources by trial (without TARGET_PROMPTS), or start otherwise."
        )
    return {name: value / total for name, value in positive.items()}


def trial_weights(losses: Mapping[str, float]) -> dict[str, float]:
    """softmax(-loss): the likelihood of a target token under each source, normalised.

    Args:
      losses: of each source prompt on the target's training examples.
    """
    least = rank_sources(losses, higher_is_better=False)[0][1]
    likelihoods = {name: math.exp(least - value) for name, value in losses.items()}
    total = sum(likelihoods.values())
    return {name: value / total for name, value in likelihoods.items()}
