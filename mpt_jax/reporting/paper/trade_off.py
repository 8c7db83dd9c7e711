"""Average score against parameters per task, as in the authors' figure: published points and ours."""

import statistics
from pathlib import Path

from matplotlib.figure import Figure as Canvas

from mpt_jax.reporting.figures import INK, QUIET, draw
from mpt_jax.reporting.paper.comparison import AVERAGE, Comparison
from mpt_jax.reporting.paper.published import parse_count
from mpt_jax.reporting.styles import styles

Point = tuple[str, float, float]  # label, parameters, score


def trade_off(comparison: Comparison, path: Path) -> Path | None:
    """Writes the plot; None where fewer than two methods have both numbers."""
    ours, published = our_points(comparison), published_points(comparison)
    if len(ours) + len(published) < 2:
        return None

    def paint(figure: Canvas) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_xlabel("parameters per task")
        axes.set_ylabel(f"average score, {comparison.title}")
        for name, parameters, score in published:
            axes.plot(parameters, score, "o", color=QUIET, fillstyle="none")
            axes.annotate(name, (parameters, score), (4, 4), textcoords="offset points",
                          fontsize=8, color=QUIET)  # fmt: skip
        looks = styles([name for name, _, _ in ours])
        for name, parameters, score in ours:
            look = looks[name]
            axes.plot(parameters, score, look.marker, color=look.colour)
            axes.annotate(f"{look.label} (ours)", (parameters, score), (4, -10),
                          textcoords="offset points", fontsize=8, color=INK)  # fmt: skip

    return draw(path, 4.5, paint)


def our_points(comparison: Comparison) -> list[Point]:
    points = []
    for line in comparison.lines:
        mean = comparison.means(line)[AVERAGE]
        if mean.count:
            counts = [s.parameters for of in (line.scores or {}).values() for s in of]
            points.append((line.method, statistics.fmean(counts), mean.mean))
    return points


def published_points(comparison: Comparison) -> list[Point]:
    points = []
    for line in comparison.lines:
        average = comparison.published_average(line)
        if line.published and line.published.parameters and average and average.value is not None:
            points.append((line.label, parse_count(line.published.parameters), average.value))
    return points
