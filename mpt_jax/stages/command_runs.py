"""Runs that are commands of `mpt`, each in a folder of its own: how far each is, and running what is left.

`mpt paper`, `mpt compare` and `mpt sweep` are made of them, so any part can be made by hand or on another
machine as well. Beside a folder lie `<folder>.settings.json`, what the run was told, and
`<folder>.failed.txt`, why it did not end well.
"""

import contextlib
import dataclasses
import gc
import io
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mpt_jax.errors import Stopped, UserError
from mpt_jax.places import is_address
from mpt_jax.run_directory import RECORD, is_locked, write_json, write_text
from mpt_jax.training import checkpoints
from mpt_jax.working_copy import ask_bucket, shown, tell_bucket, working_copy

DONE, RUNNING, FAILED, PARTIAL, MISSING, CHANGED = (
    "done", "running", "failed", "partial", "missing", "other settings",
)  # fmt: skip
PLACES = ("INITIAL_CHECKPOINT_PATH", "TEACHER_DIR", "SOURCE_DIR", "SOURCES")  # may be moved


@dataclasses.dataclass(frozen=True)
class Run:
    """One command.

    Attributes:
        stage: teach, distill, adapt or evaluate.
        name: for people; unique.
        folder: its run directory.
        settings: gin name -> value as gin text.
        needs: the runs that must be done before.
        tasks: that it trains on.
        members: prompts that are trained side by side; 0 for evaluate.
        rows: batch rows of a step, of all members.
        steps: of training.
        lengths: most tokens of inputs and targets.
    """

    stage: str
    name: str
    folder: Path
    settings: Mapping[str, str]
    needs: tuple["Run", ...] = ()
    tasks: tuple[str, ...] = ()
    members: int = 0
    rows: int = 0
    steps: int = 0
    lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def words(self, gin_words: Sequence[str], task_modules: Sequence[str]) -> list[str]:
        """The command line, without `mpt`."""
        return [
            self.stage, *gin_words, *(f"--gin.{n}={v}" for n, v in self.settings.items()),
            *(f"--task_module={module}" for module in task_modules), f"--model_dir={self.place}",
        ]  # fmt: skip

    @property
    def told(self) -> dict[str, str]:
        """Its settings and those of all that it starts from, whose change would make it another run."""
        before = {f"{run.stage}/{n}": v for run in self.needs for n, v in run.told.items()}
        return {**self.settings, **before}

    @property
    def place(self) -> str:
        """The folder as other commands are told it; at an address, `folder` is in a copy of what is there."""
        return shown(self.folder)

    @property
    def settings_file(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.settings.json")

    @property
    def failure_file(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.failed.txt")


@contextlib.contextmanager
def all_runs(model_dir: str, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """The directory of all runs; at an address, a copy of what says how far each is, for a `with` block.

    Args:
        without: folders of runs that are not wanted there.
    """
    if not is_address(model_dir):
        yield Path(model_dir)
        return

    def wanted(name: str) -> bool:
        if "checkpoints/" in name:
            return name.endswith("/record/metadata")
        return "tfevents" not in name and not any(f"/{folder}/" in name for folder in without)

    with working_copy(model_dir, wanted=wanted) as copy:
        yield copy.path


def state_of(run: Run) -> str:
    """DONE, RUNNING, FAILED, PARTIAL, MISSING, or CHANGED: something else was trained there."""
    begun = (run.folder / RECORD).exists()
    complete = begun and json.loads((run.folder / RECORD).read_text()).get("complete", False)
    if (complete or step_of(run)) and changes(run):
        return CHANGED
    if complete:
        return DONE
    if is_locked(run.place):
        return RUNNING
    if run.failure_file.exists():
        return FAILED
    return PARTIAL if begun else MISSING


def step_of(run: Run) -> int:
    """The last step with a checkpoint, 0 without any."""
    found = checkpoints.folders(run.folder / "checkpoints")
    return max((step for folder in found for step in checkpoints.steps(folder)), default=0)


def changes(run: Run) -> list[str]:
    """In which settings a run that is there differs from what it would be now."""
    try:
        before = json.loads(run.settings_file.read_text())
    except FileNotFoundError:
        return []  # made by hand, with the same command
    now = run.told
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in dict.fromkeys([*now, *before])
        if name.rpartition("/")[2] not in PLACES and before.get(name) != now.get(name)
    ]


def begin(run: Run) -> None:
    """Writes down what a run is told, and forgets an earlier failure."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(run.settings_file, run.told)
    run.failure_file.unlink(missing_ok=True)
    tell_bucket(run.folder)


def run_all(
    left: Sequence[Run], launch: Callable[[Sequence[str]], object], gin_words: Sequence[str],
    task_modules: Sequence[str], console: Console,
) -> list[str]:  # fmt: skip
    """Runs in order; a run that fails stops only those that need it. Returns what is not done, and why."""
    wrong = []
    with _garbage_of_runs_only():
        for number, run in enumerate(left, start=1):
            console.rule(f"{number} of {len(left)}: {run.name}", align="left")
            if reason := _not_done(run, launch, run.words(gin_words, task_modules)):
                wrong.append(f"{run.name} {reason}")
                console.print(wrong[-1], style="red")
    return wrong


def _not_done(
    run: Run, launch: Callable[[Sequence[str]], object], words: Sequence[str]
) -> str | None:
    """Makes a run that can be made; else says why it is not."""
    if waiting := [before.name for before in run.needs if state_of(before) != DONE]:
        return f"waits for {waiting[0]}"
    if (state := state_of(run)) == CHANGED:
        different = "; ".join(changes(run)[:4])
        return (
            f"is there with other settings ({different}): give another --model_dir, or "
            f"remove {run.place}"
        )
    if state == RUNNING and (changes(run) or not is_address(run.place)):
        # In a bucket its owner may just have died: who takes the lock makes sure.
        return "is being made by another process"
    if failure := _run_one(run, launch, words):
        return f"failed: {failure} ({shown(run.failure_file)})"
    return None


@contextlib.contextmanager
def _garbage_of_runs_only() -> Iterator[None]:
    """Garbage is looked for among what runs make, not in the 600,000 objects of the modules before them.

    These take 0.4 s each time, so once after every run.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def check_all(
    runs: Sequence[Run], launch: Callable[[Sequence[str]], Any], gin_words: Sequence[str],
    task_modules: Sequence[str],
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Dry-runs every one of them. Returns what is wrong, and what else they say, with the run's name."""
    wrong, notes = [], []
    for run in runs:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                said = launch([*run.words(gin_words, task_modules), "--dry_run"])
        except UserError as error:
            wrong.append(f"{run.name}: {error}")
        else:
            notes += [f"{run.name}: {note}" for note in said or ()]
    return wrong, notes


def _run_one(
    run: Run, launch: Callable[[Sequence[str]], object], words: Sequence[str]
) -> str | None:
    """Why the run failed, if it did."""
    begin(run)
    try:
        launch(words)
    except Stopped:
        raise
    except Exception as error:  # whatever one cell dies of, the others can be made
        known = isinstance(error, UserError)
        details = str(error) if known else traceback.format_exc()
        message = str(error).partition("\n  In call to configurable ")[0]
        write_text(run.failure_file, f"mpt {' '.join(words)}\n\n{details}\n")
        return f"{'' if known else type(error).__name__ + ': '}{message.splitlines()[0][:300]}"
    finally:
        ask_bucket(run.folder)
        gc.collect()  # the run's backbone goes before the next one's comes
    return None


def state_text(run: Run) -> str:
    """Its state, with the step where it is on the way."""
    state = state_of(run)
    if state in (PARTIAL, FAILED, RUNNING) and run.members:
        return f"{state}, step {step_of(run):,}"
    return state


def fields(scope: str, variant: Any) -> dict[str, Any]:
    """Settings that give a scoped configurable (of a dataclass) this object's fields."""
    return {f"{scope}.{name}": value for name, value in dataclasses.asdict(variant).items()}


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as gin text."""
    return {name: repr(value) for name, value in values.items()}
