"""All plots that the results can fill, as PNG files."""

import re
from pathlib import Path
from typing import NamedTuple

from mpt_jax.reporting.curve_plots import mean_curves, task_curves
from mpt_jax.reporting.layout import PROMPTS, SOURCES, TARGETS
from mpt_jax.reporting.results import Results
from mpt_jax.reporting.score_plots import few_shot_bars, few_shot_tasks, source_bars
from mpt_jax.reporting.similarity_plot import similarity_map
from mpt_jax.reporting.summaries import k_label, ks_of, shown_curves


class Plot(NamedTuple):
    """A written plot, and under which of the report's sections it belongs."""

    path: Path
    caption: str
    section: str


def write_plots(results: Results, folder: str | Path) -> list[Plot]:
    """Writes the plots into `folder` (made when missing); those without records are left out."""
    folder = Path(folder)
    plots: list[tuple[Path | None, str, str]] = [
        (source_bars(results, folder / "sources.png"), "Source tasks", SOURCES),
        (
            task_curves(
                results,
                folder / "source_curves.png",
                stages=("teach", "distill"),
                k=None,
                title="Learning curves, source tasks",
            ),
            "Learning curves of the source tasks",
            SOURCES,
        ),
        (few_shot_bars(results, folder / "few_shot.png"), "Target tasks by method and k", TARGETS),
        (few_shot_tasks(results, folder / "few_shot_tasks.png"), "Target tasks singly", TARGETS),
        (mean_curves(results, folder / "curves.png"), "Mean learning curves", TARGETS),
    ]
    for k in ks_of(shown_curves(results, "adapt")):
        title = f"Learning curves by target task, {k_label(k)}"
        path = folder / f"curves_{'all' if k is None else f'k{k}'}.png"
        plots.append(
            (task_curves(results, path, stages=("adapt",), k=k, title=title), title, TARGETS)
        )
    for similarity in results.similarities:
        name = re.sub(r"\W+", "_", similarity.what.lower()).strip("_")
        path = folder / f"similarity_{name}.png"
        caption = f"Cosine similarity: {similarity.what}"
        plots.append((similarity_map(similarity, path), caption, PROMPTS))
    return [Plot(path, *rest) for path, *rest in plots if path is not None]
