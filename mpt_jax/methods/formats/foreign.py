"""Another program's prompts as a prompt file in memory: checked, in fp32, of an unknown backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mpt_jax.methods.prompt_file import (
    PromptFile,
    PromptFileError,
    PromptMetadata,
)
from mpt_jax.methods.prompt_method import PromptMethod
from mpt_jax.methods.registry import method_named
from mpt_jax.methods.tensor_file import check_finite

FLOATS = ("float16", "bfloat16", "float32", "float64")


def foreign_prompts(
    path: Path,
    arrays: Mapping[str, Shaped[np.ndarray, "..."]],
    *,
    kind: str,
    task_names: Sequence[str],
    base_model: str | None = None,
    step: int | None = None,
    notes: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> PromptFile:
    """Wraps one member's parameters that were read from `path`.

    Args:
      arrays: in the shapes that the method `kind` has for a member, in any float dtype.
      base_model: what the file calls its backbone.
      settings: the method's.

    Raises:
      PromptFileError: other shapes, a dtype that is not a float, or values that are not finite.
    """
    for name, array in arrays.items():
        if array.dtype.name not in FLOATS:
            raise PromptFileError(
                f"{path}: {name!r} has the dtype {array.dtype}, expected one of {', '.join(FLOATS)}."
            )
    # A number beyond fp32's range becomes infinite here, and is named below.
    with np.errstate(over="ignore"):
        converted = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in converted.items()}
    method = method_named(kind)
    sizes = method.sizes(shapes)
    prompts = issubclass(method, PromptMethod)
    if sizes is None or (prompts and 0 in (sizes.tasks, sizes.length, sizes.width, sizes.rank)):
        raise PromptFileError(
            f"{path}: arrays of the shapes {shapes} do not make prompts of the method {kind}."
        )
    check_finite(path, converted)
    metadata = PromptMetadata(
        kind=kind,
        task_names=tuple(task_names),
        length=sizes.length,
        width=sizes.width,
        rank=sizes.rank,
        backbone_fingerprint=None,
        backbone_name=base_model or "unknown",
        vocabulary_fingerprint=None,
        scores={},
        step=step,
        source_run=str(path),
        shapes=shapes,
        tool_version="",
        settings=dict(settings or {}),
    )
    return PromptFile(converted, metadata, tuple(notes))


def plain_prompt(
    path: Path, array: Shaped[np.ndarray, "..."], task: str, step: int | None = None
) -> PromptFile:
    """One finished prompt [P, D]."""
    if array.ndim != 2:
        raise PromptFileError(f"{path} holds shape {array.shape}, expected [length, width].")
    return foreign_prompts(
        path, {"prompt": array[None]}, kind="prompt_tuning", task_names=[task], step=step
    )


def one_task(prompts: PromptFile, what: str) -> str:
    """The only task of prompts that are to be written to a form that holds one.

    Raises:
      UserError: there are several; names them.
    """
    names = prompts.metadata.task_names
    if len(names) != 1:
        raise PromptFileError(
            f"{what} holds one task's prompt, but there are {len(names)}: {', '.join(names)}. Choose "
            "one with --task=NAME."
        )
    return names[0]
