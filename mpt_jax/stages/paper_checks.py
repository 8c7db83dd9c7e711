"""What a table will cost and whether it adds up, before anything is trained."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from mpt_jax import fetched
from mpt_jax.data.vocabulary_files import vocabulary_of
from mpt_jax.errors import UserError
from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.t5_config import T5Config
from mpt_jax.models.t5_sizes import size_named
from mpt_jax.reporting.layout import NOTHING
from mpt_jax.reporting.layout import Table as ShownTable
from mpt_jax.reporting.paper.published import (
    Difference,
    differences,
    exact_counts,
    fits,
    published_names,
    published_table,
    task_facts,
)
from mpt_jax.stages.backbone import EMBEDDED, EMBEDDED_FOLDER, BackboneSource
from mpt_jax.stages.command_runs import Run
from mpt_jax.stages.data import Data
from mpt_jax.stages.paper_runs import Plan
from mpt_jax.stages.paper_table import Size, Table
from mpt_jax.stages.variants import Variant, build_method

GLUE_TASKS, PRINTED_WIDTH = 8, 768  # what the printed counts are of: T5-Base


@dataclasses.dataclass(frozen=True)
class Count:
    """Numbers to store for a task, by one method at one size.

    Attributes:
        ours: from shapes alone; None where mpt_jax does not have the method.
        exact: counted by others in the published code; None where nobody has.
        printed: in the published table.
        difference: what ours is known to count otherwise, and why.
    """

    label: str
    size: str
    ours: int | None
    exact: int | None
    printed: str | None
    difference: Difference | None = None

    @property
    def explained(self) -> bool:
        return self.difference is not None and self.ours == self.difference.count

    @property
    def wrong(self) -> str | None:
        """What does not agree."""
        if self.explained:
            return None
        count = self.exact if self.ours is None else self.ours
        if count is not None and self.exact not in (None, count):
            return f"differs from {self.exact:,}"
        if count is not None and self.printed is not None and not fits(count, self.printed):
            return f"does not fit {self.printed}"
        return None

    @property
    def verdict(self) -> str:
        if self.ours is None:
            return self.wrong or "published only"
        if self.explained:
            return "agrees, see below"
        known = self.exact is not None or self.printed is not None
        return self.wrong or ("agrees" if known else "nothing to compare")


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Mean tokens of an example. `where` says how they are known."""

    inputs: float
    targets: float
    examples: int | None
    where: str


def parameter_counts(table: Table) -> list[Count]:
    """Every published and every own method, at every size of the table."""
    variants = {variant.name: variant for variant in table.variants}
    rows = published_table(table.name).rows if table.name in published_names() else ()
    rows = tuple(row for row in rows if not row.later)
    counts = []
    for size_name, tasks in table.tasks_by_size().items():
        size = table.size_of(size_name)
        shape = _shape(size)
        width = shape.emb_dim
        same = parameter_shapes(shape) == parameter_shapes(size_named(size.model))
        comparable = same and table.length_of(size) == 100 and table.rank == 1
        exact = exact_counts(width) if comparable else {}
        for row in rows:
            variant = variants.get(row.method)
            ours = None if variant is None else _count(table, size, variant, shape, len(tasks))
            # What is known of shared parameters is divided by GLUE's 8 tasks, in every table.
            known = bool(exact) and not (row.multi_target and len(tasks) != GLUE_TASKS)
            counts.append(
                Count(
                    row.label, size_name, ours, exact.get(row.method) if known else None,
                    row.parameters if known and width == PRINTED_WIDTH else None,
                    differences(width).get(row.method) if known else None,
                )
            )  # fmt: skip
        for name in [name for name in variants if name not in {row.method for row in rows}]:
            ours = _count(table, size, variants[name], shape, len(tasks))
            counts.append(
                Count(name, size_name, ours, exact.get(name), None, differences(width).get(name))
            )
    return counts


def _count(table: Table, size: Size, variant: Variant, shape: T5Config, tasks: int) -> int:
    together = tasks if variant.multi_target else 1
    method = build_method(variant, 1, together, table.length_of(size), table.rank, shape)
    return method.count() // together


def _shape(size: Size) -> T5Config:
    """Of the checkpoint, where there is one."""
    if size.checkpoint is None:
        return size_named(size.model)
    return BackboneSource(size.checkpoint).open_config()


