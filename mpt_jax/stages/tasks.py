"""Lists the registered tasks and mixtures, each with an example.

    mpt tasks
    mpt tasks my_task --task_module=my_tasks.py
    mpt tasks glue_rte --gin_file=models/embedded.gin --gin_file=runs/tasks.gin \\
        --gin_file=runs/benchmark.gin --gin.DATA_DIR="'/data/benchmark'"
    mpt tasks --gin_file=models/embedded.gin --gin_file=runs/tasks.gin --gin_file=my_table.gin

The first form lists all, without gin files. The last two show tasks that only a configuration knows: the
paper's data sets, and tables of your own.
"""

import argparse

from rich.table import Table

from mpt_jax.data import tasks
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.stages.data import DEFAULT_MODULES, Data
from mpt_jax.stages.task_description import describe_task
from mpt_jax.terminal import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="only this task or mixture")
    parser.add_argument("--name", help="the same")


def run(
    name: str | None = None,
    task_modules: tuple[str, ...] = (),
    data: Data | None = None,
    backbone: BackboneSource = BackboneSource(),
) -> None:
    """Prints the tasks; of a single one, with `data`, also its data set, sizes, lengths and licence.

    Args:
        name: of one task or mixture; all when None.
        task_modules: Python files or modules that register tasks, beside the shipped ones.
        data: names families of tasks; None for no more.
        backbone: whose vocabulary the tasks of families have.
    """
    if data is None:
        tasks.load_task_modules((*DEFAULT_MODULES, *task_modules))
    else:
        data.register(task_modules, backbone.open_vocabulary())
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
    console = Output()
    console.print(table)
    if data is not None and name is not None and tasks.expand(name) == (name,):
        describe_task(name, data, console)
