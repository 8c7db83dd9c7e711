"""The written report of a comparison: `report.md`, `results.json` and `plots/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt_jax.reporting.caveats import caveats
from mpt_jax.reporting.comparison.plots import trade_off
from mpt_jax.reporting.comparison.records import Comparison
from mpt_jax.reporting.comparison.tables import (
    RISING,
    all_ks,
    comparison_tables,
    convergence,
    cost_table,
    ranking,
    ranking_table,
    search_table,
    transfer_table,
)
from mpt_jax.reporting.curve_plots import mean_curves, task_curves
from mpt_jax.reporting.layout import decimals_for, number, with_spread
from mpt_jax.reporting.report import (
    PLOTS_FOLDER,
    REPORT_FILE,
    RESULTS_FILE,
    backbone_line,
    bullets,
    check_folder,
    setup_section,
)
from mpt_jax.reporting.results import Results
from mpt_jax.reporting.score_plots import few_shot_tasks, source_bars
from mpt_jax.reporting.styles import MEANINGS, label
from mpt_jax.reporting.summaries import k_label, paired_difference, shown_scores
from mpt_jax.reporting.tables import paired_table, source_table
from mpt_jax.run_directory import write_text

SIDE_BY_SIDE = (
    "Points of methods with about equally many parameters stand side by side, a little off their "
    "place."
)


def write_comparison(
    results: Results,
    comparison: Comparison,
    folder: Path,
    title: str,
    notes: Sequence[str] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    method: str = "mpt",
    baseline: str = "prompt_tuning",
) -> Path:
    """Writes the report anew, from the records alone, and returns its path.

    Args:
        method: the one that is compared with each of the others.
        baseline: what the transfer stands beside.
        notes: what the reader must know to judge the numbers.
        settings: of the training, for the reader.

    Raises:
        ResultsError: the folder holds another run's report.
    """
    check_folder(results, folder)
    results.comparison = comparison.plain()
    results.save(folder / RESULTS_FILE)
    plots = folder / PLOTS_FOLDER
    ks = all_ks(results)
    plot = trade_off(results, comparison, plots / "trade_off.png")
    parts = [
        f"# {title}",
        f"<!-- mpt_jax results {results.id} -->",
        backbone_line(results),
        bullets("## In short", in_short(results, comparison, method)),
        *(["## Score and cost"] if ks else []),
        *(ranking_table(results, comparison, k).markdown() for k in ks),
        _image(plot, "Score against parameters per task", folder),
        *([f"*{SIDE_BY_SIDE}*"] if plot is not None else []),
        bullets("## What each method is", _meanings(comparison)),
        *(["## Target tasks"] if ks else []),
        *(table.markdown() for k in ks for table in comparison_tables(results, k)),
        _image(few_shot_tasks(results, plots / "tasks.png"), "Target tasks singly", folder),
        _image(mean_curves(results, plots / "curves.png"), "Mean learning curves", folder),
        _markdown(paired_table(results, method=method)),
        _markdown(transfer_table(results, comparison, baseline)),
        *_sources(results, plots, folder),
        "## Budgets, searches, cost",
        bullets("", [f"{name}: {value}" for name, value in comparison.budget.items()]),
        *([search_table(comparison).markdown(), cost_table(comparison).markdown()] if ks else []),
        setup_section(results, settings or {}),
        bullets("## Notes", [*notes, *caveats(results)]),
    ]
    write_text(folder / REPORT_FILE, "\n\n".join(p.strip() for p in parts if p) + "\n")
    return folder / REPORT_FILE


def in_short(results: Results, comparison: Comparison, method: str) -> list[str]:
    """The main numbers as sentences, and what speaks against them."""
    lines = []
    for k in all_ks(results):
        means = ranking(results, k)
        first = next(iter(means))
        scores = [s for s in shown_scores(results, "adapt") if s.k == k]
        places = decimals_for(s.score for s in scores)
        lines.append(
            f"{k_label(k)}: {label(first)} has the highest mean, {with_spread(means[first], places)}, of "
            f"{len(means)} methods."
        )
        if method in means and len(means) > 1:
            lines.append(_standing(results, k, method, list(means), places))
    for name, why in comparison.failed.items():
        lines.append(f"**{label(name)} has no numbers**: {why}")
    edges = [f"{label(r.name)} ({', '.join(r.edges)})" for r in comparison.methods if r.edges]
    if edges:
        lines.append(
            "The best candidate lies at the edge of its grid for "
            + "; ".join(edges)
            + ": a wider grid "
            "might give these methods more."
        )
    for k in all_ks(results):
        rising = [
            f"{label(m)} ({number(gain, 3, sign=True)})"
            for m, (_, means_at, gain) in convergence(results, k).items()
            if gain > RISING * (100 if decimals_for(means_at) == 1 else 1)
        ]
        if rising:
            lines.append(
                f"{k_label(k)}: still rising in the last quarter of their steps: {', '.join(rising)}."
            )
    return lines


def _standing(
    results: Results, k: int | None, method: str, ranked: Sequence[str], places: int
) -> str:
    """Where the method stands, and against whom that is more than noise."""
    scores = [s for s in shown_scores(results, "adapt") if s.k == k]
    groups: dict[str, list[str]] = {}
    for other in ranked:
        d = None if other == method else paired_difference(scores, method, other)
        if d is not None:
            text = f"{label(other)} ({number(d.mean, places, sign=True)})"
            groups.setdefault(d.verdict, []).append(text)
    listed = "; ".join(
        f"{words} {', '.join(groups[verdict])}"
        for verdict, words in (
            ("ahead", "ahead of"), ("behind", "behind"), ("within noise", "within noise of"),
            ("too few pairs", "not enough pairs to tell it from"),
        )
        if verdict in groups
    )  # fmt: skip
    return (
        f"{k_label(k)}: {label(method)} is number {ranked.index(method) + 1} of {len(ranked)}; paired by "
        f"task and seed it is {listed}."
    )


def _meanings(comparison: Comparison) -> list[str]:
    names = [record.name for record in comparison.methods if record.name in MEANINGS]
    return [f"*{label(name)}*: {MEANINGS[name]}." for name in names]


def _sources(results: Results, plots: Path, folder: Path) -> list[str]:
    table = source_table(results)
    if table is None:
        return []
    curves = task_curves(
        results, plots / "source_curves.png", stages=("teach", "distill"), k=None,
        title="Learning curves, source tasks",
    )  # fmt: skip
    bars = source_bars(results, plots / "sources.png")
    return [
        "## Source tasks", table.markdown(), _image(bars, "Source tasks", folder),
        _image(curves, "Learning curves of the source tasks", folder),
    ]  # fmt: skip


def _markdown(table: Any) -> str:
    return "" if table is None else table.markdown()


def _image(path: Path | None, caption: str, folder: Path) -> str:
    return "" if path is None else f"![{caption}]({path.relative_to(folder).as_posix()})"
