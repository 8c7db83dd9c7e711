"""Folders that last as long as their process: locked while it lives, removed by another if it was killed."""

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

# A folder younger than this may belong to a process about to lock it.
GRACE_SECONDS = 60.0


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Makes the folder `path` for a `with` block, and removes it behind it unless it was renamed."""
    path.mkdir()
    lock = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: just never cleaned
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def first_to_fill(folder: Path) -> Iterator[Path]:
    """A scratch folder to fill in a `with` block, which gets the name `folder` when that ends well.

    Where another process is faster its folder stays: the name is to say all that the content depends on. What
    killed processes left beside it is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder.parent.glob(".*.tmp-*"))
    beside = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex[:12]}")
    with scratch_folder(beside) as temporary:
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Removes those of these scratch folders whose processes were killed: their locks are gone."""
    for folder in folders:
        with contextlib.suppress(OSError):  # locked by a living process, or removed meanwhile
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - folder.stat().st_mtime > GRACE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
