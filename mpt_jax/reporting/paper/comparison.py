"""Our scores beside the published ones: as a table to read, and as JSON."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mpt_jax.reporting.layout import NOTHING, Cell, Table, span
from mpt_jax.reporting.paper.published import Figure, PublishedRow, PublishedTable, task_facts
from mpt_jax.reporting.results import Score
from mpt_jax.reporting.summaries import Spread, distinct, spread

AVERAGE = "average"


@dataclasses.dataclass(frozen=True)
class Head:
    """A column: its title, the task (None: none of ours), the metric (None: the task's first), the scale."""

    title: str
    task: str | None
    metric: str | None
    times: float

    def value(self, score: Score) -> float:
        return self.times * (score.score if self.metric is None else score.metrics[self.metric])

    def majority(self, score: Score) -> float | None:
        found = score.majority if self.metric is None else score.majorities.get(self.metric)
        return None if found is None else self.times * found


@dataclasses.dataclass(frozen=True)
class Line:
    """One method.

    Attributes:
        label: its name.
        method: our name of it.
        published: what is published of it.
        scores: by column, one for each seed; None where mpt_jax does not have the method.
        standing: how many of its runs are done, where it is ours: "5 of 8 cells".
    """

    label: str
    method: str
    published: PublishedRow | None
    scores: Mapping[str, Sequence[Score]] | None
    standing: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that a table shows.

    Attributes:
        title: of the table.
        heads: the columns.
        lines: the methods.
        published: the table that they are compared with; None where there is none of that name.
    """

    title: str
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    published: PublishedTable | None

    @property
    def averaged(self) -> bool:
        """Whether a mean over the columns says something: where the published table has it."""
        return self.published is None or any(row.average for row in self.published.rows)

    @property
    def same_columns(self) -> bool:
        """Whether the published averages are over these very columns."""
        return self.published is not None and set(self.published.columns) == {
            head.title for head in self.heads
        }

    def of_column(self, head: Head) -> list[Score]:
        """All scores below a column, whoever's."""
        return [s for line in self.lines for s in (line.scores or {}).get(head.title, ())]

    def majority(self, head: Head) -> float | None:
        return next((m for s in self.of_column(head) if (m := head.majority(s)) is not None), None)

    def means(self, line: Line) -> dict[str, Spread]:
        """Our means over seeds, by column and over the columns."""
        scores = line.scores or {}
        found = {h.title: spread(map(h.value, scores.get(h.title, ()))) for h in self.heads}
        by_seed: dict[int, list[float]] = {}
        for head in self.heads:
            for score in scores.get(head.title, ()):
                by_seed.setdefault(score.seed, []).append(head.value(score))
        whole = [sum(v) / len(v) for v in by_seed.values() if len(v) == len(self.heads)]
        return {**found, AVERAGE: spread(whole)}

    def published_average(self, line: Line) -> Figure | None:
        return line.published.average if line.published and self.same_columns else None


def comparison_table(comparison: Comparison) -> tuple[Table, list[str]]:
    """Two lines for each method that mpt_jax has, published and ours, one for the others; and notes."""
    doubts = _Doubts()
    heads = comparison.heads
    table = Table(
        comparison.title,
        ["method", "whose", "parameters", *(h.title for h in heads),
         *([AVERAGE] if comparison.averaged else ())],
        text_columns=2,
    )  # fmt: skip

    def add(*cells: Cell | str, average: Cell | str, summary: bool = False) -> None:
        table.add(*cells, *([average] if comparison.averaged else ()), summary=summary)

    majorities = [comparison.majority(head) for head in heads]
    known = [m for m in majorities if m is not None]
    add(
        "majority class", "mpt_jax", "", *(_text(m, h) for m, h in zip(majorities, heads, strict=True)),
        average=_text(sum(known) / len(known) if len(known) == len(heads) else None, heads[0]),
    )  # fmt: skip
    for line in comparison.lines:
        if line.published is not None:
            row, average = line.published, comparison.published_average(line)
            add(
                line.label, _whose(line, average),
                (row.parameters or NOTHING) + doubts.marks(row.parameter_doubts),
                *(_figure(row.cells.get(h.title), h, doubts) for h in heads),
                average=_figure(average, heads[0], doubts),
            )  # fmt: skip
        if line.scores is not None:
            means = comparison.means(line)
            add(
                f"{line.label}, ours", line.standing, _parameters(line),
                *(Cell(_mean(means[h.title], h), bold=True) for h in heads),
                average=Cell(_mean(means[AVERAGE], heads[0]), bold=True),
            )  # fmt: skip
    scored = [span({s.num_examples for s in comparison.of_column(head)}) for head in heads]
    add("test examples", "mpt_jax", "", *scored, average="", summary=True)
    facts = [None if head.task is None else task_facts(head.task) for head in heads]
    if known_facts := [f for f in facts if f is not None]:
        whose = ", ".join(distinct(f.source for f in known_facts))
        tests = [NOTHING if f is None or f.test is None else f"{f.test:,}" for f in facts]
        add("test examples, published", whose, "", *tests, average="", summary=True)
    table.caption = _caption(comparison)
    return table, [*_sources(comparison), *doubts.texts()]


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The same, with every seed's score, as plain JSON values."""
    published = comparison.published
    return {
        "title": comparison.title,
        "columns": [
            {
                **dataclasses.asdict(head),
                "majority": comparison.majority(head),
                "split": next((s.split for s in comparison.of_column(head)), None),
                "num_examples": next((s.num_examples for s in comparison.of_column(head)), None),
            }
            for head in comparison.heads
        ],
        "lines": [_line_json(comparison, line) for line in comparison.lines],
        "sources": {} if published is None else dict(published.sources),
    }


def _line_json(comparison: Comparison, line: Line) -> dict[str, Any]:
    average = comparison.published_average(line)
    found: dict[str, Any] = {
        "label": line.label,
        "method": line.method,
        "built": line.scores is not None,
        "published": None,
        "ours": None,
    }
    if line.published is not None:
        found["published"] = {
            "parameters": line.published.parameters,
            "parameter_doubts": list(line.published.parameter_doubts),
            "cells": {title: dataclasses.asdict(f) for title, f in line.published.cells.items()},
            "average": None if average is None else dataclasses.asdict(average),
        }
    if line.scores is not None:
        means = comparison.means(line)
        found["ours"] = {
            "standing": line.standing,
            "cells": {
                head.title: {
                    "mean": _finite(means[head.title].mean),
                    "deviation": _finite(means[head.title].deviation),
                    "seeds": [s.seed for s in of],
                    "scores": [_finite(head.value(s)) for s in of],
                    "k": of[0].k,
                    "split": of[0].split,
                    "num_examples": of[0].num_examples,
                    "majority": head.majority(of[0]),
                    "train_examples": of[0].train_examples,
                    "steps": of[0].steps,
                    "best_steps": [s.best_step for s in of],
                    "parameters": of[0].parameters,
                }
                for head in comparison.heads
                if (of := line.scores.get(head.title, ()))
            },
            "average": _finite(means[AVERAGE].mean),
            "average_deviation": _finite(means[AVERAGE].deviation),
        }
    return found


class _Doubts:
    """Numbered as they come up."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def marks(self, doubts: Sequence[str]) -> str:
        numbers = [self._numbers.setdefault(text, len(self._numbers) + 1) for text in doubts]
        return f" [{','.join(map(str, numbers))}]" if numbers else ""

    def texts(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self._numbers.items()]


def _whose(line: Line, average: Figure | None) -> str:
    """The sources of a published line, and why it has none of ours below."""
    row = line.published
    assert row is not None
    figures = [*row.cells.values(), *([] if average is None else [average])]
    found = ", ".join(distinct(f.source for f in figures if f.value is not None)) or "not found"
    if row.later:
        return f"{found}; later paper"
    return found if line.scores is not None else f"{found}; published only"


def _figure(figure: Figure | None, head: Head, doubts: _Doubts) -> str:
    if figure is None:
        return NOTHING
    if figure.value is None:
        return NOTHING + doubts.marks(figure.doubts)
    digits = len(repr(figure.value).partition(".")[2])  # as many as are printed, or as ours has
    text = f"{figure.value:.{max(digits, _places(figure.value, head))}f}"
    if figure.deviation is not None:
        text += f" ±{_text(figure.deviation, head)}"
    return text + doubts.marks(figure.doubts)


def _mean(value: Spread, head: Head) -> str:
    mean = _text(_finite(value.mean), head)
    return mean if math.isnan(value.deviation) else f"{mean} ±{_text(value.deviation, head)}"


def _text(value: float | None, head: Head) -> str:
    return NOTHING if value is None else f"{value:.{_places(value, head)}f}"


def _places(value: float, head: Head) -> int:
    """One decimal for scores in hundreds."""
    if head.times == 100:
        return 1
    return 3 if abs(value) < 1 else 2


def _parameters(line: Line) -> str:
    return span({s.parameters for of in (line.scores or {}).values() for s in of})


def _caption(comparison: Comparison) -> str:
    scores = [s for head in comparison.heads for s in comparison.of_column(head)]
    splits = ", ".join(distinct(s.split for s in scores)) or NOTHING
    seeds = ", ".join(map(str, sorted({s.seed for s in scores}))) or NOTHING
    metrics = ", ".join(
        f"{h.title} {h.metric or 'its first'}" for h in comparison.heads if h.task is not None
    )
    text = f"Ours: mean ± standard deviation over the seeds {seeds}; split: {splits}; metrics: {metrics}."
    if comparison.published is None or comparison.same_columns or not comparison.averaged:
        return text
    return text + " Published averages are over other columns and left out."


def _sources(comparison: Comparison) -> list[str]:
    """What the sources are that the published figures of this table were copied from."""
    if comparison.published is None:
        return []
    averages = [comparison.published_average(line) for line in comparison.lines]
    cells = [f for row in comparison.published.rows for f in row.cells.values()]
    used = distinct(f.source for f in [*cells, *averages] if f is not None and f.value is not None)
    return [f"{name}: {comparison.published.sources[name]}." for name in used]


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
