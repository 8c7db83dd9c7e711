"""Which workers of a sweep are alive: a lock file where they share a host, a heartbeat in the ledger else."""

import contextlib
import fcntl
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mpt_jax.bucket_lock import bucket_lock
from mpt_jax.file_lock import file_lock
from mpt_jax.places import Bucket, cache_folder, is_address

BEAT_SECONDS = 15.0
GRACE_SECONDS = 180.0  # the clocks of two machines may be apart, and a ledger may be slow


@contextlib.contextmanager
def locked(place: str) -> Iterator[None]:
    """Holds a lock that lies at a place, waiting for it; one whose process ended is free."""
    if is_address(place):
        with bucket_lock(Bucket(place), patient=True):
            yield
        return
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path, patient=True):
        yield


class Worker:
    """This process as one of a sweep's workers, for the length of a `with` block.

    Its lock file is in the user's cache, and not in MODEL_DIR, which may be on no disk.

    Args:
        beat: writes a time under this worker's name into the ledger.
    """

    def __init__(self, beat: Callable[[str, float], None]):
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._beat = beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beats, daemon=True)

    def __enter__(self) -> "Worker":
        path = _lock_file(self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open("a")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._beat(self.name, time.time())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # the lock says the same
            self._beat(self.name, 0.0)
        self._lock.close()
        _lock_file(self.name).unlink(missing_ok=True)

    def is_alive(self, name: str, beats: Mapping[str, float]) -> bool:
        """Whether a worker is at work: this one, or by `dead_at`."""
        return name == self.name or time.time() < dead_at(name, beats)

    def was_seen(self, name: str, before: Mapping[str, float], beats: Mapping[str, float]) -> bool:
        """Whether a worker was at work between two looks at the ledger's beats."""
        own = name == self.name
        return own or bool(_holds_lock(name)) or beats.get(name) != before.get(name)

    def _beats(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # a ledger that is busy hears the next one
                self._beat(self.name, time.time())


def dead_at(name: str, beats: Mapping[str, float]) -> float:
    """From when on a worker counts as dead and others take over, unless it is heard of again.

    On this host its lock tells: never, or since ever. One that died elsewhere counts for `GRACE_SECONDS`
    still.

    Args:
        beats: the ledger's, by worker.
    """
    if (held := _holds_lock(name)) is not None:
        return math.inf if held else 0.0
    return beats.get(name, 0.0) + GRACE_SECONDS


def _holds_lock(name: str) -> bool | None:
    """Whether a worker of this host has its lock; None of others.

    Not for this process's own: where locks belong to processes (NFS), closing the file would free it.
    """
    if not (name.startswith(f"{socket.gethostname()}-") and _lock_file(name).exists()):
        return None
    with _lock_file(name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock_file(name: str) -> Path:
    return cache_folder() / "workers" / f"{name}.lock"
