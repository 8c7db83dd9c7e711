"""Who may write at a place on a disk: a locked file, which is free when its process ends, however it ends."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class Held(Exception):
    """Another process holds the lock; the message says which."""


@contextlib.contextmanager
def file_lock(path: Path, *, patient: bool = False) -> Iterator[None]:
    """Holds the lock of the file `path` for the length of a `with` block; it is removed behind it.

    Args:
      patient: wait for another owner, however long it takes.

    Raises:
      Held: another process has it, and is not waited for.
      OSError: the file cannot be made.
    """
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
            except BlockingIOError:
                file.seek(0)
                raise Held(file.read().strip() or "another process") from None
            if not _lies_at(path, file):
                continue  # its owner removed it just now, and the next one makes another
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # where it stays, it is free all the same
                    if _lies_at(path, file):
                        path.unlink()
            return


def is_held(path: Path) -> bool:
    """Whether a process, this one or another, holds the lock now."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lies_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
