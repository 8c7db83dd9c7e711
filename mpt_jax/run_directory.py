"""MODEL_DIR: what a run leaves, who may write it, and how the next stage finds its way in it.

At an address (gs://, s3://) all this is worked on in a local copy that the bucket follows.

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
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mpt_jax import bucket_lock
from mpt_jax.errors import UserError
from mpt_jax.fetched import local_copy, run_files
from mpt_jax.file_lock import Held, file_lock, is_held
from mpt_jax.places import Bucket, exists, is_address, join, read_text
from mpt_jax.working_copy import shown, tell_bucket, working_copy

RECORD = "run.json"
_LOCK = ".lock"


class RunDirectory:
    """The paths of one run. Making it touches nothing; `open_run` and `read_run` check what is there.

    Args:
      path: MODEL_DIR, or the local copy of one at an address.
      writes: whether this process writes run.json and config.gin; the methods that do are silent else.
    """

    def __init__(self, path: str | Path, *, writes: bool = True):
        self.path = Path(path)
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
        return _parsed(self.path / RECORD)

    def write_config(self, text: str) -> None:
        """Writes config.gin. One that says something else is kept as config.gin.1, .2 and so on."""
        if not self.writes:
            return
        if self.config.exists() and self.config.read_text() != text:
            self.config.rename(_next_name(self.config))
        write_text(self.config, text)
        tell_bucket(self.config)

    def finish(self, **results: Any) -> None:
        """Marks the run complete, with a few JSON values that `mpt show` and later stages want to know."""
        if self.writes:
            write_json(self.path / RECORD, {**self.record(), "complete": True, **results})
            tell_bucket(self.path)


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
    if is_address(path):
        with _open_in_bucket(str(path), stage, writes) as run:
            yield run
        return
    run = RunDirectory(path, writes=writes)
    if not writes:
        yield run
        return
    with contextlib.ExitStack() as stack:
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(run.path / _LOCK))
        except Held as owner:
            raise UserError(
                f"{owner} is writing MODEL_DIR {path}; wait for it, or give another directory"
            ) from None
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(
                f"MODEL_DIR {path} is, or lies below, a file; give a directory"
            ) from error
        except OSError as error:
            raise UserError(
                f"MODEL_DIR {path} cannot be written ({error.strerror}); give another"
            ) from error
        _claim(run, stage)
        yield run


@contextlib.contextmanager
def _open_in_bucket(address: str, stage: str, writes: bool) -> Iterator[RunDirectory]:
    bucket = Bucket(address)
    with contextlib.ExitStack() as stack:
        check: Callable[[], None] = lambda: None  # noqa: E731
        if writes:
            names = bucket.names()
            if names and RECORD not in names:
                _refuse_strangers(bucket.address, names)  # before they are fetched
            check = stack.enter_context(bucket_lock.bucket_lock(bucket))
        copy = stack.enter_context(
            working_copy(address, wanted=_resumes_from, writes=writes, before_push=check)
        )
        run = RunDirectory(copy.path, writes=writes)
        if writes:
            _claim(run, stage)
            copy.push()
        yield run


def _resumes_from(name: str) -> bool:
    """Prompts are written anew in the end, and TensorBoard goes on in a new file."""
    return not name.startswith("prompts/") and "tfevents" not in name


def read_run(path: str | Path, stages: tuple[str, ...] = ()) -> RunDirectory:
    """An earlier run's directory, to start from.

    Args:
      path: its MODEL_DIR.
      stages: those that will do; any when empty.

    Raises:
      UserError: there is no such run, it is of another stage, or it did not finish.
    """
    run = RunDirectory(local_copy(path, "run directory", run_files))
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
    try:
        return not _parsed(join(path, RECORD)).get("complete")
    except NoRun:
        return not exists(path)


def is_locked(path: str | Path) -> bool:
    """Whether a process, this one or another, is writing the run directory now."""
    if is_address(path):
        return bucket_lock.owner(Bucket(path)) is not None
    return is_held(Path(path) / _LOCK)


def fresh_path(stage: str, parent: str | Path = "mpt_runs") -> Path:
    """A MODEL_DIR that does not exist yet, for runs that were given none."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(parent) / f"{stage}-{now}"
    return path if not path.exists() else _next_name(path)


class NoRun(UserError):
    """There is no run.json."""


def _parsed(path: str | Path) -> dict[str, Any]:
    place = shown(path)
    try:
        record = json.loads(read_text(path))
    except FileNotFoundError:
        folder = place.removesuffix(f"/{RECORD}")
        raise NoRun(f"{folder} is no run directory: it has no {RECORD}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{place} cannot be read ({error}); is the directory damaged?") from error
    if not isinstance(record, dict) or "stage" not in record:
        raise UserError(f"{place} does not name a stage; is the directory damaged?")
    return record


def write_text(path: str | Path, text: str) -> None:
    """Writes a file whole or not at all: a kill half way leaves what was there before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _claim(run: RunDirectory, stage: str) -> None:
    if (run.path / RECORD).exists():
        was = run.record()["stage"]
        if was != stage:
            raise UserError(
                f"MODEL_DIR {shown(run.path)} belongs to a run of {was!r}, this is {stage!r}; give another"
            )
        return
    _refuse_strangers(str(run.path), [path.name for path in run.path.iterdir()])
    write_json(run.path / RECORD, {"stage": stage, "complete": False})


def _refuse_strangers(path: str, names: Iterable[str]) -> None:
    if strangers := sorted(name for name in names if not name.startswith(".")):
        raise UserError(
            f"MODEL_DIR {path} has no {RECORD} but holds {', '.join(strangers[:5])}; nothing there is "
            "overwritten: give an empty or new directory"
        )


def _next_name(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}.{i}") for i in range(1, 1000))
    return next(candidate for candidate in candidates if not candidate.exists())
