"""Which workers of a sweep are alive: a lock file where they share a host, a heartbeat in the ledger else."""

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

BEAT_SECONDS = 15.0
GRACE_SECONDS = 180.0  # the clocks of two machines may be apart, and a ledger may be slow


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file, waiting for it; the system lets go of it however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Worker:
    """This process as one of a sweep's workers, for the length of a `with` block.

    Args:
        root: MODEL_DIR; gets `workers/<name>.lock`.
        beat: writes a time under this worker's name into the ledger.
    """

    def __init__(self, root: Path, beat: Callable[[str, float], None]):
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._folder, self._beat = root / "workers", beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beats, daemon=True)

    def __enter__(self) -> "Worker":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._path(self.name).open("a")
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
        self._path(self.name).unlink(missing_ok=True)

    def is_alive(self, name: str, beats: Mapping[str, float]) -> bool:
        """Whether a worker is at work.

        Args:
            beats: the ledger's, by worker.
        """
        if name == self.name:
            return True
        if name.startswith(f"{socket.gethostname()}-") and self._path(name).exists():
            with self._path(name).open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                return False
        return time.time() - beats.get(name, 0.0) < GRACE_SECONDS

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def _beats(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # a ledger that is busy hears the next one
                self._beat(self.name, time.time())
