"""Sums of prompts: a new plain prompt from what others learned, without training.

What training adds to a prompt's start is its *task prompt vector* (Belanec et al. 2025). Prompts that
were trained from one start, the base, are combined by adding weighted vectors to it:

    base + sum_i weight_i * (prompt_i - base)

A negative weight takes a task away. Where the weights sum to 1 the base cancels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from mpt_jax.errors import UserError

SUM_TOLERANCE = 1e-6  # three thirds, written with seven digits, are 1


def base_cancels(weights: Sequence[float]) -> bool:
    """Whether prompts with these weights need no base: they sum to 1."""
    return abs(sum(weights) - 1) <= SUM_TOLERANCE


def combine(
    prompts: Sequence[Float[Array | np.ndarray, "_ _"]],
    weights: Sequence[float],
    base: Float[Array | np.ndarray, "_ _"] | None = None,
) -> Float[np.ndarray, "P D"]:
    """The weighted sum of prompts around a base, computed in fp64, as fp32.

    Args:
      prompts: of one shape [P, D]. weights: one for each, of any sign.
      base: what the prompts were trained from; None where the weights sum to 1.

    Raises:
      UserError: nothing to combine, shapes that differ, weights or a sum that are not finite, or no
        base where one is needed.
    """
    if not prompts or len(prompts) != len(weights):
        raise UserError(
            f"To combine prompts takes one or more, with a weight for each; got {len(prompts)} prompts "
            f"and {len(weights)} weights."
        )
    if not np.all(np.isfinite(weights)):
        raise UserError(f"Weights have to be finite, got {list(weights)}.")
    shapes = [np.shape(prompt) for prompt in prompts] + ([] if base is None else [np.shape(base)])
    if len(set(shapes)) != 1:
        where = "" if base is None else " (the last is the base's)"
        raise UserError(
            f"Only prompts of one shape (length, width) can be combined, got {shapes}{where}."
        )
    if base is None and not base_cancels(weights):
        raise UserError(
            f"The weights sum to {sum(weights):g}. Without a base they have to sum to 1; otherwise give "
            "the prompt that these were trained from."
        )
    zero = np.zeros(shapes[0]) if base is None else np.asarray(base, np.float64)
    total = zero.copy()
    for prompt, weight in zip(prompts, weights, strict=True):
        total += weight * (np.asarray(prompt, np.float64) - zero)
    with np.errstate(over="ignore"):
        combined = total.astype(np.float32)
    if not np.all(np.isfinite(combined)):
        raise UserError(
            "The combined prompt has numbers that are not finite in fp32: a prompt has such numbers, or "
            "the weights are too large."
        )
    return combined
