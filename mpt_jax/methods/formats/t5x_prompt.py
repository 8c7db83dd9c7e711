"""Prompts trained in T5X (`mpt_jax.t5x`): from a T5X checkpoint to a prompt file. Needs no T5X.

The checkpoint holds one member's parameters under `encoder/prompt/`, named as the method names them.
It does not say whose prompts they are, in which order, or on which backbone: the caller does.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mpt_jax.errors import UserError
from mpt_jax.methods.prompt_file import KINDS, save_prompt_file
from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint, read_prompts

FOLDER = "encoder/prompt/"


def read_t5x_prompts(
    checkpoint: str | os.PathLike[str],
) -> tuple[str, dict[str, Float[np.ndarray, "..."]], int | None]:
    """The prompts' parameters in a T5X checkpoint, legacy or Orbax.

    Args:
        checkpoint: `checkpoint_<step>`, or a folder of such, of which the latest is taken.

    Returns:
        The method's kind, one member's parameters by name (for MPT `shared` [P, D], `u` [K, P, R],
        `v` [K, R, D]; for prompt tuning `prompt` [K, P, D]) in fp32, and T5X's step.

    Raises:
        UserError: no checkpoint, no prompts in it, or prompts of another program.
    """
    try:
        opened = open_checkpoint(checkpoint)
        found = read_prompts(opened, f"{FOLDER}.*")
    except (OSError, ValueError) as error:
        raise UserError(f"Prompts of {checkpoint} cannot be read: {error}") from error
    arrays = {
        path.removeprefix(FOLDER): np.asarray(array, np.float32) for path, array in found.items()
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    kinds = [kind for kind, method in KINDS.items() if method.sizes(shapes) is not None]
    if not kinds:
        raise UserError(
            f"{checkpoint}: the parameters {shapes} below {FOLDER} are of none of the methods "
            f"{list(KINDS)}. Was it trained with mpt_jax.t5x?"
        )
    return kinds[0], arrays, opened.step


def import_t5x_prompts(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    task_names: Sequence[str],
    backbone_fingerprint: str,
    backbone_name: str,
    vocabulary_fingerprint: str,
    scores: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a prompt file from a T5X checkpoint.

    Args:
        checkpoint: as for `read_t5x_prompts`.
        path: of the prompt file to write.
        task_names: the run's TASKS, in its order (they stand in MODEL_DIR/config.gin).
        backbone_fingerprint: of the backbone that was trained on, e.g. `Backbone.fingerprint` of the
            same checkpoint opened by `mpt`.
        backbone_name: its name.
        vocabulary_fingerprint: of its vocabulary.
        scores: to put into the file.

    Raises:
        UserError: as `read_t5x_prompts`, and as `save_prompt_file`: another number of tasks, or the
            file exists.
    """
    kind, arrays, step = read_t5x_prompts(checkpoint)
    return save_prompt_file(
        path,
        arrays,
        kind=kind,
        task_names=task_names,
        backbone_fingerprint=backbone_fingerprint,
        backbone_name=backbone_name,
        vocabulary_fingerprint=vocabulary_fingerprint,
        scores=scores,
        step=step,
        source_run=str(checkpoint),
    )
