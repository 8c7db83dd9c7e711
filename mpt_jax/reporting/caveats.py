"""What the records themselves say about how far their numbers can be trusted."""

import math

from mpt_jax.reporting.layout import number, span
from mpt_jax.reporting.results import Results, Score
from mpt_jax.reporting.styles import label
from mpt_jax.reporting.summaries import distinct, k_label, ks_of, shown_scores

STAGES = ("teach", "distill", "adapt")


def caveats(results: Results) -> list[str]:
    """Sentences for the report's notes; none where there is nothing to warn of."""
    by_stage = {stage: shown_scores(results, stage) for stage in STAGES}
    found: list[str] = []
    for stage, scores in by_stage.items():
        if scores:
            found += _seeds(stage, scores) + _split(stage, scores) + _gaps(stage, scores)
    everything = [s for scores in by_stage.values() for s in scores]
    found += _failed(everything) + _budgets(by_stage["adapt"]) + _metrics(everything)
    if everything:
        least = min(s.num_examples for s in everything)
        if least > 0:
            error = number(math.sqrt(0.25 / least))
            found.append(
                f"A share of right answers among {least:,} examples has by itself a standard error of up "
                f"to {error}. Methods are scored on the same examples, so their differences suffer "
                "less than the scores."
            )
    return found


def _seeds(stage: str, scores: list[Score]) -> list[str]:
    if len({s.seed for s in scores}) > 1:
        return []
    return [f"{stage}: one seed only, so how much chance moves these scores is not known."]


def _split(stage: str, scores: list[Score]) -> list[str]:
    split = scores[0].split
    if split == "test":
        return []
    return [
        f"{stage}: scores are of the {split} split; where steps or settings were chosen on it, "
        "they are too good."
    ]


def _gaps(stage: str, scores: list[Score]) -> list[str]:
    gaps = []
    for k in ks_of(scores):
        here = [s for s in scores if s.k == k]
        runs = {(s.task, s.seed) for s in here}
        for method in distinct(s.method for s in here):
            missing = len(runs) - len({(s.task, s.seed) for s in here if s.method == method})
            if missing:
                gaps.append(
                    f"{stage}, {k_label(k)}: {label(method)} lacks {missing} of {len(runs)} (task, seed) "
                    "runs; means are taken over the tasks and seeds that are complete."
                )
    return gaps


def _failed(scores: list[Score]) -> list[str]:
    failed = [s for s in scores if not math.isfinite(s.score)]
    names = ", ".join(distinct(f"{s.task} ({label(s.method)})" for s in failed))
    return [f"{len(failed)} runs have no finite score: {names}."] if failed else []


def _budgets(scores: list[Score]) -> list[str]:
    uneven = []
    for k in ks_of(scores):
        here = [s for s in scores if s.k == k]
        for task in distinct(s.task for s in here):
            of = [s for s in here if s.task == task]
            if len({s.steps for s in of}) > 1 or len({s.train_examples for s in of}) > 1:
                steps, examples = (
                    span(s.steps for s in of),
                    span(s.train_examples for s in of),
                )
                uneven.append(f"{task}, {k_label(k)} ({steps} steps, {examples} examples)")
    if not uneven:
        return []
    return ["Methods were not trained on equal budgets: " + "; ".join(uneven) + "."]


def _metrics(scores: list[Score]) -> list[str]:
    metrics = distinct(s.metric for s in scores)
    if len(metrics) < 2:
        return []
    return [f"Means over tasks put different metrics together ({', '.join(metrics)})."]
