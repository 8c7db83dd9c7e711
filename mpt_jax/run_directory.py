"""MODEL_DIR: what a run leaves on disk, who may write it, and how the next stage finds its way in it.

MODEL_DIR/
  run.json        which stage the directory belongs to, and whether it is complete
  config.gin      the operative configuration
  checkpoints/    of the trained parameters (Orbax)
  prompts/        prompt files (.safetensors)
  metrics/        TensorBoard and JSON lines
  report.md       tables and plots
"""

import contextlib
import datetime
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpt_jax.errors import UserError

RECORD = "run.json"
_LOCK = ".lock"


class RunDirectory:
    """The paths of one run. Making it touches nothing; `open_run` and `read_run` check what is there.

    Args:
      path: MODEL_DIR.
      writes: whether this process writes run.json and config.gin; the methods that do are silent else.

    Raises:
      UserError: it is the address of a bucket.
    """

    def __init__(self, path: str | Path, *, writes: bool = True):
        self.path = local_path(path, "run directory")
        self.writes = writes
        self.config = self.path / "config.gin"
        self.checkpoints = self.path / "checkpoints"
        self.prompts = self.path / "prompts"
        self.metrics = self.path / "metrics"
        self.report = self.path / "report.md"

    def record(self) -> dict[str, Any]:
        """What run.json says: stage, complete, and what `finish` added.

        Raises:
          UserError: there is none, or it cannot be read.
        """
        path = self.path / RECORD
        try:
            record = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"{self.path} is no run directory: it has no {RECORD}") from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); is the directory damaged?"
            ) from error
        if not isinstance(record, dict) or "stage" not in record:
            raise UserError(f"{path} does not name a stage; is the directory damaged?")
        return record

    def write_config(self, text: str) -> None:
        """Writes config.gin. One that says something else is kept as config.gin.1, .2 and so on."""
        if not self.writes:
            return
        if self.config.exists() and self.config.read_text() != text:
            self.config.rename(_next_name(self.config))
        write_text(self.config, text)

    def finish(self, **results: Any) -> None:
        """Marks the run complete, with a few JSON values that `mpt show` and later stages want to know."""
        if self.writes:
            write_json(self.path / RECORD, {**self.record(), "complete": True, **results})


@contextlib.contextmanager
def open_run(path: str | Path, stage: str, *, writes: bool = True) -> Iterator[RunDirectory]:
    """Takes MODEL_DIR for writing, for the length of a `with` block: a new one, or to go on with a run.

    Args:
      path: MODEL_DIR; made with its parents where missing.
      stage: "teach", "distill" and so on.
      writes: False in all processes of a run but the first, which holds the lock for them.

    Raises:
      UserError: it cannot be written, belongs to another stage, holds files that no run made, or another
        process is writing it.
    """
    if not str(path):
        raise UserError("MODEL_DIR is empty; give --model_dir=DIR")
    run = RunDirectory(path, writes=writes)
    if not writes:
        yield run
        return
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = (run.path / _LOCK).open("a+")
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"MODEL_DIR {path} is, or lies below, a file; give a directory") from error
    except OSError as error:
        raise UserError(
            f"MODEL_DIR {path} cannot be written ({error.strerror}); give another"
        ) from error
    with lock:
        _lock(lock, run.path)
        _claim(run, stage)
        yield run


def read_run(path: str | Path, stages: tuple[str, ...] = ()) -> RunDirectory:
    """An earlier run's directory, to start from.

    Args:
      path: its MODEL_DIR.
      stages: those that will do; any when empty.

    Raises:
      UserError: there is no such run, it is of another stage, or it did not finish.
    """
    run = RunDirectory(path)
    if not run.path.is_dir():
        raise UserError(f"run directory {path} does not exist")
    record = run.record()
    if stages and record["stage"] not in stages:
        raise UserError(
            f"{path} is a run of {record['stage']!r}, expected one of {' or '.join(map(repr, stages))}"
        )
    if not record.get("complete"):
        raise UserError(
            f"{path} is a run of {record['stage']!r} that did not finish; run the same command again to "
            "go on with it"
        )
    return run


def is_unfinished(path: str | Path) -> bool:
    """Whether `path` is a run directory that is still to be completed, or is not there at all."""
    run = RunDirectory(path)
    if (run.path / RECORD).exists():
        return not run.record().get("complete")
    return not run.path.exists()


def is_locked(path: str | Path) -> bool:
    """Whether a process, this one or another, is writing the run directory now."""
    try:
        with (Path(path) / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def fresh_path(stage: str, parent: str | Path = "mpt_runs") -> Path:
    """A MODEL_DIR that does not exist yet, for runs that were given none."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(parent) / f"{stage}-{now}"
    return path if not path.exists() else _next_name(path)


def local_path(path: str | Path, what: str) -> Path:
    """A path that a user gave; else gs://bucket/a would become a local folder of that name.

    Raises:
      UserError: it is the address of a bucket.
    """
    if re.match(r"\w+:/", str(path)):
        raise UserError(
            f"{what} {path} is an address; mpt reads and writes folders: mount the bucket (gcsfuse, "
            "s3 mounts) and give the folder below the mount"
        )
    return Path(path)


def write_text(path: str | Path, text: str) -> None:
    """Writes a file whole or not at all: a kill half way leaves what was there before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _lock(lock: Any, path: Path) -> None:
    try:
        # The system lets go of it when the process ends, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        raise UserError(
            f"{owner} is writing MODEL_DIR {path}; wait for it, or give another directory"
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def _claim(run: RunDirectory, stage: str) -> None:
    if (run.path / RECORD).exists():
        was = run.record()["stage"]
        if was != stage:
            raise UserError(
                f"MODEL_DIR {run.path} belongs to a run of {was!r}, this is {stage!r}; give another"
            )
        return
    strangers = sorted(p.name for p in run.path.iterdir() if not re.match(r"\.", p.name))
    if strangers:
        raise UserError(
            f"MODEL_DIR {run.path} has no {RECORD} but holds {', '.join(strangers[:5])}; nothing there is "
            "overwritten: give an empty or new directory"
        )
    write_json(run.path / RECORD, {"stage": stage, "complete": False})


def _next_name(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}.{i}") for i in range(1, 1000))
    return next(candidate for candidate in candidates if not candidate.exists())
