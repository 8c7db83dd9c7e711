"""Learning curves: score against training steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from mpt_jax.reporting.figures import (
    MAJORITY_LINE,
    draw,
    heading,
    legend,
    majority_handle,
    panels,
    score_limit,
    short,
)
from mpt_jax.reporting.results import Curve, Results
from mpt_jax.reporting.styles import Style, methods_of, styles
from mpt_jax.reporting.summaries import (
    curve_tasks,
    distinct,
    k_label,
    ks_of,
    mean_curve,
    shown_curves,
    spread,
)


def mean_curves(results: Results, path: Path) -> Path | None:
    """Mean over the target tasks against steps, one panel for each k; bands are ± 1 s.d. over seeds."""
    curves = [c for c in shown_curves(results, "adapt") if len(c.steps) > 1]
    if not curves:
        return None
    look = styles(methods_of(results))
    ks = ks_of(curves)

    def paint(figure) -> None:
        highest: list[float] = [0.0]
        counts = []
        for k, axes in zip(ks, panels(figure, len(ks), 3), strict=True):
            of = {m: [c for c in curves if c.k == k and c.method == m] for m in look}
            of = {m: found for m, found in of.items() if found}
            tasks = curve_tasks(of)
            counts.append(max(map(len, tasks.values())))
            for m, found in reversed(of.items()):  # the first method on top
                steps, by_seed = mean_curve(found, tasks[m])
                highest += [v for values in by_seed.values() for v in values]
                _line_with_band(axes, steps, list(by_seed.values()), look[m])
            axes.set_title(k_label(k))
            axes.set_xlabel("training steps")
            axes.set_xlim(left=0)
        figure.axes[0].set_ylabel("mean score")
        figure.axes[0].set_ylim(0, score_limit(highest))
        tasks_text = "–".join(distinct(str(n) for n in (min(counts), max(counts))))
        heading(
            figure,
            "Learning curves, target tasks",
            f"mean over {tasks_text} tasks, {curves[0].split} split; {_band_note(curves)}",
        )
        legend(figure, [look[m] for m in look if any(c.method == m for c in curves)])

    return draw(path, 4.4, paint)


def task_curves(
    results: Results, path: Path, *, stages: Sequence[str], k: int | None, title: str
) -> Path | None:
    """One small panel for each task: every method's curve, the mean over seeds with its band."""
    curves = [c for c in shown_curves(results, *stages) if c.k == k and len(c.steps) > 1]
    if not curves:
        return None
    series = _series(curves, results)
    tasks = distinct(c.task for c in curves)
    columns = 3 if len(tasks) in (3, 5, 6, 9) else 4
    rows = -(-len(tasks) // columns)
    majority = {s.task: s.majority for s in results.scores if s.majority is not None}

    def paint(figure) -> None:
        grid = panels(figure, len(tasks), columns)
        for i, (task, axes) in enumerate(zip(tasks, grid, strict=True)):
            for style, of in reversed(series):
                steps, by_seed = mean_curve(of, [task])
                _line_with_band(axes, steps, list(by_seed.values()), style, thin=True)
            if i + columns >= len(tasks):
                axes.set_xlabel("training steps")
            if i % columns == 0:
                axes.set_ylabel("score")
            if task in majority:
                axes.axhline(majority[task], **MAJORITY_LINE)
            axes.set_title(short(task, 24), fontsize=9.5)
            axes.set_xlim(left=0)
        figure.axes[0].set_ylim(0, score_limit([v for c in curves for v in c.scores]))
        heading(figure, title, f"{curves[0].split} split; {_band_note(curves)}")
        extra = [majority_handle()] if any(task in majority for task in tasks) else []
        legend(figure, [style for style, _ in series], extra)

    return draw(path, 1.7 + 1.85 * rows, paint)


def _series(curves: Sequence[Curve], results: Results) -> list[tuple[Style, list[Curve]]]:
    """The curves by stage and method, each with its look; what `teach` trained is called teacher."""
    look = styles(methods_of(results))
    teachers = {c.method for c in curves if c.stage == "teach"}
    series = []
    for stage in distinct(c.stage for c in curves):
        for m, style in look.items():
            of = [c for c in curves if c.stage == stage and c.method == m]
            if stage == "teach" and len(teachers) == 1:
                style = style._replace(label="teacher")
            if of:
                series.append((style, of))
    return series


def _line_with_band(
    axes: Axes,
    steps: Sequence[int],
    seeds: Sequence[Sequence[float]],
    style: Style,
    thin: bool = False,
) -> None:
    if not steps or not seeds:
        return
    at_step = [spread(values) for values in zip(*seeds, strict=True)]
    mean = np.array([s.mean for s in at_step])
    band = np.array([s.deviation for s in at_step])
    every = max(1, len(steps) // 8)
    axes.plot(
        steps, mean, color=style.colour, linestyle=style.line, marker=style.marker,
        markersize=3.5 if thin else 5, markevery=every, markeredgecolor="white",
        markeredgewidth=0.4, linewidth=1.5 if thin else 2.0,
    )  # fmt: skip
    if len(seeds) > 1:
        axes.fill_between(
            steps, mean - band, mean + band, color=style.colour, alpha=0.15, linewidth=0
        )


def _band_note(curves: Sequence[Curve]) -> str:
    seeds = len({c.seed for c in curves})
    return f"band: ± 1 standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