def _folder(size: Size) -> Path | None:
    if size.checkpoint is None:
        return None
    return EMBEDDED_FOLDER if size.checkpoint == EMBEDDED else fetched.backbone(size.checkpoint)


def count_table(counts: Sequence[Count]) -> ShownTable:
    why = dict.fromkeys(
        f"{c.label}: {c.difference.why}." for c in counts if c.difference and c.explained
    )
    shown = ShownTable(
        "Parameters per task",
        ["method", "size", "ours, from shapes", "counted by others", "printed", "verdict"],
        " ".join(why),
        text_columns=2,
    )
    for count in counts:
        shown.add(
            count.label, count.size, NOTHING if count.ours is None else f"{count.ours:,}",
            NOTHING if count.exact is None else f"{count.exact:,}", count.printed or NOTHING,
            count.verdict,
        )  # fmt: skip
    return shown


def mean_lengths(
    table: Table, plan: Plan, data: Data, task_modules: tuple[str, ...], console: Console
) -> dict[tuple[str, str], Lengths]:
    """By (run's name, task): measured where backbone and data are there, else as published.

    Where neither is known, the longest that is allowed.
    """
    found: dict[tuple[str, str], Lengths] = {}
    for run in plan.runs:
        if not run.members:
            continue
        folder = _folder(table.size_of(run.name.partition("/")[0]))
        limits = dataclasses.replace(data, feature_lengths=run.lengths)
        for task in run.tasks:
            measured = None
            if folder is not None:
                try:
                    measured = _measure(limits, task, folder, task_modules)
                except UserError as error:
                    console.print(f"{task}: lengths are not measured: {error}", style="dim")
            found[run.name, task] = measured or _published(run, task)
    return found


def _measure(data: Data, task: str, folder: Path, task_modules: tuple[str, ...]) -> Lengths:
    data.register(task_modules, vocabulary_of(folder))
    examples = data.open(task, "train")
    inputs, targets = examples.lengths().mean(axis=0)
    return Lengths(float(inputs), float(targets), len(examples), "measured")


def _published(run: Run, task: str) -> Lengths:
    facts = task_facts(task)
    longest = run.lengths["inputs"]
    if facts is None or facts.input_tokens is None:
        return Lengths(
            longest, run.lengths["targets"], None if facts is None else facts.train, "longest"
        )
    inputs = min(facts.input_tokens, longest)
    return Lengths(inputs, run.lengths["targets"], facts.train, "published")


def estimate_table(
    table: Table, plan: Plan, lengths: Mapping[tuple[str, str], Lengths]
) -> ShownTable:
    """Steps and tokens of every run that trains, and of all together."""
    shown = ShownTable(
        "Runs",
        ["run", "examples", "members", "steps", "rows a step", "tokens a row", "tokens", "lengths"],
        "A row's tokens are the prompt's, the inputs' and the targets'. distill reads every row twice "
        "(teacher and student), evaluations are not counted. Lengths are measured where the data is there; "
        "else the published means of inputs (or the longest allowed) and the longest targets.",
    )
    total_steps, total_tokens = 0, 0.0
    for run in plan.runs:
        if not run.members:
            continue
        known = [lengths[run.name, task] for task in run.tasks]
        length = table.length_of(table.size_of(run.name.partition("/")[0]))
        row = length + sum(k.inputs + k.targets for k in known) / len(known)
        passes = 2 if run.stage == "distill" else 1
        tokens = run.steps * run.rows * row * passes
        total_steps += run.steps
        total_tokens += tokens
        examples = [k.examples for k in known if k.examples is not None]
        shown.add(
            run.name, f"{sum(examples):,}" if len(examples) == len(known) else NOTHING,
            str(run.members), f"{run.steps:,}", str(run.rows), f"{row:.0f}", short(tokens),
            ", ".join(dict.fromkeys(k.where for k in known)),
        )  # fmt: skip
    shown.add("all", "", "", f"{total_steps:,}", "", "", short(total_tokens), "", summary=True)
    return shown


def short(number: float) -> str:
    """`1.2e+09` as `1.2 G`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def size_warnings(lengths: Mapping[tuple[str, str], Lengths]) -> list[str]:
    """Tasks whose training split is not as large as published."""
    found = {}
    for (_, task), known in lengths.items():
        facts = task_facts(task)
        if known.where == "measured" and facts is not None and facts.train != known.examples:
            found[task] = f"{task}: {known.examples:,} training examples, published {facts.train:,}"
    return list(found.values())
