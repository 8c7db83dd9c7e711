"""Files and folders that appear whole or not at all, and never in the place of others."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from mpt_jax.errors import UserError


def write_whole(path: Path, data: bytes) -> None:
    """Writes (or replaces) one file; a failure leaves what was there before. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Raises UserError where something is at `path` already."""
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists; nothing is overwritten, name a new place.")


@contextlib.contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill in a `with` block, which gets its name `path` when the block ends well.

    Args:
      path: a new folder, or an empty one.
      overwrite: take the place of what is there, once the new one is whole.

    Raises:
      UserError: something is at `path` already.
    """
    if not (overwrite or (path.is_dir() and not any(path.iterdir()))):
        refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    replaced = unfinished.with_suffix(".replaced")
    unfinished.mkdir()
    try:
        yield unfinished
        if path.exists():
            os.rename(path, replaced)
        try:
            os.rename(unfinished, path)
        except OSError:
            if replaced.exists():
                os.rename(replaced, path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def file_names(tasks: Iterable[str]) -> dict[str, str]:
    """A name for a file or folder for each task: what a path could misread becomes `_`.

    Raises:
      UserError: two tasks would get one name.
    """
    names = {task: re.sub(r"^\.|[^\w.:-]", "_", task) for task in tasks}
    if len(set(names.values())) != len(names):
        raise UserError(
            f"The tasks {list(names)} have names that are too alike for files of theirs."
        )
    return names
