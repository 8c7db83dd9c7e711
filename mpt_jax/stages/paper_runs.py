"""The runs behind a table of the paper: which there are, in which order, and how far each is.

Every run is a command line of `mpt` in a folder of its own, so that any cell can be made by hand or on
another machine as well:

MODEL_DIR/<size>/sources/teach                   one run for all tables
MODEL_DIR/<size>/sources/distill/<variant>       one for each way to learn the shared prompt
MODEL_DIR/<size>/<setting>/<method>/<task>/      adapt and evaluate: all k and seeds of one cell
MODEL_DIR/<size>/<setting>/<method>/<table>/     the same for all tasks of a table, learned together
MODEL_DIR/.../<task>/k<k>/seed<seed>/            where each member is a run of its own
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from mpt_jax.data.tasks import MIXING_CAP
from mpt_jax.errors import UserError
from mpt_jax.stages.command_runs import DONE, Run, fields, state_of, texts
from mpt_jax.stages.paper_table import Size, Table
from mpt_jax.stages.starts import FROM_DISTILLED, FROM_TEACHERS
from mpt_jax.stages.variants import Variant

EVALUATIONS = 10  # at least so many in a run, since the best step is chosen among them


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method on one task at one size: the run that trains, and the one that scores.

    Of a multi-target method all cells have the same runs. A method whose members train each by itself
    has a cell for each k and seed.
    """

    variant: Variant
    size: str
    task: str
    adapt: Run
    evaluate: Run


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a table, each behind those that it needs."""

    sources: tuple[Run, ...]
    cells: tuple[Cell, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return (
            *self.sources,
            *(run for cell in self.trained for run in (cell.adapt, cell.evaluate)),
        )

    @property
    def trained(self) -> tuple[Cell, ...]:
        """One cell for each run that trains on targets."""
        return tuple({cell.adapt.name: cell for cell in self.cells}.values())


def make_plan(table: Table, root: Path) -> Plan:
    """The runs of a table below MODEL_DIR `root`. Touches nothing.

    Raises:
        UserError: a number of steps does not follow from what is given.
    """
    cells = []
    sources: dict[str, Run] = {}
    for size_name, tasks in table.tasks_by_size().items():
        size = table.size_of(size_name)
        for variant in table.variants:
            needs = _sources(table, size, variant, root, sources)
            targets = [tuple(tasks)] if variant.multi_target else [(task,) for task in tasks]
            for target, (shots, seeds) in itertools.product(targets, table.members_of(variant)):
                cells += _cells(table, size, variant, target, root, needs, shots, seeds)
    return Plan(tuple(sources.values()), tuple(cells))


def _sources(
    table: Table, size: Size, variant: Variant, root: Path, made: dict[str, Run]
) -> tuple[Run, ...]:
    """The runs that a method starts from; adds them to `made`."""
    if variant.start not in (*FROM_TEACHERS, *FROM_DISTILLED):
        return ()
    folder = root / size.name / "sources"
    common = {
        **_of_size(size, table), "MIXTURE_OR_TASK_NAME": table.source_mixture,
        "TASK_FEATURE_LENGTHS": dict(table.source_lengths),
    }  # fmt: skip
    counts = [table.train_examples(task) for task in table.source_tasks]
    known = [n for n in counts if n is not None]
    whole = len(known) == len(counts) > 0
    steps = table.teach.of(
        sum(known) / len(known) if whole else None, size.rows, "TEACH_STEPS", "the source tasks"
    )
    teach = Run(
        "teach", f"{size.name}/sources/teach", folder / "teach",
        texts({**common, "TEACH_STEPS": steps, "TEACH_BATCH_SIZE": size.rows,
                "EVAL_PERIOD": _period(table.source_eval_period, steps)}),
        (), table.source_tasks, len(table.source_tasks), size.rows * len(table.source_tasks), steps,
        table.source_lengths,
    )  # fmt: skip
    teach = made.setdefault(teach.name, teach)
    if variant.start in FROM_TEACHERS:
        return (teach,)
    steps = table.distill.of(
        float(sum(min(n, MIXING_CAP) for n in known)) if whole else None,
        size.rows, "DISTILL_STEPS", "the source tasks",
    )  # fmt: skip
    source = next(v for v in table.distilled if v.name == variant.source)
    settings = {
        **common, "DISTILL_STEPS": steps, "DISTILL_BATCH_SIZE": size.rows, "RANK": table.rank,
        "TEACHER_DIR": teach.place, "EVAL_PERIOD": _period(table.source_eval_period, steps),
        **fields("source/distill.Variant", source), **table.source_settings.get(source.name, {}),
    }  # fmt: skip
    distill = Run(
        "distill", f"{size.name}/sources/distill/{source.name}", folder / "distill" / source.name,
        {**texts(settings), "distill.run.variants": "(@source/distill.Variant(),)"},
        (teach,), table.source_tasks, 1, size.rows, steps, table.source_lengths,
    )  # fmt: skip
    return teach, made.setdefault(distill.name, distill)


def _cells(
    table: Table, size: Size, variant: Variant, tasks: tuple[str, ...], root: Path,
    needs: tuple[Run, ...], shots: tuple[int | None, ...], seeds: tuple[int, ...],
) -> list[Cell]:  # fmt: skip
    """The cells of tasks that are learned in one run: of one task, or of all by a multi-target method."""
    together = table.name if variant.multi_target else tasks[0]
    name = f"{size.name}/{table.setting}/{variant.name}/{together}"
    if variant.name in table.alone:
        name += "".join([*(f"/k{k}" for k in shots if k), *(f"/seed{seed}" for seed in seeds)])
    lengths = table.lengths_of(tasks)
    common = {
        **_of_size(size, table), "TASK_FEATURE_LENGTHS": lengths,
        "TARGET_MIXTURE_OR_TASK_NAME": tasks if variant.multi_target else tasks[0],
    }  # fmt: skip
    members = len(seeds) * len(shots)
    rows = table.rows or size.rows
    steps = table.adapt.of(_examples(table, tasks), rows, "ADAPT_STEPS", ", ".join(tasks))
    by_stage = {run.stage: run.place for run in needs}
    settings = {
        **common, "ADAPT_STEPS": steps, "ADAPT_BATCH_SIZE": rows, "RANK": table.rank,
        "EVAL_PERIOD": _period(table.eval_period, steps), "SHOTS": shots,
        "SEEDS": seeds, "PER_CLASS": tuple(table.per_class),
        "TEACHER_DIR": by_stage.get("teach"), "SOURCE_DIR": by_stage.get("distill"), "METHOD": None,
        **fields("cell/adapt.Variant", variant),
    }  # fmt: skip
    adapt = Run(
        "adapt", name, root / name / "adapt",
        {**texts(settings), "adapt.run.variants": "(@cell/adapt.Variant(),)"},
        needs, tasks, members, rows * members, steps, lengths,
    )  # fmt: skip
    scored = {
        **common, "SOURCES": (adapt.place,), "SPLIT": table.split,
        "MAX_EXAMPLES": table.max_examples,
    }  # fmt: skip
    evaluate = Run(
        "evaluate", f"{name} (scores)", root / name / "evaluate", texts(scored), (adapt,), tasks
    )
    return [Cell(variant, size.name, task, adapt, evaluate) for task in tasks]


def _examples(table: Table, tasks: tuple[str, ...]) -> float | None:
    """Training examples of all tasks, each counting as mixing counts it where there are several."""
    few = [k for k in table.shots if k is not None]
    if len(few) == len(table.shots):
        return float(max(few) * len(tasks))
    counts = [table.train_examples(task) for task in tasks]
    known = [n for n in counts if n is not None]
    if len(known) < len(counts):
        return None
    return float(known[0] if len(known) == 1 else sum(min(n, MIXING_CAP) for n in known))


def _of_size(size: Size, table: Table) -> dict[str, Any]:
    return {"INITIAL_CHECKPOINT_PATH": size.checkpoint, "PROMPT_LENGTH": table.length_of(size)}


def _period(most: int, steps: int) -> int:
    return max(1, min(most, steps // EVALUATIONS))


def is_done(cell: Cell) -> bool:
    """Whether a cell's numbers are there, made as the table says."""
    return state_of(cell.adapt) == state_of(cell.evaluate) == DONE


def check_places(table: Table) -> None:
    """Checks that the checkpoint of every size in use is given.

    Raises:
        UserError: one is not.
    """
    for name in table.tasks_by_size():
        if table.size_of(name).checkpoint is None:
            raise UserError(
                f"table {table.name} needs a backbone of size {name}: give its folder, "
                f"--gin.T5_{name.upper()}=\"'FOLDER'\"."
            )
