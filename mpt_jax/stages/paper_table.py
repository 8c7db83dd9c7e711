"""What a table of the paper consists of, as plain values that gin binds (gin/paper/)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.reporting.paper.published import task_facts
from mpt_jax.stages.distill import Variant as DistilledVariant
from mpt_jax.stages.starts import FROM_DISTILLED
from mpt_jax.stages.variants import Variant


class Column(NamedTuple):
    """One column of scores.

    Attributes:
        title: as in the published table.
        task: the seqio task; None where mpt_jax has no such metric, to show what is published.
        metric: which of its metrics; None for its first.
        k: few-shot size; None is all examples.
        times: from the metric's scale to the table's: 100 for metrics between 0 and 1.
        size: of the model; None for the table's.
    """

    title: str
    task: str | None
    metric: str | None = None
    k: int | None = None
    times: float = 100.0
    size: str | None = None


@dataclasses.dataclass(frozen=True)
class Size:
    """A backbone of one size, and how long the prompts on it are.

    Attributes:
        name: of its folder in MODEL_DIR.
        checkpoint: where it lies; None until it is given.
        model: a name of `models.t5_sizes`, for parameter counts where there is no checkpoint.
        rows: batch rows (of each member of a fleet).
        prompt_length: P; None for the table's.
    """

    name: str
    checkpoint: str | None
    model: str
    rows: int
    prompt_length: int | None = None


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long a stage trains.

    Attributes:
        epochs: passes over the training examples, of which there are as many as was published.
        steps: takes the place of epochs.
        most_steps: no more than these.
    """

    epochs: float | None = None
    steps: int | None = None
    most_steps: int | None = None

    def of(self, examples: float | None, rows: int, macro: str, what: str) -> int:
        """Steps for so many examples in batches of `rows`.

        Raises:
            UserError: they do not follow from what is given.
        """
        if self.steps is None and (self.epochs is None or examples is None):
            why = "no epochs are given" if self.epochs is None else "its size is not published"
            raise UserError(f"How long to train on {what}? {why}: give --gin.{macro}=NUMBER.")
        steps = self.steps
        if steps is None:
            steps = max(1, math.ceil((self.epochs or 0) * (examples or 0) / rows))
        return steps if self.most_steps is None else min(steps, self.most_steps)


@dataclasses.dataclass(frozen=True)
class Table:
    """One table: what is trained for it, and where the numbers go.

    Attributes:
        name: of the published table, and of the result's folder.
        columns: as tuples of `Column`'s fields.
        variants: our methods; a published line whose method is none of these is "published only".
        distilled: how the shared prompts are learned that the variants start from; those that none
            needs are left alone.
        source_mixture, source_tasks: of teach and distill; the tasks only to look up their sizes.
        size, sizes: the model size of columns that name none, and all sizes.
        prompt_length: P.
        feature_lengths: most tokens of the target tasks, but those of `lengths`.
        source_lengths: most tokens of the source tasks.
        teach, distill, adapt: how long each stage trains.
        lengths: most tokens of some tasks.
        setting: runs of different tables with one setting, method and task are the same runs.
        source_settings: distilled variant -> bindings of its `mpt distill` beside those of all.
        seeds, shots, per_class: as in `adapt.run`.
        alone: variants of which every k and seed is a run of its own, since their members are too large
            to train side by side.
        rank: R.
        rows: batch rows of each member on targets; None for the size's.
        eval_period, source_eval_period: most steps between evaluations on validation data; there are
            ten or more.
        split, max_examples: what is scored; as in `evaluate.run`.
    """

    name: str
    columns: tuple[tuple, ...]
    variants: tuple[Variant, ...]
    distilled: tuple[DistilledVariant, ...]
    source_mixture: str
    source_tasks: tuple[str, ...]
    size: str
    sizes: tuple[Size, ...]
    prompt_length: int
    feature_lengths: Mapping[str, int]
    source_lengths: Mapping[str, int]
    teach: Budget
    distill: Budget
    adapt: Budget
    lengths: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    setting: str = "full"
    source_settings: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    shots: tuple[int | None, ...] = (None,)
    per_class: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    rank: int = 1
    rows: int | None = None
    eval_period: int = 1000
    source_eval_period: int = 1000
    split: str = "test"
    max_examples: int | None = None

    def __post_init__(self):
        known = {size.name for size in self.sizes}
        for column in self.columns_of():
            if column.size not in known:
                raise unknown_name(
                    f"model size of column {column.title!r}", str(column.size), known
                )
            if column.task is not None and column.k not in self.shots:
                raise UserError(
                    f"table {self.name}: column {column.title!r} has k = {column.k}, but SHOTS is "
                    f"{self.shots}."
                )
        for variants in (self.variants, self.distilled):
            names = [variant.name for variant in variants]
            if len(set(names)) < len(names):
                raise UserError(f"table {self.name}: variants need different names, got {names}.")
        sources = {variant.name for variant in self.distilled}
        for variant in self.variants:
            if variant.start in FROM_DISTILLED and variant.source not in sources:
                raise unknown_name(f"distilled variant of {variant.name}", variant.source, sources)

    def columns_of(self) -> list["Column"]:
        """The columns, each with its size."""
        return [
            column._replace(size=column.size or self.size)
            for column in (Column(*values) for values in self.columns)
        ]

    def tasks_by_size(self) -> dict[str, list[str]]:
        """The tasks that are trained on at each model size, in the order of the columns."""
        found: dict[str, dict[str, None]] = {}
        for column in self.columns_of():
            if column.task is not None:
                found.setdefault(str(column.size), {})[column.task] = None
        return {size: list(tasks) for size, tasks in found.items()}

    def size_of(self, name: str) -> Size:
        return next(size for size in self.sizes if size.name == name)

    def length_of(self, size: Size) -> int:
        """P."""
        return self.prompt_length if size.prompt_length is None else size.prompt_length

    def lengths_of(self, tasks: Sequence[str]) -> dict[str, int]:
        """Most tokens of any of the tasks, by feature."""
        found = [self.lengths.get(task, self.feature_lengths) for task in tasks]
        return {name: max(lengths[name] for lengths in found) for name in found[0]}

    def members_of(
        self, variant: Variant
    ) -> list[tuple[tuple[int | None, ...], tuple[int, ...]]]:  # fmt: skip
        """(shots, seeds) of each run of a variant."""
        shots, seeds = tuple(self.shots), tuple(self.seeds)
        if variant.name not in self.alone:
            return [(shots, seeds)]
        return [((k,), (seed,)) for k in shots for seed in seeds]

    def train_examples(self, task: str) -> int | None:
        """Published number of training examples; the few-shot sets have at most as many."""
        facts = task_facts(task)
        return None if facts is None else facts.train
