"""Who may write in a folder of a bucket: a lock that is an object there, kept alive by its owner.

A bucket has no locks that end with their process. The owner's object says who it is, and counts up every few
seconds. One that has not counted for a minute is dead, and is taken over by the object of the next number,
which only one process can create. An owner that was cut off so long that it was taken over ends
itself before it could write again.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.places import Bucket

BEAT_SECONDS = 10.0
DEAD_SECONDS = 60.0
# A machine that is taken away, or whose neighbour died, may live on for half a minute while another one is
# started in its place.
ENDING_SECONDS = 45.0
_NAME = re.compile(r"\.lock\.(\d+)")


@contextlib.contextmanager
def bucket_lock(bucket: Bucket, *, patient: bool = False) -> Iterator[Callable[[], None]]:
    """Holds the lock of an address for the length of a `with` block; gives what ends a process that lost it.

    After a kill this waits until the owner is known to be dead: a process of this machine at once, another
    when it gave no sign for `DEAD_SECONDS`.

    Args:
      patient: wait for an owner that lives, however long it takes.

    Raises:
      UserError: another process writes there.
    """
    number = _acquire(bucket, patient)
    stop = threading.Event()
    beats = threading.Thread(target=_beat, args=(bucket, number, stop), daemon=True)
    beats.start()
    try:
        yield lambda: _end_if_lost(bucket, number)
    finally:
        stop.set()
        beats.join()
        # Numbers are never used twice, or two could take over from each other.
        _write(bucket, number, {"free": True})


def owner(bucket: Bucket) -> str | None:
    """Who holds the lock, or None; a dead owner counts for `DEAD_SECONDS` still.

    The bucket's clock and this machine's are taken to agree; whoever then takes the lock makes sure.
    """
    number, record = _latest(bucket)
    if record is None or record.get("free") or _is_dead_here(record):
        return None
    written = Bucket(bucket.at(f".lock.{number}")).objects().get("")
    if written is None or written.time is None or time.time() - written.time < DEAD_SECONDS:
        return record["owner"]
    return None


def _acquire(bucket: Bucket, patient: bool) -> int:
    while True:
        number, record = _latest(bucket)
        if record is not None and not record.get("free") and not _is_dead_here(record):
            _wait_for_death(bucket, number, record, patient)
        with contextlib.suppress(FileExistsError):
            mine = _about_me(0) | {"token": uuid.uuid4().hex}
            _write(bucket, number + 1, mine, new=True)
            if _latest(bucket) != (number + 1, mine):
                continue  # a store that does not know "only if new" took another's after ours
            for name in bucket.names():
                if (match := _NAME.fullmatch(name)) and int(match[1]) <= number:
                    bucket.remove(name)
            return number + 1


def _wait_for_death(bucket: Bucket, number: int, record: dict[str, Any], patient: bool) -> None:
    """Returns when the owner is gone. Raises UserError if it lives on, unless patient."""
    if not patient:
        print(
            f"mpt: {bucket.address} is locked by {record['owner']}; waiting up to {DEAD_SECONDS:.0f} s to "
            "see whether that process lives",
            file=sys.stderr,
            flush=True,
        )
    began = heard = time.monotonic()
    seen: tuple[int, dict[str, Any] | None] = number, record
    while time.monotonic() < heard + DEAD_SECONDS:
        time.sleep(min(1.0, BEAT_SECONDS / 4))
        if (now := _latest(bucket)) == seen:
            continue
        seen, heard = now, time.monotonic()
        number, latest = now
        if latest is None or latest.get("free"):
            return
        if heard > began + ENDING_SECONDS and not patient:
            raise UserError(
                f"{latest['owner']} is writing {bucket.address}; wait for it, or give another place"
            )


def _beat(bucket: Bucket, number: int, stop: threading.Event) -> None:
    count = 0
    while not stop.wait(BEAT_SECONDS):
        count += 1
        # What cannot be reached now can be later, perhaps before anybody took over.
        with contextlib.suppress(UserError, FileNotFoundError):
            _end_if_lost(bucket, number)
            _write(bucket, number, _about_me(count))


def _end_if_lost(bucket: Bucket, number: int) -> None:
    latest, record = _latest(bucket)
    if latest > number:
        print(
            f"mpt: error: {(record or {}).get('owner', 'another process')} took over {bucket.address}, for "
            f"this process gave no sign for {DEAD_SECONDS:.0f} s; it ends here",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def _latest(bucket: Bucket) -> tuple[int, dict[str, Any] | None]:
    numbers = [int(match[1]) for name in bucket.names() if (match := _NAME.fullmatch(name))]
    for number in sorted(numbers, reverse=True):
        with contextlib.suppress(FileNotFoundError):
            return number, json.loads(bucket.read(f".lock.{number}"))
    return 0, None


def _write(bucket: Bucket, number: int, record: dict[str, Any], *, new: bool = False) -> None:
    bucket.write(f".lock.{number}", json.dumps(record).encode(), new=new)


def _about_me(count: int) -> dict[str, Any]:
    return {
        "owner": f"process {os.getpid()} on {socket.gethostname()}",
        "process": os.getpid(),
        "machine": _machine(),
        "count": count,
    }


def _machine() -> str | None:
    """What two processes have in common that see each other's numbers; None where that is not known."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return None


def _is_dead_here(record: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that is gone."""
    if record["machine"] is None or record["machine"] != _machine():
        return False
    try:
        os.kill(record["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
