"""The plots of a sweep: source mixtures by targets, and the score along every axis."""

from pathlib import Path
from typing import Any

import numpy as np

from mpt_jax.reporting.figures import (
    FAINT,
    INK,
    MAJORITY_LINE,
    QUIET,
    WIDTH,
    draw,
    heading,
    short,
)
from mpt_jax.reporting.layout import number
from mpt_jax.reporting.summaries import Spread
from mpt_jax.reporting.sweep.records import (
    ALL,
    SOURCES,
    Sweep,
    at,
    difference,
    is_clear,
    mean_majority,
    score,
    shown,
    values,
)
from mpt_jax.reporting.sweep.tables import MOST_VALUES, measured, places

COLOUR, BASE_COLOUR = "#0072B2", "#E69F00"  # as in styles.py


def mixture_map(sweep: Sweep, path: Path) -> Path | None:
    """Mixture by target: the difference to all sources; below, the scores of all and of the majority."""
    found = values(sweep, SOURCES)
    mixtures = [name for name in found if name != ALL]
    if not mixtures or ALL not in found or not sweep.targets:
        return None
    columns = [*sweep.targets, None]
    cells = [[difference(sweep, SOURCES, name, ALL, task) for task in columns] for name in mixtures]
    means = np.array([[cell.mean for cell in row] for row in cells])
    if not np.isfinite(means).any():
        return None
    most, digits = max(float(np.nanmax(np.abs(means))), 1e-3), places(sweep)
    whole = at(sweep, SOURCES, ALL)

    scores = [score(whole, task) for task in columns]
    majorities = [about["majority"] for about in sweep.targets.values()] + [mean_majority(sweep)]

    def paint(figure) -> None:
        axes = figure.subplots()
        # Rows and not labels have the scores: two lines on a slant do not fit the columns' pitch.
        below = np.full((2, len(columns)), np.nan)
        shades = np.ma.masked_invalid(np.concatenate([means, below]))
        image = axes.imshow(shades, "RdBu", vmin=-most, vmax=most, aspect="auto")
        axes.set_facecolor(FAINT)
        names = [f"{short(m, 34)} ({len(sweep.mixtures[m])})" for m in mixtures]
        names += [f"all sources: score ({len(sweep.mixtures[ALL])})", "majority class: score"]
        heads = ["mean" if task is None else short(task, 24) for task in columns]
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(len(columns)), heads, rotation=40, ha="right", rotation_mode="anchor")
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", axis="both", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        axes.axvline(len(columns) - 1.5, color="white", linewidth=5)
        axes.axhline(len(mixtures) - 0.5, color="white", linewidth=5)
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "linespacing": 0.95}
        for i, row in enumerate(cells):
            for j, cell in enumerate(row):
                if not cell.count:
                    continue
                rgb = image.cmap(image.norm(cell.mean))[:3]
                dark = float(np.dot(rgb, (0.299, 0.587, 0.114))) < 0.55
                text = _two_lines(cell, number(cell.mean, digits, sign=True), digits)
                weight = "bold" if is_clear(cell) else "normal"
                axes.text(j, i, text, color="white" if dark else INK, fontweight=weight, **style)
        for j, (cell, majority) in enumerate(zip(scores, majorities, strict=True)):
            text = _two_lines(cell, number(cell.mean, digits), digits)
            axes.text(j, len(mixtures), text, color=INK, **style)
            axes.text(j, len(mixtures) + 1, number(majority, digits), color=INK, **style)
        bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=28, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("score above that of all sources")
        heading(
            figure,
            "Which source mixtures help which targets",
            f"difference to all sources, ± s.d. over seeds; {measured(sweep)}",
        )

    height = min(14.0, 3.7 + 0.4 * len(mixtures))
    return draw(path, height, paint, max(WIDTH, 4.5 + 0.5 * len(columns)))


def _two_lines(cell: Spread, mean: str, digits: int) -> str:
    return mean if cell.count < 2 else f"{mean}\n±{number(cell.deviation, digits)}"


def effect_plot(sweep: Sweep, path: Path) -> Path | None:
    """Score against the value of each axis, the seeds' spread as bars."""
    axes_shown = [a for a in sweep.axes if a != SOURCES and len(values(sweep, a)) > 1]
    if not axes_shown:
        return None
    columns = min(3, len(axes_shown))
    rows = -(-len(axes_shown) // columns)

    def paint(figure) -> None:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        flat = [axes for line in grid for axes in line]
        for axes, axis in zip(flat, axes_shown, strict=False):
            found = values(sweep, axis)
            if len(found) <= MOST_VALUES:
                _points(sweep, axes, axis, found)
            else:
                _cloud(sweep, axes, axis)
            axes.set_title(axis.replace("_", " "))
        for axes in flat[len(axes_shown) :]:
            axes.set_visible(False)
        for line in grid:
            line[0].set_ylabel("mean score")
        heading(
            figure,
            "What each setting does",
            f"bars: ± 1 s.d. over seeds; orange: the base's value; {measured(sweep)}",
        )

    return draw(path, 1.1 + 2.5 * rows, paint)


def _points(sweep: Sweep, axes, axis: str, found: list) -> None:
    """Values side by side, whatever the distances between them."""
    spreads = [score(at(sweep, axis, value)) for value in found]
    means = [s.mean for s in spreads]
    if all(isinstance(value, int | float) for value in found):
        axes.plot(range(len(found)), means, color=COLOUR, linewidth=1.2, alpha=0.6)
    for place, (value, one) in enumerate(zip(found, spreads, strict=True)):
        colour = BASE_COLOUR if value == sweep.base[axis] else COLOUR
        error = None if one.count < 2 else one.deviation
        axes.errorbar(place, one.mean, yerr=error, color=colour, marker="o", markersize=6,
                      linewidth=1.3, capsize=3)  # fmt: skip
    axes.set_xticks(range(len(found)), [shown(value) for value in found])
    axes.set_xlim(-0.5, len(found) - 0.5)


def _cloud(sweep: Sweep, axes, axis: str) -> None:
    """One point for each trial, where an axis is a range."""
    xs = [trial.setting[axis] for trial in sweep.done]
    axes.scatter(xs, [score([trial]).mean for trial in sweep.done], s=18, color=COLOUR, alpha=0.7)
    if sweep.axes[axis]["log"]:
        axes.set_xscale("log")


def history_plot(sweep: Sweep, path: Path) -> Path | None:
    """Every trial's score in the order in which they were asked for, and the best so far."""
    done = sorted(sweep.done, key=lambda trial: trial.number)
    if len(done) < 2:
        return None

    def paint(figure) -> None:
        axes = figure.subplots()
        spreads = [score([trial]) for trial in done]
        means = [s.mean for s in spreads]
        axes.errorbar(
            [trial.number for trial in done], means, color=COLOUR, marker="o", markersize=5,
            yerr=[0.0 if s.count < 2 else s.deviation for s in spreads], linestyle="none",
            linewidth=1.0, capsize=2,
        )  # fmt: skip
        axes.step([t.number for t in done], np.maximum.accumulate(means), where="post", color=QUIET,
                  linewidth=1.2)  # fmt: skip
        majority = mean_majority(sweep)
        near = bool(np.isfinite(majority)) and min(means) < 3 * majority
        if near:
            axes.axhline(majority, **MAJORITY_LINE)
        axes.set_xlabel("trial")
        axes.set_ylabel("mean score")
        heading(
            figure,
            "All trials",
            f"line: the best so far{'; dotted: majority class' if near else ''}; {measured(sweep)}",
        )

    return draw(path, 3.6, paint)
