"""What the scores cost: parameters to store for a task, and the training behind each number."""

import statistics
from collections.abc import Iterable

from mpt_jax.reporting.layout import COST, NOTHING, Table, span
from mpt_jax.reporting.results import Results, Score
from mpt_jax.reporting.styles import label, methods_of
from mpt_jax.reporting.summaries import ks_of, shown_scores

STAGES = ("teach", "distill", "adapt")


def parameters_table(results: Results) -> Table | None:
    """What has to be stored for one task more."""
    if not results.scores:
        return None
    backbone = results.backbone.get("parameters")
    table = Table(
        "Parameters for each task",
        ["stage", "method", "parameters", "bytes (fp32)", "share of the backbone"],
        f"The frozen backbone has {backbone:,} parameters." if backbone else "",
        text_columns=2,
        section=COST,
    )
    for stage in STAGES:
        for method in methods_of(results):
            counts = [
                s.parameters for s in results.scores if s.stage == stage and s.method == method
            ]
            if counts:
                share = f"{100 * max(counts) / backbone:.3g} %" if backbone else NOTHING
                table.add(stage, label(method), span(counts), span(4 * c for c in counts), share)
    return table


def budget_table(results: Results) -> Table | None:
    """Training examples and steps behind each number, so that equal budgets can be checked."""
    scores = [s for stage in STAGES for s in shown_scores(results, stage)]
    if not scores:
        return None
    table = Table(
        "Budgets",
        [
            "stage",
            "method",
            "k",
            "tasks",
            "seeds",
            "training examples",
            "steps",
            "best step (median)",
            "scored examples",
        ],
        text_columns=2,
        section=COST,
    )
    for stage in STAGES:
        for k in ks_of(s for s in scores if s.stage == stage):
            for method in methods_of(results):
                runs = [s for s in scores if (s.stage, s.k, s.method) == (stage, k, method)]
                if not runs:
                    continue
                table.add(
                    stage,
                    label(method),
                    "all" if k is None else str(k),
                    str(len({s.task for s in runs})),
                    seed_count(runs),
                    span(s.train_examples for s in runs),
                    span(s.steps for s in runs),
                    f"{statistics.median(s.best_step for s in runs):,.0f}",
                    span(s.num_examples for s in runs),
                )
    return table


def seed_count(scores: Iterable[Score]) -> str:
    """How many seeds, or the range where the methods differ."""
    by_method: dict[tuple, set[int]] = {}
    for s in scores:
        by_method.setdefault((s.stage, s.task, s.method), set()).add(s.seed)
    return span(len(seeds) for seeds in by_method.values())
