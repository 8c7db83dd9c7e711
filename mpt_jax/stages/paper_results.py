"""From the finished runs of a table to its comparison with the published one."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.reporting.paper.comparison import (
    Comparison,
    Head,
    Line,
    comparison_json,
    comparison_table,
)
from mpt_jax.reporting.paper.published import published_names, published_table
from mpt_jax.reporting.paper.trade_off import trade_off
from mpt_jax.reporting.results import Draw, Results, Score, check_same_draws
from mpt_jax.reporting.styles import label
from mpt_jax.run_directory import write_json, write_text
from mpt_jax.stages.paper_runs import Cell, Plan, is_done
from mpt_jax.stages.paper_table import Column, Table
from mpt_jax.working_copy import shown


def compare(table: Table, plan: Plan) -> Comparison:
    """What the finished cells say.

    Raises:
        UserError: cells that do not go together (other backbones, other few-shot draws), or a column's
            metric that its task does not have.
    """
    done = _done(plan)
    _check(done)
    columns = table.columns_of()
    heads = tuple(Head(c.title, c.task, c.metric, c.times) for c in columns)
    published = published_table(table.name) if table.name in published_names() else None
    scores = {
        variant.name: {
            column.title: _scores(column, variant.name, done, table.split) for column in columns
        }
        for variant in table.variants
    }
    standing = {
        variant.name: f"{sum(c.variant == variant for c, _ in done)} of "
        f"{sum(c.variant == variant for c in plan.cells)} cells"
        for variant in table.variants
    }  # fmt: skip
    lines = [
        Line(row.label, row.method, row, None if row.later else scores.get(row.method),
             standing.get(row.method, ""))
        for row in (published.rows if published else ())
    ]  # fmt: skip
    named = {line.method for line in lines if line.scores is not None}
    lines += [
        Line(label(name), name, None, scores[name], standing[name])
        for name in scores
        if name not in named
    ]
    title = published.title if published else table.name
    sizes = ", ".join(dict.fromkeys(str(column.size) for column in columns))
    return Comparison(f"{title}, T5 {sizes}", heads, tuple(lines), published)


def not_built(table: Table) -> list[str]:
    """Published methods of the paper's table that mpt_jax does not have."""
    if table.name not in published_names():
        return []
    own = {variant.name for variant in table.variants}
    rows = published_table(table.name).rows
    return [row.label for row in rows if not row.later and row.method not in own]


def write(comparison: Comparison, folder: Path, draws: Sequence[Draw], console: Console) -> None:
    """Prints the table and writes it, anew each time: table.md, table.json, and plot.png if it can be."""
    folder.mkdir(parents=True, exist_ok=True)
    table, notes = comparison_table(comparison)
    plot = trade_off(comparison, folder / "plot.png")
    image = "" if plot is None else f"\n![Average score and parameters per task]({plot.name})\n"
    bullets = "".join(f"- {note}\n" for note in notes)
    write_text(folder / "table.md", f"{table.markdown()}{image}\n{bullets}")
    content = comparison_json(comparison)
    write_json(folder / "table.json", {**content, "draws": [vars(draw) for draw in draws]})
    console.print(table.rich(console.width), *notes, "", sep="\n", markup=False)
    console.print(f"table: {shown(folder / 'table.md')}")


def draws_of(plan: Plan) -> list[Draw]:
    """The few-shot draws behind the finished cells, each once."""
    return list({draw.key: draw for _, results in _done(plan) for draw in results.draws}.values())


def _done(plan: Plan) -> list[tuple[Cell, Results]]:
    return [
        (cell, Results.load(cell.evaluate.folder / "results.json"))
        for cell in plan.cells
        if is_done(cell)
    ]


def _scores(
    column: Column, method: str, done: Sequence[tuple[Cell, Results]], split: str
) -> list[Score]:
    found = [
        score
        for cell, results in done
        if (cell.variant.name, cell.size, cell.task) == (method, column.size, column.task)
        for score in results.scores
        if (score.stage, score.task, score.k, score.split)
        == ("adapt", column.task, column.k, split)
    ]
    for score in found:
        if column.metric is not None and column.metric not in score.metrics:
            raise unknown_name(f"metric of task {column.task}", column.metric, score.metrics)
    return sorted(found, key=lambda score: score.seed)


def _check(done: Sequence[tuple[Cell, Results]]) -> None:
    check_same_draws([draw for _, results in done for draw in results.draws])
    backbones: dict[str, set[str]] = {}
    for cell, results in done:
        backbones.setdefault(cell.size, set()).add(str(results.backbone.get("fingerprint")))
    for size, fingerprints in backbones.items():
        if len(fingerprints) > 1:
            raise UserError(
                f"the cells of size {size} were made with different backbones (fingerprints "
                f"{', '.join(sorted(fingerprints))}) and do not compare; give each its own --model_dir."
            )
