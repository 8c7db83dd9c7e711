"""Runs a table of Wang et al. 2023 from teachers to the table, and shows it beside the published one.

    mpt paper glue --model_dir=runs/paper --gin.T5_BASE="'models/t5-base'" --gin.DATA_DIR="'data'"
    mpt paper glue --model_dir=runs/paper ... --status
    mpt paper glue --model_dir=runs/paper ... --only='mpt/glue_rte'
    mpt paper glue --dry_run

TABLE is glue, super_glue, mrqa, others, few_shot, nlg, ablations, scaling or prompt_length (gin/paper/), or
a gin file of your own. What is done is not run again, so the same command goes on where it was stopped, and
tries again what failed. Tables share teachers and distilled prompts, and every cell that they have in common.
"""

import argparse
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from mpt_jax.errors import UserError
from mpt_jax.reporting.layout import NOTHING
from mpt_jax.reporting.layout import Table as ShownTable
from mpt_jax.stages import paper_checks, paper_results
from mpt_jax.stages.command_runs import (
    DONE,
    Run,
    all_runs,
    check_all,
    run_all,
    state_of,
    state_text,
)
from mpt_jax.stages.data import Data
from mpt_jax.stages.paper_runs import Plan, check_places, make_plan
from mpt_jax.stages.paper_table import Table
from mpt_jax.terminal import Output
from mpt_jax.working_copy import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table_file", metavar="TABLE", help="a table's name, or a gin file")
    parser.add_argument("--status", action="store_true", help="only list the runs")
    parser.add_argument(
        "--only", metavar="METHOD/TASK", help="only these cells (with * and ?), and what they need"
    )


def gin_files(given: dict[str, Any]) -> tuple[str, ...]:
    """The table's file."""
    name = given.pop("table_file")
    return (name if name.endswith(".gin") else f"paper/{name}.gin",)


def run(
    table: Table,
    data: Data,
    launch: Callable[[Sequence[str]], object],
    gin_words: tuple[str, ...] = (),
    model_dir: str | None = None,
    only: str | None = None,
    status: bool = False,
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
) -> None:
    """Runs what is missing of a table, and writes `MODEL_DIR/tables/<table>/table.md` and `.json`.

    Args:
        table: what is trained for it.
        data: of all stages, to measure lengths in a dry run.
        launch: runs a command line of mpt in this process.
        gin_words: the gin flags of this command, for those that it launches.
        model_dir: the directory of all tables' runs.
        only: pattern over `<method>/<task>`, to run these cells and what they need.
        status: list the runs, run nothing.
        task_modules: Python files or modules that register tasks.
        dry_run: check parameter counts, estimate steps and tokens, and, where the backbone is given,
            resolve every run.

    Raises:
        UserError: something is not given, runs failed, or runs are there with other settings; said when
            everything else is done and the table is written.
    """
    console = Output()
    with all_runs(model_dir or "MODEL_DIR") as root:
        plan = make_plan(table, root)
        if dry_run:
            _check(table, plan, data, launch, gin_words, task_modules, console)
            return
        if model_dir is None:
            raise UserError("the runs need a place: give --model_dir=DIR")
        chosen = _chosen(plan, only)
        console.print(status_table(table, plan).rich(console.width))
        if status:
            return
        check_places(table)
        left = [run for run in chosen if state_of(run) != DONE]
        wrong = run_all(left, launch, gin_words, task_modules, console)
        comparison = paper_results.compare(table, plan)
        folder = root / "tables" / table.name
        paper_results.write(comparison, folder, paper_results.draws_of(plan), console)
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(chosen)} runs of table {table.name} are not done; the same command "
            "goes on with them:\n" + "\n".join(f"  {line}" for line in wrong)
        )


def _chosen(plan: Plan, only: str | None) -> list[Run]:
    """The runs of the cells that `only` names, and those before them, in order."""
    if only is None:
        return list(plan.runs)
    cells = [c for c in plan.cells if fnmatch.fnmatchcase(f"{c.variant.name}/{c.task}", only)]
    if not cells:
        names = ", ".join(dict.fromkeys(f"{c.variant.name}/{c.task}" for c in plan.cells))
        raise UserError(f"--only={only} names no cell of this table; there are {names}.")
    wanted = {cell.evaluate.name for cell in cells} | {cell.adapt.name for cell in cells}
    wanted |= {run.name for cell in cells for run in cell.adapt.needs}
    return [run for run in plan.runs if run.name in wanted]


def status_table(table: Table, plan: Plan) -> ShownTable:
    """Every run and how far it is; every published method that mpt_jax does not have."""
    listed = ShownTable(
        f"Runs of table {table.name}",
        ["run", "training", "scores", "steps", "folder"],
        text_columns=3,
    )
    for run in plan.sources:
        listed.add(run.name, state_text(run), "", f"{run.steps:,}", run.place)
    for cell in plan.trained:
        listed.add(
            cell.adapt.name, state_text(cell.adapt), state_text(cell.evaluate), f"{cell.adapt.steps:,}",
            shown(cell.adapt.folder.parent),
        )  # fmt: skip
    for label in paper_results.not_built(table):
        listed.add(label, "published only", "", NOTHING, "")
    return listed


def _check(
    table: Table, plan: Plan, data: Data, launch: Callable[[Sequence[str]], object],
    gin_words: Sequence[str], task_modules: tuple[str, ...], console: Console,
) -> None:  # fmt: skip
    counts = paper_checks.parameter_counts(table)
    console.print(paper_checks.count_table(counts).rich(console.width))
    lengths = paper_checks.mean_lengths(table, plan, data, task_modules, console)
    console.print(paper_checks.estimate_table(table, plan, lengths).rich(console.width))
    for warning in paper_checks.size_warnings(lengths):
        console.print(warning)
    tried = [
        run for run in plan.runs if table.size_of(run.name.partition("/")[0]).checkpoint is not None
    ]
    wrong, notes = check_all(tried, launch, gin_words, task_modules)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    wrong += [
        f"parameters per task of {count.label} at size {count.size}: {count.ours} {count.wrong}"
        for count in counts
        if count.wrong
    ]
    if wrong:
        raise UserError("this table cannot be run as it is:\n" + "\n".join(f"  {w}" for w in wrong))
    missing = [name for name in table.tasks_by_size() if table.size_of(name).checkpoint is None]
    print(
        f"\ndry run: everything checked, nothing trained ({len(tried)} of {len(plan.runs)} runs resolved"
        + (f"; no backbone is given for the sizes {', '.join(missing)})" if missing else ")")
    )
