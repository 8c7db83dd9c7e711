"""The tables of a report, each from the records alone; None where the records for it are missing."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console

from mpt_jax.reporting.cost_tables import budget_table, parameters_table, seed_count
from mpt_jax.reporting.layout import (
    NOTHING,
    SOURCES,
    TARGETS,
    Cell,
    Table,
    decimals_for,
    number,
    span,
    with_spread,
)
from mpt_jax.reporting.results import Ceiling, Results, Score
from mpt_jax.reporting.styles import label, methods_of
from mpt_jax.reporting.summaries import (
    clearly_best,
    curve_tasks,
    distinct,
    k_label,
    ks_of,
    mean_curve,
    paired_difference,
    seed_means,
    shared_tasks,
    shown_curves,
    shown_scores,
    spread,
)
from mpt_jax.terminal import Output

Subsets = Mapping[str, Sequence[str]]  # name -> tasks whose mean is shown as well
Columns = dict[str, list[Score]]  # head -> the scores below it


def all_tables(
    results: Results, *, method: str = "mpt", subsets: Subsets | None = None
) -> list[Table]:
    """Every table that the results can fill, in the order of the report.

    Args:
      method: the one that is compared with each of the others.
      subsets: name -> target tasks, for means over a part of the tasks.
    """
    tables = [
        source_table(results),
        *few_shot_tables(results, subsets=subsets),
        paired_table(results, method=method, subsets=subsets),
        steps_table(results),
        parameters_table(results),
        budget_table(results),
    ]
    return [table for table in tables if table is not None]


def print_tables(
    results: Results,
    console: Console | None = None,
    *,
    method: str = "mpt",
    subsets: Subsets | None = None,
) -> None:
    """Prints the tables with final scores to the terminal; the others are left to the report."""
    console = console or Output()
    tables = [
        source_table(results),
        *few_shot_tables(results, subsets=subsets),
        paired_table(results, method=method, subsets=subsets),
    ]
    for table in tables:
        if table is not None:
            console.print(table.rich(console.width), "")


def source_table(results: Results) -> Table | None:
    """Source tasks: majority class, teacher prompts, distilled prompts and their variants."""
    scores = shown_scores(results, "teach", "distill")
    if not scores:
        return None
    columns = source_columns(results)
    return _comparison("Scores on the source tasks", SOURCES, columns, results)


def source_columns(results: Results) -> Columns:
    """The scores on source tasks by what they are called there: "teacher", then the distilled methods."""
    columns: Columns = {}
    teachers = distinct(s.method for s in results.scores if s.stage == "teach")
    for stage in ("teach", "distill"):
        scores = shown_scores(results, stage)
        for name in (m for m in methods_of(results) if any(s.method == m for s in scores)):
            head = label(name)
            if stage == "teach":
                head = "teacher" if len(teachers) == 1 else f"teacher, {head}"
            columns[head] = [s for s in scores if s.method == name]
    return columns


def few_shot_tables(results: Results, *, subsets: Subsets | None = None) -> list[Table]:
    """Target tasks, one table for each k: mean ± standard deviation over seeds of each method."""
    scores = shown_scores(results, "adapt")
    return [
        _comparison(
            f"Scores on the target tasks, {k_label(k)}",
            TARGETS,
            by_method(results, scores, k),
            results,
            subsets or {},
        )
        for k in ks_of(scores)
    ]


def by_method(results: Results, scores: Sequence[Score], k: int | None) -> Columns:
    """The scores at one k by the methods' labels."""
    here = [s for s in scores if s.k == k]
    columns = {m: [s for s in here if s.method == m] for m in methods_of(results)}
    return {label(m): of for m, of in columns.items() if of}


def paired_table(
    results: Results, *, method: str = "mpt", subsets: Subsets | None = None
) -> Table | None:
    """`method` minus every other one, paired by task and seed, so that noise can be seen as such."""
    scores = shown_scores(results, "adapt")
    controls = [m for m in methods_of(results) if m != method]
    table = Table(
        f"{label(method)} against each control",
        ["over", "k", "minus", "difference", "s.e. (pairs)", "s.e. (tasks)", "won–lost", "verdict"],
        "Difference of scores, paired by (task, seed); 'won–lost' counts the pairs. 'Ahead' and 'behind' "
        "need a difference of more than two of the larger standard error; with few tasks even that is "
        "weak evidence.",
        text_columns=3,
        section=TARGETS,
    )
    tasks = distinct(s.task for s in scores)
    for over, members in {f"all {len(tasks)} tasks": tasks, **(subsets or {})}.items():
        for k in ks_of(scores):
            here = [s for s in scores if s.k == k and s.task in members]
            places = decimals_for(s.score for s in here)
            for control in controls:
                d = paired_difference(here, method, control)
                if d is None:
                    continue
                table.add(
                    over,
                    "all" if k is None else str(k),
                    label(control),
                    Cell(number(d.mean, places, sign=True), bold=d.settled),
                    number(d.error, places),
                    number(d.task_error, places),
                    f"{d.won}–{d.lost}",
                    d.verdict,
                )
    return table if table.rows else None


