"""How near prompts are to each other, to vocabulary tokens, and to the scale of the embeddings."""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int

Matrix = Float[Array | np.ndarray, "P D"]
Matrices = Sequence[Float[Array | np.ndarray, "_ D"]]
FAR_SCALE = 10.0  # a prompt this many times above or below the embeddings' scale is worth a warning


class PromptScaleWarning(UserWarning):
    """A prompt's scale is far from that of the backbone's embeddings."""


def cosine(
    first: Float[Array | np.ndarray, "N D"], second: Float[Array | np.ndarray, "S D"]
) -> Float[np.ndarray, "N S"]:
    """Cosine between the rows of two matrices; a zero row is at 0 to everything."""
    return _unit_rows(first) @ _unit_rows(second).T


def cosine_of_mean_slots(prompts: Matrices) -> Float[np.ndarray, "N N"]:
    """Cosine between the prompts' mean vectors: SPoT's task similarity (Vu et al. 2022, section 4.2).

    Takes prompts of different lengths and does not see the order of slots.
    """
    means = np.stack([np.asarray(prompt, np.float32).mean(axis=0) for prompt in prompts])
    return cosine(means, means)


def cosine_of_slots(prompts: Matrices) -> Float[np.ndarray, "N N"]:
    """Cosine between the prompts as flat vectors, slot against the same slot; equal lengths only."""
    shapes = [prompt.shape for prompt in prompts]
    if len(set(shapes)) != 1:
        raise ValueError(
            f"Slot by slot only prompts of one shape compare, but got {shapes}; "
            "use cosine_of_mean_slots for prompts of different lengths."
        )
    flat = np.stack([np.asarray(prompt, np.float32).reshape(-1) for prompt in prompts])
    return cosine(flat, flat)


def nearest_tokens(
    prompt: Matrix, embeddings: Float[Array | np.ndarray, "V D"], count: int = 5
) -> tuple[Int[np.ndarray, "P n"], Float[np.ndarray, "P n"]]:
    """The ``count`` vocabulary tokens nearest to each slot by cosine, best first: (ids, cosines)."""
    cosines = cosine(prompt, embeddings)
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return ids, np.take_along_axis(cosines, ids, axis=1)


def rms(array: Float[Array | np.ndarray, "..."]) -> float:
    """Root of the mean square of all numbers."""
    return float(np.sqrt(np.mean(np.square(np.asarray(array, np.float32)))))


def scale_ratio(prompt: Matrix, embeddings: Float[Array | np.ndarray, "V D"]) -> float:
    """The prompt's rms over the embedding table's (of some 4,096 rows spread over a larger table)."""
    reference = rms(embeddings[:: max(1, embeddings.shape[0] // 4096)])
    return rms(prompt) / reference if reference else float("inf")


def warn_about_scale(
    prompt: Matrix, embeddings: Float[Array | np.ndarray, "V D"], what: str = "the prompt"
) -> None:
    """Warn (PromptScaleWarning) where the rms is over 10 times or under a tenth of the embeddings'."""
    ratio = scale_ratio(prompt, embeddings)
    if not 1 / FAR_SCALE <= ratio <= FAR_SCALE:
        warnings.warn(
            f"The scale of {what} is {ratio:.3g} times that of the backbone's embeddings (its rms is "
            f"{rms(prompt):.3g}); training may stall or be unstable. "
            "Start from sampled vocabulary, or from a prompt trained on this backbone.",
            PromptScaleWarning,
            stacklevel=3,
        )


def _unit_rows(matrix: Float[Array | np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    matrix = np.asarray(matrix, np.float32)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms == 0, np.float32(1), norms)
