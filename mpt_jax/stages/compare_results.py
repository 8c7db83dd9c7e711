"""From the finished runs of a comparison to its records: what was chosen, what it scores, what it cost."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.reporting.comparison.records import Candidate, Comparison, MethodRecord
from mpt_jax.reporting.results import Results
from mpt_jax.run_directory import read_run
from mpt_jax.stages.command_runs import DONE, Run, state_of
from mpt_jax.stages.compare_runs import Plan
from mpt_jax.stages.prompts import FOLDER
from mpt_jax.stages.variants import Variant, rate_grid


def candidates_of(plan: Plan, variant: Variant) -> list[tuple[Variant, float | None]]:
    """Every candidate with its mean validation score; None where one of its runs diverged.

    Raises:
        UserError: the search is not finished.
    """
    rates, ratios = plan.setup.search.grid(variant)
    members = read_run(plan.search(variant).folder).record()["members"]
    found: list[tuple[Variant, float | None]] = []
    for candidate in rate_grid([variant], rates, ratios):
        own = [member for member in members if member["method"] == candidate.name]
        scores = [member["validation"] for member in own]
        lost = not own or any(member["diverged"] for member in own) or None in scores
        found.append((candidate, None if lost else statistics.fmean(scores)))
    return found


def best_of(plan: Plan, variant: Variant) -> Variant:
    """The variant with the rates that scored best on validation data; the first of equals.

    Raises:
        UserError: every candidate diverged.
    """
    sound = [(c, score) for c, score in candidates_of(plan, variant) if score is not None]
    if not sound:
        raise UserError(
            f"every candidate of {variant.name} diverged; give SEARCH_RATES smaller rates for it"
        )
    chosen = max(sound, key=lambda pair: pair[1])[0]
    return dataclasses.replace(
        variant,
        learning_rate=chosen.learning_rate,
        factor_learning_rate=chosen.factor_learning_rate,
    )


def edges_of(plan: Plan, chosen: Variant) -> list[str]:
    """In which of its rates the best candidate is the smallest or largest that was tried."""
    rates, ratios = plan.setup.search.grid(chosen)
    found = []
    if len(set(rates)) > 1 and chosen.learning_rate in (min(rates), max(rates)):
        which = "smallest" if chosen.learning_rate == min(rates) else "largest"
        found.append(f"{which} rate")
    factors = [chosen.learning_rate * ratio for ratio in ratios]
    # Of two ratios each is at an edge, which says nothing.
    if len(set(ratios)) > 2 and chosen.factor_learning_rate in (min(factors), max(factors)):
        which = "smallest" if chosen.factor_learning_rate == min(factors) else "largest"
        found.append(f"{which} ratio of the factors' rate")
    return found


def gather(
    plan: Plan, chosen: Mapping[str, Variant], failed: Mapping[str, str], earlier_id: str | None
) -> tuple[Results, Comparison]:
    """The records of all that is finished.

    Args:
        chosen: the variants with their best rates, by name; those that have any.
        failed: name -> why, of what is not.
        earlier_id: of a report that these results replace.

    Raises:
        UserError: runs that do not go together (other backbones, other few-shot draws).
    """
    results = Results() if earlier_id is None else Results(id=earlier_id)
    comparison = Comparison(failed=dict(failed), budget=budget(plan))
    if plan.sources and _done(*plan.sources):
        results = results.merge(_results(plan.sources[-1]))
    for variant in chosen.values():
        if _done(plan.train(variant), plan.test(variant)):
            results = results.merge(_results(plan.test(variant)))
            comparison.methods.append(_record(plan, variant))
    results.seconds = _seconds(plan, chosen)
    if plan.setup.transfer is not None and plan.setup.transfer.method in chosen:
        method = chosen[plan.setup.transfer.method]
        comparison.transfer_method = method.name
        for label, runs in plan.transfer(method).items():
            if _done(*runs):
                comparison.transfer[label] = _results(runs[-1]).scores
    return results, comparison


def budget(plan: Plan) -> dict[str, Any]:
    """The budgets, which are the same for every method."""
    setup, search = plan.setup, plan.setup.search
    first = setup.chosen[0]
    return {
        "search": f"{search.candidates(first)} candidates a method, {search.steps} steps each, on "
        f"{len(plan.expand(search.mixture_or_task_name))} tasks, k = {_ks(search.shots)}, draws "
        f"{', '.join(map(str, search.seeds))}; chosen on validation data",
        "training": f"{setup.steps} steps of {setup.rows} rows for each task; the best of the steps "
        f"evaluated on validation data (every {setup.eval_period}) is kept",
        "test": f"once, with the chosen rates; k = {_ks(setup.shots)}, draws "
        f"{', '.join(map(str, setup.seeds))}",
        "source stage": "; ".join(_source_stage(plan)) or "no method needs it",
    }  # fmt: skip


def _source_stage(plan: Plan) -> list[str]:
    """What each part of the source stage was trained for, or where it was taken from."""
    setup, found = plan.setup, []
    if plan.teach is not None:
        found.append(f"teachers: {setup.teach_steps} steps of {setup.teach_rows} rows each")
    elif plan.teachers_folder is not None:
        found.append(f"teachers: given, {plan.teachers_folder}")
    if plan.distill is not None:
        found.append(
            f"shared prompts: {setup.distill_steps} steps of {setup.distill_rows} rows each"
        )
    elif plan.distilled_folder is not None:
        found.append(f"shared prompts: given, {plan.distilled_folder}")
    return found


def _record(plan: Plan, chosen: Variant) -> MethodRecord:
    train = plan.train(chosen)
    record = read_run(train.folder).record()
    (cost,) = record["programs"]
    members = record["members"]
    tasks = sum(len(member["tasks"]) for member in members)
    has_factors = chosen.has_factors
    return MethodRecord(
        name=chosen.name,
        kind=chosen.method,
        learning_rate=chosen.learning_rate,
        factor_learning_rate=chosen.factor_learning_rate if has_factors else None,
        candidates=[
            Candidate(
                learning_rate=c.learning_rate,
                factor_learning_rate=c.factor_learning_rate if has_factors else None,
                score=score,
            )
            for c, score in candidates_of(plan, chosen)
        ],
        edges=edges_of(plan, chosen),
        parameters=sum(member["parameters"] for member in members) // tasks,
        stored_bytes=_stored_bytes(train.folder) // tasks,
        members=len(members),
        rows=train.rows,
        steps=train.steps,
        timed_steps=cost["timed_steps"],
        seconds=cost["seconds"],
        compile_seconds=cost["compile_seconds"],
        evaluate_seconds=cost["evaluate_seconds"],
        step_bytes=cost["step_bytes"],
        search_seconds=read_run(plan.search(chosen).folder).record()["seconds"],
    )


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / FOLDER).rglob("*") if path.is_file())


def _results(run: Run) -> Results:
    return Results.load(run.folder / "results.json")


def _done(*runs: Run) -> bool:
    return all(state_of(run) == DONE for run in runs)


def _seconds(plan: Plan, chosen: Mapping[str, Variant]) -> dict[str, float]:
    """Of the training programs, by what they were for."""
    made = {
        "search": [plan.search(v) for v in chosen.values()],
        "training": [plan.train(v) for v in chosen.values()],
        "source stage": list(plan.sources[:-1]),
    }
    return {name: sum(map(_seconds_of, runs)) for name, runs in made.items()}


def _seconds_of(run: Run) -> float:
    try:
        return float(json.loads((run.folder / "run.json").read_text()).get("seconds", 0.0))
    except (OSError, ValueError):
        return 0.0


def _ks(shots: Sequence[int | None]) -> str:
    return ", ".join("all" if k is None else str(k) for k in shots)
