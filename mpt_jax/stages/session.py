"""What every training stage does around its training: open, check, describe, record.

with Session("teach", model_dir, ...) as session:
    ...
    if session.only_checks([program], training):
        return
    trained = train_fleet(...)
    session.finish([trained], [program], ...)
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.table import Table

from mpt_jax.places import is_address
from mpt_jax.run_directory import RunDirectory, is_unfinished, open_run, read_run
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.data import Data
from mpt_jax.stages.fleet import Program, Trained, check_batch
from mpt_jax.stages.training import Training
from mpt_jax.terminal import Output
from mpt_jax.working_copy import shown

MEMBERS_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class About:
    """What the tables say of a member: how it is called there, and on what it was trained."""

    method: str
    k: int | None = None
    seed: int = 0


class Session:
    """One run of a stage in its directory.

    Args:
        stage: the stage's name.
        model_dir: the run directory.
        backbone: the frozen model's source.
        data: of the stage.
        task_modules: Python that registers tasks.
        dry_run: touch no directory and train nothing.
        config_text: gives the operative configuration.

    Raises:
        UserError: on entering, if anything cannot be opened.
    """

    backbone: Backbone

    def __init__(
        self,
        stage: str,
        model_dir: str,
        backbone: BackboneSource,
        data: Data,
        task_modules: tuple[str, ...],
        dry_run: bool,
        config_text: Callable[[], str],
    ):
        self.stage, self.model_dir, self.dry_run = stage, model_dir, dry_run
        self.console = Output()
        self._source, self._data, self._modules = backbone, data, task_modules
        self._config_text = config_text
        self._stack = contextlib.ExitStack()
        self._run: RunDirectory | None = None

    def __enter__(self) -> "Session":
        if not self.dry_run:
            self._run = self._open_directory()
        try:
            self.backbone = self._source.open()
            self._data.register(self._modules, self.backbone.vocabulary)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open_directory(self) -> RunDirectory | None:
        """Only one process owns the directory; the others write their shares of checkpoints into it.

        At an address each of them reads the checkpoints from a copy of its own, made when the first one
        has the directory and nobody else writes there.
        """
        first, several = jax.process_index() == 0, jax.process_count() > 1
        run = None
        if first:
            run = self._stack.enter_context(open_run(self.model_dir, self.stage))
        if several and is_address(self.model_dir):
            multihost_utils.sync_global_devices(f"{self.stage} has its directory")
            if not first:
                run = self._stack.enter_context(open_run(self.model_dir, self.stage, writes=False))
        return run

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def directory(self) -> Path:
        return Path(self.model_dir) if self._run is None else self._run.path

    def only_checks(
        self, programs: Sequence[Program], training: Training, notes: Sequence[str] = ()
    ) -> bool:
        """Describes the run; True if that is all that was asked for (`--dry_run`).

        Args:
            notes: lines that the stage has to say besides.

        Raises:
            UserError: a program's batches cannot be made; found before the first program trains.
        """
        for program in programs:
            check_batch(program.bank, training, self.backbone)
        if jax.process_index() == 0:
            self._describe(programs, training)
            for note in notes:
                self.console.print(f"  {note}", soft_wrap=True)
        config = self._config_text()
        if self.dry_run:
            print(f"\n{config}\ndry run: everything checked, nothing trained")
            return True
        if self._run is not None:
            self._run.write_config(config)
        return False

    def not_made_yet(self, source: str | None) -> bool:
        """Whether a dry run meets a source that an earlier stage is still to make; says so."""
        if source is None or not self.dry_run or not is_unfinished(source):
            return False
        self.console.print(f"  {source} is not made yet; it is checked when the stage starts")
        return True

    def finish(
        self, trained: Sequence[Trained], programs: Sequence[Program], abouts: Sequence[About],
        training: Training, **more: Any,
    ) -> None:  # fmt: skip
        """Checks that the backbone is what it was, and records the members for later stages.

        Args:
            abouts: of the members of all programs, in order.
        """
        self.backbone.check_unchanged()
        if self._run is not None and self._run.writes:
            self._record(self._run, trained, programs, abouts, training, more)
        # The next stage of any process reads what the first process writes here.
        multihost_utils.sync_global_devices(f"{self.stage} is done")

    def _record(
        self, run: RunDirectory, trained: Sequence[Trained], programs: Sequence[Program],
        abouts: Sequence[About], training: Training, more: Mapping[str, Any],
    ) -> None:  # fmt: skip
        records = [
            {
                "name": member.name,
                "tasks": list(member.tasks),
                "train_examples": sum(map(len, member.train)),
                "steps": training.steps,
                "best_step": int(result.best_step[number]),
                "validation": _finite(float(result.best_score[number])),
                "diverged": bool(result.diverged[number]),
                "parameters": program.bank.methods[member.method].count(),
                "kind": program.bank.methods[member.method].kind,
            }
            for result, program in zip(trained, programs, strict=True)
            for number, member in enumerate(program.members)
        ]
        records = [
            record | dataclasses.asdict(about)
            for record, about in zip(records, abouts, strict=True)
        ]
        seconds = sum(result.cost.seconds for result in trained)
        costs = [
            {"name": program.name, **dataclasses.asdict(result.cost)}
            for result, program in zip(trained, programs, strict=True)
        ]
        run.finish(members=records, seconds=round(seconds, 1), programs=costs, **more)
        self.console.print(
            f"[bold]{self.stage}[/] is done in {seconds:.0f} s: {len(records)} files in {shown(run.prompts)}"
        )

    def _describe(self, programs: Sequence[Program], training: Training) -> None:
        backbone = self.backbone
        config = backbone.config
        self.console.print(
            f"[bold]{self.stage}[/]: backbone {backbone.name} ({backbone.num_parameters:,} parameters, "
            f"D = {config.emb_dim}, fingerprint {backbone.fingerprint}) on "
            f"{backbone.mesh.size} {jax.devices()[0].platform} device(s)"
        )
        for method in [method for program in programs for method in program.bank.methods]:
            share = method.count() / backbone.num_parameters
            length = f", P = {method.length}" if hasattr(method, "length") else ""
            self.console.print(
                f"  {method.name}: {method.members} member(s) of {method.tasks} task(s){length}; "
                f"{method.count():,} trainable parameters a member "
                f"({method.count() / method.tasks:,.0f} a task, {share:.3%} of the backbone)"
            )
        members = [member for program in programs for member in program.members]
        table = Table("member", "tasks", "train", "validation", box=None, padding=(0, 2))
        for member in members[:MEMBERS_SHOWN]:
            table.add_row(
                member.name,
                member.tasks[0] if len(member.tasks) == 1 else f"{len(member.tasks)} tasks",
                f"{sum(map(len, member.train)):,}",
                f"{sum(map(len, member.validation)):,}",
            )
        self.console.print(table)
        if len(members) > MEMBERS_SHOWN:
            self.console.print(f"  ... and {len(members) - MEMBERS_SHOWN} more")
        self.console.print(
            f"  {training.steps} steps of {training.rows_per_member} rows a member, validation every "
            f"{training.eval_period or training.steps} steps"
        )


def _finite(score: float) -> float | None:
    return score if np.isfinite(score) else None  # JSON knows no infinity


def members_of(source: str | Path, stages: tuple[str, ...]) -> list[dict[str, Any]]:
    """The members that a finished run recorded.

    Raises:
        UserError: no such run, another stage's, or one that did not finish.
    """
    return read_run(source, stages).record()["members"]
