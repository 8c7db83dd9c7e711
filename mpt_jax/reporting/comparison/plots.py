"""Score against what has to be stored for a task."""

import math
from pathlib import Path

from mpt_jax.reporting.comparison.records import Comparison
from mpt_jax.reporting.comparison.tables import ranking
from mpt_jax.reporting.figures import draw, heading, legend, panels
from mpt_jax.reporting.results import Results
from mpt_jax.reporting.styles import styles
from mpt_jax.reporting.summaries import k_label, ks_of, shown_scores

ALIKE = 1.25  # methods whose numbers of parameters differ by less would cover each other
APART = 1.13  # so they stand side by side, each by so much


def trade_off(results: Results, comparison: Comparison, path: Path) -> Path | None:
    """Mean score against parameters per task (logarithmic); bars are ± 1 s.d. over seeds."""
    scores = shown_scores(results, "adapt")
    parameters = {record.name: record.parameters for record in comparison.methods}
    look = styles(parameters)
    ks = ks_of(scores)
    if not parameters or not ks:
        return None

    def paint(figure) -> None:
        shown: list[float] = []
        for k, axes in zip(ks, panels(figure, len(ks), 2), strict=True):
            means = {name: s for name, s in ranking(results, k).items() if name in parameters}
            for name, at in _side_by_side({name: parameters[name] for name in means}).items():
                mean, style = means[name], look[name]
                error = None if math.isnan(mean.deviation) else mean.deviation
                shown += [mean.mean - (error or 0.0), mean.mean + (error or 0.0)]
                axes.errorbar(
                    at, mean.mean, yerr=error, color=style.colour, marker=style.marker,
                    markersize=8, markeredgecolor="white", markeredgewidth=0.6, linewidth=1.3, capsize=2.5,
                )  # fmt: skip
            axes.set_xscale("log")
            axes.set_title(k_label(k))
            axes.set_xlabel("parameters per task")
            axes.grid(True, axis="x")
        finite = [v for v in shown if not math.isnan(v)]
        if finite:
            margin = 0.08 * (max(finite) - min(finite)) + 1e-3
            figure.axes[0].set_ylim(min(finite) - margin, max(finite) + margin)
        figure.axes[0].set_ylabel("mean score")
        seeds = len({s.seed for s in scores})
        heading(
            figure,
            "Score against parameters per task",
            f"mean over the target tasks, {scores[0].split} split; "
            + (f"bars: ± 1 standard deviation over {seeds} seeds; " if seeds > 1 else "one seed; ")
            + "the score's axis does not begin at 0",
        )
        legend(figure, [look[name]._replace(line="none") for name in look])

    return draw(path, 5.2, paint)


def _side_by_side(parameters: dict[str, int]) -> dict[str, float]:
    """Where each point stands: methods with about as many parameters a little apart, in their order."""
    groups: list[list[str]] = []
    for name in sorted(parameters, key=lambda name: parameters[name]):
        if groups and parameters[name] <= ALIKE * parameters[groups[-1][0]]:
            groups[-1].append(name)
        else:
            groups.append([name])
    places = {}
    for names in groups:
        middle = math.exp(sum(math.log(parameters[name]) for name in names) / len(names))
        for i, name in enumerate(names):
            places[name] = middle * APART ** (i - (len(names) - 1) / 2)
    return places
