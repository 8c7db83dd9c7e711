"""Where prompts start from.

An initialiser is a function ``(rng, embeddings [V, D], length P) -> prompt [P, D]`` in fp32. What
else it needs (token ids, label texts, a path) comes as keyword arguments: bind these with
``functools.partial`` or gin. Each one warns (PromptScaleWarning) where the prompt's scale is far
from the embeddings'.
"""

import os
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mpt_jax.errors import UserError
from mpt_jax.methods.prompt_method import Embeddings
from mpt_jax.methods.prompt_sources import ForeignPromptWarning, load_prompts
from mpt_jax.methods.similarity import warn_about_scale

SPECIAL_IDS = 3  # padding, end of sequence and unknown come first in T5's vocabularies


def sampled_vocabulary(
    rng: PRNGKeyArray, embeddings: Embeddings, length: int, *, first: int = 5000
) -> Float[Array, "P D"]:
    """Embeddings of vocabulary items drawn without repetition from the ``first`` ids, specials left out.

    The first ids are the frequent ones in a SentencePiece vocabulary (Lester et al. 2021, section
    3.2, who take 5,000). Items repeat only where the prompt is longer than the choice.
    """
    end = min(first, embeddings.shape[0])
    if end <= SPECIAL_IDS:
        raise UserError(
            f"No vocabulary item to sample: the first {end} ids hold only the {SPECIAL_IDS} special "
            f"ones (the embedding table has {embeddings.shape[0]} rows, `first` is {first})."
        )
    choice = jnp.arange(SPECIAL_IDS, end, dtype=jnp.int32)
    ids = jax.random.choice(rng, choice, (length,), replace=length > choice.shape[0])
    return _finish(_rows(embeddings, ids), embeddings, "the sampled prompt")


def text(
    rng: PRNGKeyArray, embeddings: Embeddings, length: int, *, token_ids: Sequence[int]
) -> Float[Array, "P D"]:
    """Embeddings of a text, repeated or cut to the prompt's length."""
    del rng
    ids = _checked_ids(token_ids, embeddings, "the initial text")
    return _finish(_rows(embeddings, jnp.resize(ids, (length,))), embeddings, "the text's prompt")


def class_labels(
    rng: PRNGKeyArray, embeddings: Embeddings, length: int, *, labels: Sequence[Sequence[int]]
) -> Float[Array, "P D"]:
    """One slot for each label: the mean embedding of its pieces; the other slots sampled vocabulary.

    As Lester et al. 2021, section 3.2. Labels beyond the prompt's length are left out.

    Args:
      labels: token ids of each label.
    """
    if not labels:
        raise UserError("No class labels to start from; use sampled_vocabulary for such a task.")
    means = [
        jnp.mean(_rows(embeddings, _checked_ids(ids, embeddings, f"label {n}")), axis=0)
        for n, ids in enumerate(labels[:length])
    ]
    prompt = jnp.stack(means)
    if len(means) < length:
        sampled = sampled_vocabulary(rng, embeddings, length - len(means))
        prompt = jnp.concatenate([prompt, sampled])
    return _finish(prompt, embeddings, "the class labels' prompt")


def uniform(
    rng: PRNGKeyArray, embeddings: Embeddings, length: int, *, bound: float = 0.5
) -> Float[Array, "P D"]:
    """Uniform numbers between -bound and bound (Lester et al.'s plainest start has 0.5)."""
    shape = (length, embeddings.shape[1])
    prompt = jax.random.uniform(rng, shape, jnp.float32, -bound, bound)
    return _finish(prompt, embeddings, "the uniform prompt")


def from_file(
    rng: PRNGKeyArray,
    embeddings: Embeddings,
    length: int,
    *,
    path: str | os.PathLike[str],
    task: str | None = None,
    expect_backbone: str | None = None,
) -> Float[Array, "P D"]:
    """A stored prompt: a prompt file, or one in a form of another program (``prompt_sources.py``).

    Args:
      task: whose prompt, where there are several.
      expect_backbone: fingerprint that a prompt file must name; other forms name none, and warn.
    """
    del rng
    prompts = load_prompts(path, expect_backbone=expect_backbone)
    if expect_backbone is None:  # else they are part of the warning that nothing could be verified
        for note in prompts.notes:
            warnings.warn(note, ForeignPromptWarning, stacklevel=2)
    prompt = prompts.prompt(task)
    expected = (length, embeddings.shape[1])
    if prompt.shape != expected:
        raise UserError(
            f"The prompt in {path} has the shape {prompt.shape}, expected {expected} (length, width). "
            "Set the prompt length to the file's, or take a prompt of a backbone of this width."
        )
    return _finish(jnp.asarray(prompt), embeddings, f"the prompt in {path}")


def _checked_ids(ids: Sequence[int], embeddings: Embeddings, what: str) -> Int[Array, "n"]:
    array = np.asarray(ids, np.int32)
    rows = embeddings.shape[0]
    if array.ndim != 1 or not array.size:
        raise UserError(f"{what} has no tokens (got {list(ids)!r}).")
    if array.min() < 0 or array.max() >= rows:
        raise UserError(
            f"{what} has the token ids {array.min()}..{array.max()}, but the embedding table has "
            f"{rows} rows: it was tokenised with another vocabulary."
        )
    return jnp.asarray(array)


def _rows(embeddings: Embeddings, ids: Int[Array, "n"]) -> Float[Array, "n D"]:
    # A large table that lies in host memory is not to be moved to the device for a few rows.
    return jnp.asarray(embeddings[np.asarray(ids)], jnp.float32)


def _finish(prompt: Float[Array, "P D"], embeddings: Embeddings, what: str) -> Float[Array, "P D"]:
    prompt = prompt.astype(jnp.float32)
    warn_about_scale(prompt, embeddings, what)
    return prompt
