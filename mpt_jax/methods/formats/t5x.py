"""Prompts in T5X checkpoints: those of `mpt_jax.t5x`, and google-research/prompt-tuning's. Needs no T5X.

Both lie below `encoder/prompt/`. `mpt_jax.t5x` names the parameters as the method does (`shared`, `u`,
`v`, or `prompt` [K, P, D]); prompt-tuning has one [P, D] array two levels deeper.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpt_jax.methods.formats.foreign import foreign_prompts, one_task, plain_prompt
from mpt_jax.methods.prompt_file import PromptFile, PromptFileError
from mpt_jax.methods.registry import METHODS
from mpt_jax.whole_files import refuse_existing

WHAT = "a T5X checkpoint of a prompted model"
FOLDER = "encoder/prompt/"
VARIABLE = f"{FOLDER}prompt/prompt"
MARKS = ("checkpoint", "state/manifest.ocdbt")  # of the legacy form and of Orbax's
TASKS = re.compile(r"^TASKS\s*=\s*\\?\s*(\[.*?\]|\(.*?\))", re.MULTILINE | re.DOTALL)


def recognises(path: Path) -> bool:
    """Whether `path` is a T5X checkpoint's folder, or a folder of such."""
    return path.is_dir() and any(
        (folder / mark).is_file() for folder in (path, *path.glob("checkpoint_*")) for mark in MARKS
    )


def read(path: Path) -> PromptFile:
    """The prompts in the checkpoint at `path`, or in the latest one there.

    The tasks of `mpt_jax.t5x` are called as the run's `config.gin` beside the checkpoint says.

    Raises:
      PromptFileError: a checkpoint without prompts, a damaged one, or parameters of no known method.
    """
    # tensorstore is slow to import.
    from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint, read_prompts

    try:
        checkpoint = open_checkpoint(path)
        found = read_prompts(checkpoint, f"{FOLDER}.*")
    except (OSError, ValueError) as error:
        raise PromptFileError(f"{path} holds no prompt that can be read: {error}") from error
    folder = checkpoint.path.resolve()
    run = folder if checkpoint.step is None else folder.parent
    if VARIABLE in found:
        return plain_prompt(path, found[VARIABLE], run.name, checkpoint.step)
    arrays = {name.removeprefix(FOLDER): array for name, array in found.items()}
    kind, count = _method(path, arrays)
    names = _task_names(run, count)
    notes = (
        [] if names else [f"{run / 'config.gin'} names no TASKS; they are called task0, task1, ..."]
    )
    return foreign_prompts(
        path, arrays, kind=kind, task_names=names or [f"task{k}" for k in range(count)],
        step=checkpoint.step, notes=notes,
    )  # fmt: skip


def write(prompts: PromptFile, output: Path) -> list[str]:
    """Writes one task's finished prompt as `output/checkpoint_<step>`; `output` is a new MODEL_DIR.

    The checkpoint holds the prompt alone: T5X takes the other weights from the backbone's own.

    Raises:
      UserError: several tasks, or something is at `output` already.
    """
    from mpt_jax.models.formats.t5x_writer import write_checkpoint

    task = one_task(prompts, "A T5X checkpoint of a prompt")
    refuse_existing(output)
    step = prompts.metadata.step or 0
    written = write_checkpoint(output, step, [(VARIABLE, prompts.prompt(task))])
    return [f"{task}: {written}, {VARIABLE}"]


def _method(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """The method that has such parameters, and the number of tasks."""
    shapes = {name: array.shape for name, array in arrays.items()}
    for kind, method in METHODS.items():
        sizes = method.sizes(shapes)
        if sizes is not None and sizes.length:
            return kind, sizes.tasks
    raise PromptFileError(
        f"{path}: the parameters {shapes} below {FOLDER} are of none of the methods {list(METHODS)}. "
        "Was it trained with mpt_jax.t5x, or with prompt-tuning?"
    )


def _task_names(run: Path, count: int) -> list[str]:
    """TASKS of the run's operative configuration; empty where it does not say `count` names."""
    config = run / "config.gin"
    match = TASKS.search(config.read_text(encoding="utf-8")) if config.is_file() else None
    try:
        names = list(ast.literal_eval(match[1])) if match else []
    except (ValueError, SyntaxError):
        return []
    return names if len(set(names)) == count and all(isinstance(n, str) for n in names) else []
