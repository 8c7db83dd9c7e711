"""Prompts as google-research/prompt-tuning keeps them: one [P, D] array in numpy's format.

A run of it leaves `numpy_checkpoints/checkpoint_<step>/encoder.prompt.prompt.prompt` (no ending); the
released prompts are `.npy` files. Both are read, and both are what its PROMPT_FILE takes.
"""

import io
import re
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from mpt_jax.methods.formats.foreign import one_task, plain_prompt
from mpt_jax.methods.prompt_file import PromptFile, PromptFileError
from mpt_jax.whole_files import new_folder, refuse_existing, write_whole

WHAT = "a .npy array, or a run of prompt-tuning with numpy_checkpoints/"
RUNS, VARIABLE = "numpy_checkpoints", "encoder.prompt.prompt.prompt"
MAGIC = b"\x93NUMPY"


def recognises(path: Path) -> bool:
    """Whether `path` is an array file, or a folder of prompt-tuning's."""
    if path.is_dir():
        return (path / RUNS).is_dir() or (path / VARIABLE).is_file() or bool(_checkpoints(path))
    return path.suffix == ".npy" or _begins(path, MAGIC)


def read(path: Path) -> PromptFile:
    """The array at `path`, or the one of the latest step where it is a folder.

    Raises:
      PromptFileError: no array of the expected name, or one that is cut, no float, or not [P, D].
    """
    file = path if path.is_file() else _variable(path)
    in_run = file.name == VARIABLE
    name = _run_of(file).name if in_run else file.stem
    step = re.fullmatch(r"checkpoint_(\d+)", file.parent.name) if in_run else None
    return plain_prompt(file, _read_array(file), name, int(step[1]) if step else None)


def write(prompts: PromptFile, output: Path) -> list[str]:
    """Writes one task's finished prompt: to a `.npy` file, or to a new folder laid out as a run's.

    Raises:
      UserError: several tasks, or something is at `output` already.
    """
    task = one_task(prompts, "A .npy array")
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(prompts.prompt(task)), version=(1, 0))
    if output.suffix == ".npy":
        refuse_existing(output)
        write_whole(output, content.getvalue())
        return [f"{task}: {output}"]
    inside = Path(RUNS, f"checkpoint_{prompts.metadata.step or 0}", VARIABLE)
    with new_folder(output) as folder:
        write_whole(folder / inside, content.getvalue())
    return [f"{task}: {output / inside}"]


def _read_array(path: Path) -> Shaped[np.ndarray, "..."]:
    # Mapping the file compares what its header claims with its size before anything is allocated, and
    # refuses arrays of Python objects, which only a pickle could fill.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a header of Python 2 is as good
            return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header makes numpy's parser raise whatever it likes
        raise PromptFileError(
            f"{path} is not a whole .npy file of numbers ({error}); expected a [length, width] array "
            "saved by numpy.save."
        ) from error


def _variable(folder: Path) -> Path:
    """The array of the latest step below a run, its numpy_checkpoints/, or one checkpoint."""
    if (folder / RUNS).is_dir():
        folder = folder / RUNS
    if found := _checkpoints(folder):
        folder = found[max(found)]
    if not (folder / VARIABLE).is_file():
        here = sorted(path.name for path in folder.iterdir())[:10]
        raise PromptFileError(
            f"{folder} holds no {VARIABLE} (it has {here}). Name the prompt's file itself if it is "
            "called otherwise."
        )
    return folder / VARIABLE


def _checkpoints(folder: Path) -> dict[int, Path]:
    """checkpoint_<step> folders with an array in them, by step; unfinished ones have other names."""
    found = {}
    for path in folder.glob(f"checkpoint_*/{VARIABLE}"):
        if step := re.fullmatch(r"checkpoint_(\d+)", path.parent.name):
            found[int(step[1])] = path.parent
    return found


def _run_of(variable: Path) -> Path:
    """The run's folder, above numpy_checkpoints/checkpoint_<step>/ where these are there."""
    parents = variable.resolve().parents
    return parents[2] if len(parents) > 2 and parents[1].name == RUNS else parents[0]


def _begins(path: Path, magic: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