def steps_table(results: Results) -> Table | None:
    """Target tasks: mean score after some numbers of steps, so that speed and end are seen apart."""
    curves = shown_curves(results, "adapt")
    methods = [m for m in methods_of(results) if any(c.method == m for c in curves)]
    if not curves:
        return None
    table = Table(
        "Mean score on the target tasks by training steps",
        ["k", "tasks", "steps", *map(label, methods)],
        f"Split: {curves[0].split}. Mean over the tasks that all methods have, ± standard deviation over "
        "seeds.",
        text_columns=0,
        section=TARGETS,
    )
    for k in ks_of(curves):
        of = {m: [c for c in curves if c.method == m and c.k == k] for m in methods}
        tasks = curve_tasks({m: c for m, c in of.items() if c})
        means = {m: mean_curve(c, tasks.get(m, [])) for m, c in of.items()}
        for step in _some(sorted(set().union(*(steps for steps, _ in means.values())))):
            cells = []
            for steps, by_seed in means.values():
                at = [v[steps.index(step)] for v in by_seed.values()] if step in steps else []
                cells.append(with_spread(spread(at), decimals_for(at)))
            count = max(map(len, tasks.values()))
            table.add("all" if k is None else str(k), str(count), f"{step:,}", *cells)
    return table


def _comparison(
    title: str, section: str, columns: Columns, results: Results, subsets: Subsets | None = None
) -> Table:
    """Tasks down, majority, methods and ceilings across; below them the means over tasks."""
    scores = [s for of in columns.values() for s in of]
    tasks = distinct(s.task for s in scores)
    ceilings = {(c.name, c.task): c for c in results.ceilings if c.task in tasks}
    names = distinct(name for name, _ in ceilings)
    # Counts that are the same everywhere stand once, below the table.
    counts = [
        (span(s.num_examples for s in of), seed_count(of)) for of in _by_task(scores).values()
    ]
    uneven = len(set(counts)) > 1
    table = Table(
        title,
        ["task", "majority", *columns, *names, *(("examples", "seeds") if uneven else ())],
        section=section,
    )
    for task in tasks:
        here = {head: [s for s in of if s.task == task] for head, of in columns.items()}
        rows = [s for of in here.values() for s in of]
        known = [ceilings.get((name, task)) for name in names]
        places = decimals_for(s.score for s in rows)
        table.add(
            task,
            number(_majority(rows), places),
            *_cells({head: [s.score for s in of] for head, of in here.items()}, places),
            *(number(c.score if c else None, places) for c in known),
            *((span(s.num_examples for s in rows), seed_count(rows)) if uneven else ()),
        )
    means = {f"all {len(tasks)} tasks": tasks, **(subsets or {})}
    for name, members in means.items() if len(tasks) > 1 else ():
        shared = [t for t in shared_tasks(columns.values()) if t in members]
        wanted = [t for t in members if t in tasks]
        if not wanted:
            continue
        by_seed = {head: seed_means(of, shared) for head, of in columns.items()}
        majorities = [_majority([s for s in scores if s.task == task]) for task in shared]
        places = decimals_for(s.score for s in scores if s.task in shared)
        whole = len(shared) == len(wanted)
        table.add(
            f"mean of {name}" + ("" if whole else f" (the {len(shared)} that all columns have)"),
            NOTHING
            if None in majorities or not majorities
            else number(statistics.fmean(m for m in majorities if m is not None), places),
            *_cells({head: list(of.values()) for head, of in by_seed.items()}, places),
            *("" for _ in table.columns[2 + len(columns) :]),
            summary=True,
        )
    table.caption = _caption(scores, ceilings.values(), None if uneven else counts[0])
    return table


def _by_task(scores: Sequence[Score]) -> dict[str, list[Score]]:
    return {
        task: [s for s in scores if s.task == task] for task in distinct(s.task for s in scores)
    }


def _cells(values: Mapping[str, Sequence[float]], places: int) -> list[Cell]:
    spreads = {head: spread(of) for head, of in values.items()}
    best = clearly_best({head: s for head, s in spreads.items() if s.count})
    return [Cell(with_spread(s, places), bold=head == best) for head, s in spreads.items()]


def _caption(
    scores: Sequence[Score], ceilings: Iterable[Ceiling], counts: tuple[str, str] | None
) -> str:
    metrics = ", ".join(distinct(s.metric for s in scores))
    parts = [f"Split: {scores[0].split}; metric: {metrics}."]
    if counts:
        parts.append(f"Examples scored for each task: {counts[0]}; seeds: {counts[1]}.")
    if len({s.seed for s in scores}) > 1:
        parts.append(
            "± is the standard deviation over seeds; bold is ahead of every other method by more than "
            "the pooled standard error."
        )
    else:
        parts.append("One seed: differences may be noise, so none is bold.")
    trained: dict[str, list[int]] = {}
    for c in ceilings:
        trained.setdefault(c.name, []).append(c.num_train)
    parts += [f"{name}: trained on {span(counts)} examples." for name, counts in trained.items()]
    return " ".join(parts)


def _majority(scores: Sequence[Score]) -> float | None:
    return next((s.majority for s in scores if s.majority is not None), None)


def _some(steps: Sequence[int]) -> list[int]:
    """The first step, then about an eighth, a quarter, half and the whole way."""
    if len(steps) < 6:
        return list(steps)
    wanted = [steps[0], *(steps[-1] * part for part in (0.125, 0.25, 0.5, 1.0))]
    return distinct(min(steps, key=lambda step: abs(step - w)) for w in wanted)
