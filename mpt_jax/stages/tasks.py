"""Lists the registered tasks and mixtures, each with an example.

mpt tasks
mpt tasks --task_module=my_tasks.py --name=my_task
"""

import argparse

from rich.console import Console
from rich.table import Table

from mpt_jax.data import tasks
from mpt_jax.stages.data import DEFAULT_MODULES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="only this task or mixture")


def run(name: str | None = None, task_modules: tuple[str, ...] = ()) -> None:
    """Prints the tasks.

    Args:
        name: of one task or mixture; all when None.
        task_modules: Python files or modules that register tasks, beside the shipped ones.
    """
    tasks.load_task_modules((*DEFAULT_MODULES, *task_modules))
    table = Table()
    table.add_column("task or mixture", no_wrap=True)  # to be copied whole
    for heading in ("splits or members", "metrics", "inputs", "targets"):
        table.add_column(heading)
    for summary in tasks.list_tasks(name):
        table.add_row(
            summary.name,
            ", ".join(summary.members or summary.splits),
            ", ".join(summary.metrics),
            summary.problem or summary.inputs_text or "",
            summary.targets_text or "",
        )
    Console().print(table)
