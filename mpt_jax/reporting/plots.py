"""All plots that the results can fill, as PNG files."""

import re
from pathlib import Path
from typing import NamedTuple

from mpt_jax.reporting.curve_plots import mean_curves, task_curves
from mpt_jax.reporting.results import Results
from mpt_jax.reporting.score_plots import few_shot_bars, few_shot_tasks, source_bars
from mpt_jax.reporting.similarity_plot import similarity_map
from mpt_jax.reporting.summaries import k_label, ks_of, shown_curves


class Plot(NamedTuple):
    path: Path
    caption: str


def write_plots(results: Results, folder: str | Path) -> list[Plot]:
    """Writes the plots into `folder` (made when missing); those without records are left out."""
    folder = Path(folder)
    plots = [
        (source_bars(results, folder / "sources.png"), "Source tasks"),
        (
            task_curves(
                results,
                folder / "source_curves.png",
                stages=("teach", "distill"),
                k=None,
                title="Learning curves, source tasks",
            ),
            "Learning curves of the source tasks",
        ),
    ]
    for similarity in results.similarities:
        name = re.sub(r"\W+", "_", similarity.what.lower()).strip("_")
        path = similarity_map(similarity, folder / f"similarity_{name}.png")
        plots.append((path, f"Cosine similarity: {similarity.what}"))
    plots += [
        (few_shot_bars(results, folder / "few_shot.png"), "Target tasks by method and k"),
        (few_shot_tasks(results, folder / "few_shot_tasks.png"), "Target tasks one by one"),
        (mean_curves(results, folder / "curves.png"), "Learning curves, mean of the target tasks"),
    ]
    for k in ks_of(shown_curves(results, "adapt")):
        plots.append(
            (
                task_curves(
                    results,
                    folder / f"curves_{'all' if k is None else f'k{k}'}.png",
                    stages=("adapt",),
                    k=k,
                    title=f"Learning curves by target task, {k_label(k)}",
                ),
                f"Learning curves by target task, {k_label(k)}",
            )
        )
    return [Plot(path, caption) for path, caption in plots if path is not None]
