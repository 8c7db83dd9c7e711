"""The tables of a comparison: methods stand down the side, for there are many."""

import math
import statistics
from collections.abc import Sequence

from mpt_jax.reporting.comparison.records import Comparison, MethodRecord
from mpt_jax.reporting.layout import (
    COST,
    NOTHING,
    TARGETS,
    Cell,
    Table,
    decimals_for,
    number,
    with_spread,
)
from mpt_jax.reporting.results import Results, Score
from mpt_jax.reporting.styles import label
from mpt_jax.reporting.summaries import (
    Spread,
    clearly_best,
    distinct,
    k_label,
    ks_of,
    mean_curve,
    seed_means,
    shared_tasks,
    shown_curves,
    shown_scores,
    spread,
)

RISING = 0.01  # a mean that gained more than this in the last quarter of its steps still rises


def ranking(results: Results, k: int | None) -> dict[str, Spread]:
    """Method -> mean over the tasks that all have, with its spread over seeds; the best first."""
    of = _by_method(results, k)
    tasks = shared_tasks(of.values())
    means = {m: spread(seed_means(scores, tasks).values()) for m, scores in of.items()}
    return dict(sorted(means.items(), key=lambda pair: -_sortable(pair[1].mean)))


def ranking_table(results: Results, comparison: Comparison, k: int | None) -> Table:
    """One row a method: its score, and what it costs to store and to train."""
    means = ranking(results, k)
    records = {record.name: record for record in comparison.methods}
    of = _by_method(results, k)
    tasks = shared_tasks(of.values())
    scores = [s for scores in of.values() for s in scores]
    places, best = decimals_for(s.score for s in scores), clearly_best(means)
    seeds = len({s.seed for s in scores})
    table = Table(
        f"The methods, {k_label(k)}",
        ["rank", "method", "mean score", "parameters a task", "bytes a task", "steps/s", "training",
         "memory of a step"],
        f"Mean over {len(tasks)} tasks, {scores[0].split} split, ± standard deviation over {seeds} seeds; "
        "bold is ahead of every other method by more than the pooled standard error. Bytes are those of "
        "the stored files, and a task's share of them where a file holds several tasks. Steps/s, "
        "training (in all, compiling and validation included) and memory are of the one program that "
        "trains all (task, k, seed) members of a method side by side; other work shared the machine. "
        "Memory: arguments (the backbone among them), results and temporaries of the compiled step.",
        text_columns=2,
        section=TARGETS,
    )  # fmt: skip
    for rank, (name, mean) in enumerate(means.items(), start=1):
        record = records[name]
        table.add(
            str(rank), label(name), Cell(with_spread(mean, places), bold=name == best),
            f"{record.parameters:,}", f"{record.stored_bytes:,}", rate(record.steps_per_second),
            seconds(record), size(record.step_bytes),
        )  # fmt: skip
    majority = [_majority(scores, task) for task in tasks]
    if majority and None not in majority:
        mean_majority = statistics.fmean(m for m in majority if m is not None)
        table.add(
            "", "majority class", number(mean_majority, places), *[""] * 5, summary=True
        )  # fmt: skip
    for name in comparison.failed:
        table.add("", label(name), "failed", *[""] * 5)
    return table


def task_table(results: Results, k: int | None) -> Table:
    """Each method's score on each task."""
    of = _by_method(results, k)
    scores = [s for scores in of.values() for s in scores]
    tasks = distinct(s.task for s in scores)
    table = Table(
        f"Task by task, {k_label(k)}",
        ["method", *tasks],
        f"{scores[0].split} split, mean ± standard deviation over seeds; bold as above.",
        section=TARGETS,
    )
    cells = {
        task: {m: spread(s.score for s in scores if s.task == task) for m, scores in of.items()}
        for task in tasks
    }
    best = {
        task: clearly_best({m: s for m, s in of.items() if s.count}) for task, of in cells.items()
    }
    places = {task: decimals_for(s.score for s in scores if s.task == task) for task in tasks}
    for name in ranking(results, k):
        table.add(
            label(name),
            *(Cell(with_spread(cells[t][name], places[t]), bold=best[t] == name) for t in tasks),
        )
    table.add(
        "majority class", *(number(_majority(scores, t), places[t]) for t in tasks), summary=True
    )
    return table


def search_table(comparison: Comparison) -> Table:
    """Every candidate of every method with its score; the chosen one is bold."""
    most = max((len(record.candidates) for record in comparison.methods), default=0)
    table = Table(
        "The search of learning rates",
        ["method", *(f"candidate {i + 1}" for i in range(most)), "best at the edge"],
        "Learning rate (and that of the factors): mean validation score over the search's tasks, k's and "
        "seeds, each run at its best step. Bold is the chosen one; a best rate at the edge of its grid "
        "might be improved by a wider one.",
        section=COST,
    )
    for record in comparison.methods:
        chosen = (record.learning_rate, record.factor_learning_rate)
        cells = []
        for c in record.candidates:
            factors = "" if c.factor_learning_rate is None else f" ({c.factor_learning_rate:g})"
            score = "diverged" if c.score is None else number(c.score, decimals_for([c.score]))
            is_chosen = (c.learning_rate, c.factor_learning_rate) == chosen
            cells.append(Cell(f"{c.learning_rate:g}{factors}: {score}", bold=is_chosen))
        cells += [Cell("")] * (most - len(cells))
        table.add(label(record.name), *cells, ", ".join(record.edges) or "no")
    return table


