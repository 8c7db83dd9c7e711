"""Trains one population of a sweep, from teachers to scores, and tells the ledger."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from mpt_jax.errors import UserError
from mpt_jax.run_directory import read_run
from mpt_jax.stages.command_runs import CHANGED, DONE, RUNNING, Run, changes, run_all, state_of
from mpt_jax.stages.sweep_ledger import Ledger
from mpt_jax.stages.sweep_runs import Plan
from mpt_jax.stages.sweep_trial import DONE as TRIAL_DONE
from mpt_jax.stages.sweep_trial import FAILED, PRUNED, Trial
from mpt_jax.stages.sweep_trial import RUNNING as TRIAL_RUNNING
from mpt_jax.working_copy import ask_bucket

WAIT_SECONDS = 2.0  # between looks at teachers that another worker trains


class Busy(Exception):
    """Another worker trains this population."""


class Failure(Exception):
    """A run of the population failed, so none of its trials has a score."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains populations.

    Attributes:
        plan: their runs.
        ledger: what is told.
        launch: runs a command line of mpt in this process.
        gin_words, task_modules: for the commands that it launches.
        console: for messages.
    """

    plan: Plan
    ledger: Ledger
    launch: Callable[[Sequence[str]], object]
    gin_words: Sequence[str]
    task_modules: Sequence[str]
    console: Console

    def train(self, population: Sequence[Trial]) -> None:
        """Trains and tells all trials that are not told yet; one that fails stops no other.

        Raises:
            Busy: another worker has its run directories.
            UserError: a run directory holds something else.
            Stopped: by a signal; the same command goes on.
        """
        open_trials = [t for t in population if t.state == TRIAL_RUNNING]
        try:
            self._train(population)
        except Failure as failure:
            for trial in open_trials:
                self._fail(trial, str(failure))

    def _train(self, population: Sequence[Trial]) -> None:
        distill = self.plan.distill(population)
        self._finish(*distill.needs)
        self._finish(distill)
        left = self._distilled(population, distill)
        seeds = range(self.plan.setup.num_seeds)
        runs = [distill]
        if self.plan.setup.keep < 1 and left:
            first = self.plan.adapt(population, left, seeds[:1], "adapt_first")
            self._finish(first)
            runs.append(first)
            left = self._kept(left, first)
            seeds = seeds[1:]
        if left:
            rest = self.plan.adapt(population, left, seeds)
            self._finish(rest)
            runs.append(rest)
            self._tell(left, runs)

    def _distilled(self, population: Sequence[Trial], distill: Run) -> list[Trial]:
        """Notes the scores on source tasks; the trials whose members all stayed finite."""
        left = []
        for trial in population:
            members = _members(distill, trial)
            if lost := [m["name"] for m in members if m["diverged"] or m["validation"] is None]:
                self._fail(trial, f"distillation diverged: {', '.join(lost)}")
                continue
            if trial.state == TRIAL_RUNNING:
                mean = statistics.fmean(m["validation"] for m in members)
                self.ledger.note(trial.number, source_score=mean)
            left.append(trial)
        return left

    def _kept(self, trials: Sequence[Trial], first: Run) -> list[Trial]:
        """The share that is kept, by the scores with the first seed. A verdict stands."""
        sound = []
        for trial in trials:
            rows = _rows(_members(first, trial))
            mean = statistics.fmean(row["score"] for row in rows)
            if not math.isfinite(mean):
                self._fail(trial, "adaptation diverged with the first seed")
                continue
            if trial.state == TRIAL_RUNNING and not trial.kept:
                self.ledger.note(trial.number, rows=rows)
                self.ledger.note_first(trial.number, mean)
            sound.append(trial)
        kept = []
        for trial in sound:
            if trial.state == TRIAL_RUNNING and not trial.kept:
                if self.ledger.prunes(trial.number):
                    self.ledger.tell(trial.number, PRUNED)
                    self.console.print(f"{trial.name} is pruned by its score with the first seed")
                    continue
                self.ledger.note(trial.number, kept=True)
            if trial.state != PRUNED:
                kept.append(trial)
        return kept

    def _tell(self, trials: Sequence[Trial], runs: Sequence[Run]) -> None:
        adapted = [run for run in runs if run.stage == "adapt"]
        seconds = sum(read_run(run.folder).record()["seconds"] for run in runs) / len(trials)
        for trial in trials:
            members = [member for run in adapted for member in _members(run, trial)]
            rows = _rows(members)
            if lost := [m["name"] for m in members if m["diverged"] or m["validation"] is None]:
                self._fail(trial, f"adaptation diverged: {', '.join(lost[:4])}")
            elif trial.state == TRIAL_RUNNING:
                self.ledger.note(trial.number, rows=rows, seconds=seconds)
                mean = statistics.fmean(row["score"] for row in rows)
                self.ledger.tell(trial.number, TRIAL_DONE, mean)

    def _fail(self, trial: Trial, reason: str) -> None:
        if trial.state == TRIAL_RUNNING and (
            self.ledger.trials_by_number()[trial.number].state == TRIAL_RUNNING
        ):
            self.console.print(f"{trial.name} failed: {reason}", style="red")
            self.ledger.note(trial.number, reason=reason)
            self.ledger.tell(trial.number, FAILED)

    def _finish(self, *runs: Run) -> None:
        """Runs what is not done. Teachers may be another worker's: then it waits for them."""
        for run in runs:
            while (state := _state_of(run)) == RUNNING and run.stage == "teach":
                time.sleep(WAIT_SECONDS)
            if state == CHANGED:
                raise UserError(
                    f"{run.place} holds a run with other settings ({'; '.join(changes(run)[:4])}): give "
                    "another --model_dir, or remove it"
                )
            if state == RUNNING:
                raise Busy
            if state == DONE:
                continue
            wrong = run_all([run], self.launch, self.gin_words, self.task_modules, self.console)
            if wrong:
                if run.stage == "teach" and state_of(run) in (RUNNING, DONE):
                    self._finish(run)  # another worker was quicker
                elif state_of(run) == RUNNING:
                    raise Busy
                else:
                    raise Failure(wrong[0])


def _state_of(run: Run) -> str:
    """As it is now; at an address other workers may have changed it."""
    ask_bucket(run.folder)
    return state_of(run)


def _members(run: Run, trial: Trial) -> list[Mapping[str, Any]]:
    """What a finished run recorded of a trial's members."""
    return [m for m in read_run(run.folder).record()["members"] if m["method"] == trial.name]


def _rows(members: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A score for each prompt on a target."""
    return [
        {
            "task": member["tasks"][0], "k": member["k"], "seed": member["seed"],
            "score": math.nan if member["validation"] is None else member["validation"],
        }
        for member in members
    ]  # fmt: skip
