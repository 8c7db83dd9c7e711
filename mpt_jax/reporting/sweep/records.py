"""What is known of a sweep when it is reported, and what follows from it by arithmetic."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mpt_jax.reporting.summaries import Spread, distinct, spread

SOURCES = "sources"  # the axis of source mixtures
ALL = "all"  # and its value for all tasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One setting and its scores.

    Attributes:
        number: in the ledger.
        state: "done", "pruned", "failed", "running" or "waiting".
        setting: axis -> value, of all axes that there are.
        rows: {"task", "k", "seed", "score"} for each prompt on a target.
        source_score: mean over its own source tasks and seeds.
        seconds: its share of its population's training.
        reason: why it failed.
    """

    number: int
    state: str
    setting: dict[str, Any]
    rows: list[dict[str, Any]]
    source_score: float | None
    seconds: float
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep as far as it is.

    Attributes:
        backbone: name, fingerprint, parameters.
        base: the setting that parts of the space vary.
        axes: axis -> values, those that are varied.
        mixtures: name -> source tasks, of the mixtures in use.
        targets: target task -> {"metric", "majority", "examples"}.
        about: steps, rows, seeds and so on, for the reader.
        trials: those that were asked for, and those that wait.
    """

    backbone: dict[str, Any]
    base: dict[str, Any]
    axes: dict[str, Any]
    mixtures: dict[str, list[str]]
    targets: dict[str, dict[str, Any]]
    about: dict[str, Any]
    trials: list[TrialRecord]

    @property
    def done(self) -> list[TrialRecord]:
        return [trial for trial in self.trials if trial.state == "done"]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Sweep":
        """The inverse of `plain`."""
        return cls(**{**content, "trials": [TrialRecord(**t) for t in content["trials"]]})


def described(setting: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """In what a setting differs from the base."""
    own = [f"{axis} {shown(v)}" for axis, v in setting.items() if base.get(axis) != v]
    return ", ".join(own) or "base"


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def score(trials: Sequence[TrialRecord], task: str | None = None) -> Spread:
    """Mean over trials and target tasks (or of one), with its spread over seeds."""
    return spread(_by_seed(trials, task).values())


def values(sweep: Sweep, axis: str) -> list[Any]:
    """The values of an axis that have scores, in the axis's order."""
    found = distinct(trial.setting[axis] for trial in sweep.done)
    given = sweep.axes.get(axis)
    if isinstance(given, list):
        return [value for value in given if value in found]
    return sorted(found)


def at(sweep: Sweep, axis: str, value: Any) -> list[TrialRecord]:
    """The finished trials with that value: those that are the base otherwise, where there are two or more
    values of the axis among these; else all."""
    own = [t for t in sweep.done if _others(t, axis) == _others_of(sweep.base, axis)]
    among = own if len({t.setting[axis] for t in own}) > 1 else sweep.done
    return [trial for trial in among if trial.setting[axis] == value]


def difference(
    sweep: Sweep, axis: str, value: Any, reference: Any, task: str | None = None
) -> Spread:
    """What a value scores above the reference, with its spread over seeds.

    Trials are paired that have all other axes in common; without any such pair the means over all trials
    with each value are compared.
    """
    with_value = {_others(t, axis): t for t in sweep.done if t.setting[axis] == value}
    with_reference = {_others(t, axis): t for t in sweep.done if t.setting[axis] == reference}
    common = with_value.keys() & with_reference.keys()
    if common:
        ours, theirs = [with_value[k] for k in common], [with_reference[k] for k in common]
    else:
        ours, theirs = list(with_value.values()), list(with_reference.values())
    above, below = _by_seed(ours, task), _by_seed(theirs, task)
    return spread(above[seed] - below[seed] for seed in above if seed in below)


def is_paired(sweep: Sweep, axis: str, reference: Any) -> bool:
    """Whether every value of the axis has a trial that differs from one of the reference in it alone."""
    with_reference = {_others(t, axis) for t in sweep.done if t.setting[axis] == reference}
    return all(
        any(_others(t, axis) in with_reference for t in sweep.done if t.setting[axis] == value)
        for value in values(sweep, axis)
    )


def is_clear(value: Spread) -> bool:
    """Whether a difference is over two standard errors, over three seeds or more, from zero."""
    return value.count > 2 and abs(value.mean) > 2 * value.error


def best(sweep: Sweep) -> list[TrialRecord]:
    """The finished trials, the best first."""
    return sorted(sweep.done, key=lambda trial: -score([trial]).mean)


def mean_majority(sweep: Sweep) -> float:
    """Mean over the targets; nan where one has none."""
    found = [about["majority"] for about in sweep.targets.values()]
    known = [m for m in found if m is not None]
    return statistics.fmean(known) if found and len(known) == len(found) else math.nan


def _by_seed(trials: Sequence[TrialRecord], task: str | None) -> dict[int, float]:
    scores: dict[int, list[float]] = {}
    for row in (row for trial in trials for row in trial.rows):
        if task is None or row["task"] == task:
            scores.setdefault(row["seed"], []).append(row["score"])
    return {seed: statistics.fmean(found) for seed, found in sorted(scores.items())}


def _others(trial: TrialRecord, axis: str) -> tuple[Any, ...]:
    return _others_of(trial.setting, axis)


def _others_of(setting: Mapping[str, Any], axis: str) -> tuple[Any, ...]:
    return tuple(sorted((n, repr(v)) for n, v in setting.items() if n != axis))