def convergence(results: Results, k: int | None) -> dict[str, tuple[list[int], list[float], float]]:
    """Method -> steps, mean validation scores there, and what the last quarter of the steps gained."""
    curves = [c for c in shown_curves(results, "adapt") if c.k == k]
    found = {}
    for method in distinct(c.method for c in curves):
        of = [c for c in curves if c.method == method]
        steps, by_seed = mean_curve(of, distinct(c.task for c in of))
        if len(steps) > 1 and by_seed:
            means = [statistics.fmean(v) for v in zip(*by_seed.values(), strict=True)]
            before = max(i for i, step in enumerate(steps) if step <= 0.75 * steps[-1])
            found[method] = steps, means, means[-1] - means[before]
    return found


def convergence_table(results: Results, k: int | None) -> Table | None:
    """Whether the curves have flattened."""
    curves = convergence(results, k)
    if not curves:
        return None
    shown = _quarters(next(iter(curves.values()))[0])
    table = Table(
        f"Have the curves flattened? {k_label(k)}",
        ["method", *(f"step {step:,}" for step in shown), "gain of the last quarter"],
        f"Mean validation score. A method that gained more than {number(RISING, 2)} in the last quarter "
        "of its steps may want more of them.",
        section=TARGETS,
    )
    for method in ranking(results, k):
        if method in curves:
            steps, means, gain = curves[method]
            places = decimals_for(means)
            at = dict(zip(steps, means, strict=True))
            table.add(
                label(method), *(number(at.get(step), places) for step in shown),
                Cell(number(gain, places, sign=True), bold=gain > RISING),
            )  # fmt: skip
    return table


def cost_table(comparison: Comparison) -> Table:
    """Where the time of each method went."""
    table = Table(
        "Time and memory",
        ["method", "members", "rows a step", "search", "training", "of it compiling", "of it validation",
         "steps/s", "memory of a step"],
        "Times are of a machine that other work shared, and of the process that finished the training; "
        "where an earlier one was stopped, the total is left out.",
        section=COST,
    )  # fmt: skip
    for r in comparison.methods:
        table.add(
            label(r.name), str(r.members), str(r.rows), f"{r.search_seconds:,.0f} s", seconds(r),
            f"{r.compile_seconds:,.1f} s", f"{r.evaluate_seconds:,.1f} s", rate(r.steps_per_second),
            size(r.step_bytes),
        )  # fmt: skip
    return table


def transfer_table(results: Results, comparison: Comparison, baseline: str) -> Table | None:
    """The transfer's method from parts of the source tasks, beside all of them and beside none."""
    if not comparison.transfer:
        return None
    method = comparison.transfer_method
    columns: dict[str, list[Score]] = {}
    main = shown_scores(results, "adapt")
    for name in (baseline, method):
        if any(s.method == name for s in main):
            head = label(name) + (", all sources" if name == method else "")
            columns[head] = [s for s in main if s.method == name]
    columns |= {f"{label(method)}, {name}": of for name, of in comparison.transfer.items()}
    tasks = distinct((s.task, s.k) for of in comparison.transfer.values() for s in of)
    table = Table(
        "From one kind of task to another",
        ["target", "k", "majority", *columns],
        "The same method, rates, steps and draws; only the source tasks that the shared prompt was "
        "distilled from differ. ± is the standard deviation over seeds.",
        section=TARGETS,
    )
    for task, k in tasks:
        of = {h: [s for s in c if (s.task, s.k) == (task, k)] for h, c in columns.items()}
        here = [s for found in of.values() for s in found]
        places = decimals_for(s.score for s in here)
        spreads = {h: spread(s.score for s in found) for h, found in of.items()}
        table.add(
            task, "all" if k is None else str(k), number(_majority(here, task), places),
            *(with_spread(s, places) for s in spreads.values()),
        )  # fmt: skip
    return table


def comparison_tables(results: Results, k: int | None) -> list[Table]:
    """The tables that one k has beside its ranking."""
    tables = [task_table(results, k), convergence_table(results, k)]
    return [table for table in tables if table is not None]


def all_ks(results: Results) -> list[int | None]:
    """The k's of the target tasks."""
    return ks_of(shown_scores(results, "adapt"))


def rate(value: float | None) -> str:
    """`12.3`, or a dash."""
    return NOTHING if value is None else f"{value:.3g}"


def seconds(record: MethodRecord) -> str:
    """`42 s`; a dash where only a part of the training was timed."""
    return f"{record.seconds:,.0f} s" if record.whole else NOTHING


def size(count: int | None) -> str:
    """`12.3 MB`."""
    return NOTHING if count is None else f"{count / 1e6:,.1f} MB"


def _by_method(results: Results, k: int | None) -> dict[str, list[Score]]:
    scores = [s for s in shown_scores(results, "adapt") if s.k == k]
    return {m: [s for s in scores if s.method == m] for m in distinct(s.method for s in scores)}


def _majority(scores: Sequence[Score], task: str) -> float | None:
    return next((s.majority for s in scores if s.task == task and s.majority is not None), None)


def _quarters(steps: Sequence[int]) -> list[int]:
    wanted = [steps[0], *(steps[-1] * part for part in (0.25, 0.5, 0.75, 1.0))]
    return distinct(min(steps, key=lambda step: abs(step - w)) for w in wanted)


def _sortable(value: float) -> float:
    return -math.inf if math.isnan(value) else value
