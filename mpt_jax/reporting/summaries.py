"""Means over tasks and seeds, their spread, and which differences are more than noise."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mpt_jax.reporting.results import MEAN_OF_TASKS, Curve, Results, Score

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Spread:
    """Mean of `count` numbers and their standard deviation (n - 1), nan for fewer than two."""

    mean: float
    deviation: float
    count: int

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(self.count) if self.count else math.nan


def spread(values: Iterable[float]) -> Spread:
    array = np.asarray(list(values), np.float64)
    if not array.size:
        return Spread(math.nan, math.nan, 0)
    deviation = float(array.std(ddof=1)) if array.size > 1 else math.nan
    return Spread(float(array.mean()), deviation, int(array.size))


def clearly_best(spreads: Mapping[T, Spread]) -> T | None:
    """Whose mean is ahead of *every* other by more than the pair's pooled standard error, or None.

    The pooled standard error is sqrt(s^2 (1/n1 + 1/n2)) with s^2 the pooled variance; with a single
    seed on both sides it is unknown, and then nobody is clearly best.
    """
    if len(spreads) < 2 or any(math.isnan(s.mean) for s in spreads.values()):
        return None
    best = max(spreads, key=lambda name: spreads[name].mean)
    others = [s for name, s in spreads.items() if name != best]
    ahead = all(spreads[best].mean - o.mean > _pooled_error(spreads[best], o) for o in others)
    return best if ahead else None


def _pooled_error(a: Spread, b: Spread) -> float:
    freedom = a.count + b.count - 2
    if freedom < 1:
        return math.nan  # no comparison with nan is true
    squares = sum((s.count - 1) * s.deviation**2 for s in (a, b) if s.count > 1)
    return math.sqrt(squares / freedom * (1 / a.count + 1 / b.count))


@dataclass(frozen=True)
class Difference:
    """One method minus a control, paired by (task, seed).

    Attributes:
      mean: over all pairs.
      error: standard error over the pairs.
      task_error: standard error over the tasks' mean differences; larger where the tasks disagree.
      won, lost: how many pairs were above and below zero.
    """

    mean: float
    error: float
    task_error: float
    pairs: int
    won: int
    lost: int

    @property
    def verdict(self) -> str:
        """Ahead or behind if the mean is over two of the larger standard error from zero."""
        errors = [e for e in (self.error, self.task_error) if not math.isnan(e)]
        if self.pairs < 2 or not errors or math.isnan(self.mean):
            return "too few pairs"
        if abs(self.mean) <= 2 * max(errors):
            return "within noise"
        return "ahead" if self.mean > 0 else "behind"

    @property
    def settled(self) -> bool:
        """Whether the sign is more than noise."""
        return self.verdict in ("ahead", "behind")


def paired_difference(scores: Sequence[Score], method: str, control: str) -> Difference | None:
    """`method` minus `control` wherever both were run with the same k, task, seed and split."""
    of: dict[str, dict[tuple, float]] = {method: {}, control: {}}
    for s in scores:
        if s.method in of:
            of[s.method][(s.task, s.seed, s.k, s.split)] = s.score
    pairs = {
        key: value - of[control][key] for key, value in of[method].items() if key in of[control]
    }
    if not pairs:
        return None
    tasks = distinct(key[0] for key in pairs)
    per_task = [spread(d for key, d in pairs.items() if key[0] == task).mean for task in tasks]
    values = np.asarray(list(pairs.values()))
    return Difference(
        mean=float(values.mean()),
        error=spread(values).error,
        task_error=spread(per_task).error,
        pairs=len(pairs),
        won=int((values > 1e-9).sum()),
        lost=int((values < -1e-9).sum()),
    )


def seed_means(scores: Sequence[Score], tasks: Sequence[str]) -> dict[int, float]:
    """Mean score over `tasks` for each seed that has all of them."""
    by_seed: dict[int, dict[str, float]] = {}
    for s in scores:
        if s.task in tasks:
            by_seed.setdefault(s.seed, {})[s.task] = s.score
    return {
        seed: float(np.mean([values[task] for task in tasks]))
        for seed, values in sorted(by_seed.items())
        if tasks and len(values) == len(tasks)
    }


def shared_tasks(columns: Iterable[Sequence[Score | Curve]]) -> list[str]:
    """The tasks that every one of the columns (methods) has, in order of appearance.

    Means are taken over these, lest a method that lacks a hard task looks better for it.
    """
    task_lists = [distinct(record.task for record in column) for column in columns]
    if not task_lists:
        return []
    return [task for task in task_lists[0] if all(task in others for others in task_lists[1:])]


def curve_tasks(columns: Mapping[T, Sequence[Curve]]) -> dict[T, list[str]]:
    """Over which tasks each column's mean curve is taken: those that all have.

    Members that learn all tasks together have the mean of them as their only curve, which stands in for
    it.
    """
    own = {name: of for name, of in columns.items() if any(c.task != MEAN_OF_TASKS for c in of)}
    shared = shared_tasks(own.values())
    return {name: shared if name in own else [MEAN_OF_TASKS] for name in columns}


def mean_curve(
    curves: Sequence[Curve], tasks: Sequence[str]
) -> tuple[list[int], dict[int, list[float]]]:
    """Steps that all the curves have, and for each complete seed the mean over `tasks` at each step."""
    chosen = [c for c in curves if c.task in tasks]
    steps = sorted(set.intersection(*(set(c.steps) for c in chosen))) if chosen else []
    by_seed: dict[int, dict[str, dict[int, float]]] = {}
    for c in chosen:
        by_seed.setdefault(c.seed, {})[c.task] = dict(zip(c.steps, c.scores, strict=True))
    return steps, {
        seed: [float(np.mean([of[task][step] for task in tasks])) for step in steps]
        for seed, of in sorted(by_seed.items())
        if len(of) == len(tasks)
    }


def distinct(values: Iterable[T]) -> list[T]:
    """Each value once, in order of appearance."""
    return list(dict.fromkeys(values))


def ks_of(records: Iterable[Score | Curve]) -> list[int | None]:
    """The values of k, rising, full data last."""
    return sorted({r.k for r in records}, key=lambda k: math.inf if k is None else k)


def k_label(k: int | None) -> str:
    return "all training examples" if k is None else f"k = {k}"


def reported_split(records: Iterable[Score | Curve]) -> str | None:
    """The one split that is shown: test if there is one, else the last that was written."""
    splits = distinct(record.split for record in records)
    if not splits:
        return None
    return "test" if "test" in splits else splits[-1]


def shown_scores(results: Results, *stages: str) -> list[Score]:
    """The scores of these stages on the reported split."""
    scores = [s for s in results.scores if s.stage in stages]
    split = reported_split(scores)
    return [s for s in scores if s.split == split]


def shown_curves(results: Results, *stages: str) -> list[Curve]:
    """The curves of these stages, of one split: validation if there is one, where choices were made."""
    curves = [c for c in results.curves if c.stage in stages]
    splits = distinct(c.split for c in curves)
    split = "validation" if "validation" in splits else reported_split(curves)
    return [c for c in curves if c.split == split]
