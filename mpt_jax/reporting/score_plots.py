"""Final scores as bars and dots: source tasks, few-shot means, few-shot tasks one by one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from mpt_jax.reporting.figures import (
    CEILING_COLOUR,
    INK,
    MAJORITY_LINE,
    QUIET,
    ceiling_handle,
    draw,
    heading,
    legend,
    majority_handle,
    panels,
    score_limit,
    short,
)
from mpt_jax.reporting.layout import decimals_for, number
from mpt_jax.reporting.results import Results, Score
from mpt_jax.reporting.styles import Style, label, methods_of, styles
from mpt_jax.reporting.summaries import (
    distinct,
    k_label,
    ks_of,
    seed_means,
    shared_tasks,
    shown_scores,
    spread,
)
from mpt_jax.reporting.tables import by_method, source_columns


def source_bars(results: Results, path: Path) -> Path | None:
    """A group of bars for each source task: teacher and distilled methods; marks for majority, ceiling."""
    columns = source_columns(results)
    scores = [s for of in columns.values() for s in of]
    if not scores:
        return None
    by_label = {label(m): style for m, style in styles(methods_of(results)).items()}
    looks = {
        head: by_label[label(of[0].method)]._replace(label=head) for head, of in columns.items()
    }
    tasks = distinct(s.task for s in scores)

    def paint(figure) -> None:
        axes = figure.subplots()
        thick = 0.8 / len(columns)
        for i, (head, of) in enumerate(columns.items()):
            means = [spread(s.score for s in of if s.task == task).mean for task in tasks]
            at = np.arange(len(tasks)) + (i - (len(columns) - 1) / 2) * thick
            axes.barh(at, means, thick * 0.9, color=looks[head].colour)
        places = decimals_for(s.score for s in scores)
        for row, task in enumerate(tasks):
            here = [s for s in scores if s.task == task]
            _majority_mark(axes, here, row)
            _ceiling_marks(axes, results, task, row)
            best = max((s.score for s in here if s.score == s.score), default=0.0)
            marks = [c.score for c in results.ceilings if c.task == task]
            if not any(best - 0.01 < mark < best + 0.12 for mark in marks):
                text = number(best, min(places, 2))
                axes.annotate(
                    text, (best, row), (5, 0), textcoords="offset points", va="center",
                    fontsize=9, color=QUIET,
                )  # fmt: skip
        axes.set_yticks(range(len(tasks)), [short(t) for t in tasks])
        axes.invert_yaxis()
        axes.set_ylim(len(tasks) - 0.45, -0.55)
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        axes.tick_params(axis="y", length=0)
        _limit(axes, "x", scores, results)
        axes.set_xlabel(_metric(scores))
        heading(
            figure,
            "Source tasks",
            f"{scores[0].split} split; the figure beside the bars is the best of them",
        )
        bars = [style._replace(marker="s", line="none") for style in looks.values()]
        legend(figure, bars, _mark_handles(scores, results, tasks))

    return draw(path, 1.9 + len(tasks) * (0.18 + 0.14 * len(columns)), paint)


def few_shot_bars(results: Results, path: Path) -> Path | None:
    """Mean over the target tasks for each k and method: a bar, and a point for each seed."""
    scores = shown_scores(results, "adapt")
    if not scores:
        return None
    look = {s.label: s for s in styles(methods_of(results)).values()}
    ks = ks_of(scores)

    def paint(figure) -> None:
        axes = figure.subplots()
        shown: list[float] = []
        counts = []
        widest = max(4, *(len(by_method(results, scores, k)) for k in ks))
        for group, k in enumerate(ks):
            columns = by_method(results, scores, k)
            tasks = shared_tasks(columns.values())
            counts.append(len(tasks))
            thick = 0.84 / widest
            for i, (head, of) in enumerate(columns.items()):
                values = list(seed_means(of, tasks).values())
                if not values:
                    continue
                shown += values
                at = group + (i - (len(columns) - 1) / 2) * thick
                _bar_with_seeds(axes, at, thick, values, look[head])
            majority = [
                next((s.majority for s in scores if s.task == t and s.majority is not None), None)
                for t in tasks
            ]
            if majority and None not in majority:
                axes.hlines(
                    np.mean([m for m in majority if m is not None]), group - 0.46, group + 0.46,
                    **_line_collection(),
                )  # fmt: skip
        axes.set_xticks(range(len(ks)), [k_label(k) for k in ks], fontsize=10.5)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.55, len(ks) - 0.45)
        axes.set_ylim(0, score_limit(shown) * 1.05)
        axes.set_ylabel("mean score")
        tasks_text = "–".join(distinct(str(n) for n in (min(counts), max(counts))))
        heading(
            figure,
            "Target tasks: mean score by method",
            f"mean over {tasks_text} tasks, {scores[0].split} split; "
            + ("a dot is one seed" if len({s.seed for s in scores}) > 1 else "one seed"),
        )
        bars = [
            look[label(m)]._replace(marker="s", line="none")
            for m in methods_of(results)
            if any(s.method == m for s in scores)
        ]
        known = any(s.majority is not None for s in scores)
        legend(figure, bars, [majority_handle()] if known else [])

    return draw(path, 4.6, paint)


def few_shot_tasks(results: Results, path: Path) -> Path | None:
    """Each target task a row, each method a dot with ± 1 s.d. over seeds, a panel for each k."""
    scores = shown_scores(results, "adapt")
    if not scores:
        return None
    look = {s.label: s for s in styles(methods_of(results)).values()}
    ks, tasks = ks_of(scores), distinct(s.task for s in scores)

    def paint(figure) -> None:
        for k, axes in zip(ks, panels(figure, len(ks), 3), strict=True):
            columns = by_method(results, scores, k)
            for row, task in enumerate(tasks):
                for i, (head, of) in enumerate(columns.items()):
                    value = spread(s.score for s in of if s.task == task)
                    at = row + (i - (len(columns) - 1) / 2) * 0.7 / max(1, len(columns))
                    style = look[head]
                    axes.errorbar(
                        value.mean, at, xerr=None if value.count < 2 else value.deviation,
                        color=style.colour, marker=style.marker, markersize=5.5, linewidth=1.4,
                    )  # fmt: skip
                _majority_mark(axes, [s for s in scores if s.task == task], row)
                _ceiling_marks(axes, results, task, row)
            for row in range(1, len(tasks)):
                axes.axhline(row - 0.5, color="#EEEEEE", linewidth=0.8, zorder=0)
            axes.set_title(k_label(k))
            axes.set_xlabel(_metric(scores))
            axes.grid(False, axis="y")
            axes.grid(True, axis="x")
            axes.tick_params(axis="y", length=0)
        first = figure.axes[0]
        first.set_yticks(range(len(tasks)), [short(t) for t in tasks])
        first.set_ylim(len(tasks) - 0.5, -0.5)
        _limit(first, "x", scores, results)
        seeds = len({s.seed for s in scores})
        heading(
            figure,
            "Target tasks one by one",
            f"{scores[0].split} split; "
            + (f"bars: ± 1 standard deviation over {seeds} seeds" if seeds > 1 else "one seed"),
        )
        dots = [
            look[label(m)]._replace(line="none")
            for m in methods_of(results)
            if any(s.method == m for s in scores)
        ]
        legend(figure, dots, _mark_handles(scores, results, tasks))

    methods = len({s.method for s in scores})
    return draw(path, 2.0 + len(tasks) * (0.2 + 0.1 * methods) * -(-len(ks) // 3), paint)


def _bar_with_seeds(
    axes: Axes, at: float, thick: float, values: Sequence[float], style: Style
) -> None:
    mean = float(np.mean(values))
    axes.bar(at, mean, thick * 0.9, color=style.colour, alpha=0.85)
    if len(values) > 1:
        offsets = np.linspace(-0.22, 0.22, len(values)) * thick
        axes.scatter(
            at + offsets, values, s=20, color=INK, edgecolor="white", linewidth=0.7, zorder=3
        )
    axes.annotate(
        number(mean, decimals_for(values)), (at, max(values)), (0, 5), textcoords="offset points",
        ha="center", fontsize=9, color=INK,
    )  # fmt: skip


def _majority_mark(axes: Axes, scores: Sequence[Score], row: int) -> None:
    majority = next((s.majority for s in scores if s.majority is not None), None)
    if majority is not None:
        axes.vlines(majority, row - 0.42, row + 0.42, zorder=3, **_line_collection())


def _ceiling_marks(axes: Axes, results: Results, task: str, row: int) -> None:
    for c in results.ceilings:
        if c.task == task:
            axes.vlines(c.score, row - 0.32, row + 0.32, color=CEILING_COLOUR, linewidth=2.2)


def _mark_handles(scores: Sequence[Score], results: Results, tasks: Sequence[str]) -> list:
    handles = [majority_handle()] if any(s.majority is not None for s in scores) else []
    names = distinct(c.name for c in results.ceilings if c.task in tasks)
    return handles + [ceiling_handle(name) for name in names]


def _line_collection() -> dict:
    """The majority line's look under the names that hlines and vlines know."""
    return {
        "colors": MAJORITY_LINE["color"],
        "linestyles": [MAJORITY_LINE["linestyle"]],
        "linewidth": MAJORITY_LINE["linewidth"],
    }


def _limit(axes: Axes, axis: str, scores: Sequence[Score], results: Results) -> None:
    tasks = {s.task for s in scores}
    values = [s.score for s in scores] + [c.score for c in results.ceilings if c.task in tasks]
    axes.set_xlim(0, score_limit(values))


def _metric(scores: Sequence[Score]) -> str:
    names = distinct(s.metric.replace("_", " ") for s in scores)
    return " or ".join(names) if len(names) < 3 else "score"
