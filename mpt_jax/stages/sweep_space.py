"""What a sweep varies: settings of the pipeline, the axes of a space, and the source mixtures by name."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.stages import distill
from mpt_jax.stages.variants import Variant
from mpt_jax.training.distillation import Layers

ALL = "all"
WITHOUT, ONLY = "without ", "only "
SHORTHANDS = ("leave_one_out", "single", "families")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of the pipeline; a trial trains it with all seeds.

    Attributes:
        sources: the source mixture: "all", a family's name, "without <task>" or "only <task>".
        weight, logits, hidden, temperature, layers, rank: of distillation, see `distill.Variant`.
        learning_rate, factor_learning_rate: of distillation.
        target_learning_rate, target_factor_learning_rate: on targets.
        prompt_length: P, of teachers too.
        sampler: of distillation's batches, "paper" or "proportional".
    """

    sources: str = ALL
    weight: float = 0.9
    logits: float = 1.0
    hidden: float = 1.0
    temperature: float = 1.0
    layers: Layers = "last"
    rank: int = 1
    learning_rate: float = 0.3
    factor_learning_rate: float = 0.3
    target_learning_rate: float = 0.3
    target_factor_learning_rate: float = 0.4
    prompt_length: int = 100
    sampler: str = "paper"

    @property
    def compiled(self) -> tuple[Any, ...]:
        """What members of one population have in common; all else is a number of each member's."""
        return tuple(getattr(self, name) for name in COMPILED)

    def distilled(self, name: str, mixtures: Mapping[str, tuple[str, ...]]) -> distill.Variant:
        """The setting as a variant of distill."""
        return distill.Variant(
            name, self.learning_rate, self.factor_learning_rate, self.weight, self.logits, self.hidden,
            self.temperature, sources=mixtures[self.sources], rank=self.rank, layers=self.layers,
        )  # fmt: skip

    def adapted(self, name: str) -> Variant:
        """The setting as a variant of adapt, which starts from the distilled one of that name."""
        return Variant(
            name, "mpt", "distilled", self.target_learning_rate, self.target_factor_learning_rate,
            source=name, options={"rank": self.rank},
        )  # fmt: skip


COMPILED = ("prompt_length", "sampler")
AXES = tuple(field.name for field in dataclasses.fields(Setting))


@dataclasses.dataclass(frozen=True)
class Range:
    """An axis between two numbers, for the samplers "random" and "tpe"; whole numbers if both are."""

    low: float
    high: float
    log: bool = False


Values = tuple[Any, ...] | Range


@dataclasses.dataclass(frozen=True)
class Space:
    """The settings that a sweep is about.

    Attributes:
        base: what a part does not vary.
        parts: each varies some axes: axis -> values (one, several, or a `Range`). The grid is the sum of
            the parts' grids, so that axes in parts of their own are varied one at a time, and those in one
            part are crossed. The other samplers draw every axis of all parts. Values of "sources" are
            mixtures' names, or "leave_one_out" (all but one, for each), "single" (each alone) or
            "families".
        families: a mixture's name -> source tasks or mixtures of them.
    """

    base: Setting
    parts: tuple[Mapping[str, Any], ...]
    families: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A space with its source mixtures resolved.

    Attributes:
        base: as of the space.
        parts: with every shorthand written out.
        mixtures: name -> source tasks, of all mixtures that can be named.
    """

    base: Setting
    parts: tuple[Mapping[str, Values], ...]
    mixtures: Mapping[str, tuple[str, ...]]

    @property
    def axes(self) -> dict[str, Values]:
        """Axis -> all its values, the base's among them, or its range."""
        found: dict[str, Values] = {}
        for name, values in itertools.chain.from_iterable(part.items() for part in self.parts):
            if isinstance(values, Range):
                found[name] = values
            elif not isinstance(found.get(name), Range):
                known = found.get(name, (getattr(self.base, name),))
                found[name] = tuple(dict.fromkeys((*known, *values)))  # type: ignore[misc]
        return {name: _in_order(values) for name, values in found.items()}

    def grid(self) -> list[Setting]:
        """The parts' grids, each setting once, those behind one another that compile alike.

        Raises:
            UserError: an axis is a range.
        """
        found = [self.base]
        for part in self.parts:
            columns: list[tuple[Any, ...]] = []
            for name, values in part.items():
                if isinstance(values, Range):
                    raise UserError(
                        f"axis {name} is a range, which has no grid: give its values, or SWEEP_SAMPLER "
                        "\"random\" or \"tpe\"."
                    )  # fmt: skip
                columns.append(values)
            for row in itertools.product(*columns):
                found.append(dataclasses.replace(self.base, **dict(zip(part, row, strict=True))))
        first = {s.compiled: i for i, s in reversed(list(enumerate(found)))}
        return sorted(dict.fromkeys(found), key=lambda setting: first[setting.compiled])

    def of(self, params: Mapping[str, Any]) -> Setting:
        """The setting with these values on the axes."""
        return dataclasses.replace(self.base, **params)


def resolve(
    space: Space, tasks: Sequence[str], expand: Callable[[str | tuple[str, ...]], tuple[str, ...]]
) -> Settings:
    """Writes out which source tasks each mixture has, and checks every value.

    Args:
        tasks: all source tasks.
        expand: gives a mixture's tasks.

    Raises:
        UserError: an unknown axis or mixture, a family with other tasks, or a value that is none.
    """
    mixtures = {ALL: tuple(tasks)}
    for name, members in space.families.items():
        mixtures[name] = expand(members)
        for task in mixtures[name]:
            if task not in tasks:
                raise unknown_name(f"source task of family {name}", task, tasks)
    names = {
        "families": tuple(space.families),
        "leave_one_out": tuple(WITHOUT + task for task in tasks) if len(tasks) > 1 else (),
        "single": tuple(ONLY + task for task in tasks),
    }
    mixtures |= {WITHOUT + task: tuple(t for t in tasks if t != task) for task in tasks}
    mixtures |= {ONLY + task: (task,) for task in tasks}
    parts = []
    for part in space.parts:
        written = {}
        for axis, given in part.items():
            if axis not in AXES:
                raise unknown_name("axis of the sweep", axis, AXES)
            written[axis] = _values(axis, given, names)
        parts.append(written)
    settings = Settings(space.base, tuple(parts), mixtures)
    for axis, values in {**{a: (getattr(space.base, a),) for a in AXES}, **settings.axes}.items():
        _check(axis, values, space.base, mixtures)
    return settings


def _in_order(values: Values) -> Values:
    """Numbers by size, others as given."""
    if isinstance(values, Range) or not all(isinstance(v, int | float) for v in values):
        return values
    return tuple(sorted(values))


def _values(axis: str, given: Any, names: Mapping[str, tuple[str, ...]]) -> Values:
    if isinstance(given, Range):
        return given
    values = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not values:
        raise UserError(f"axis {axis} has no values.")
    if axis != "sources":
        return values
    return tuple(dict.fromkeys(one for value in values for one in names.get(value, (value,))))


def _check(
    axis: str, values: Values, base: Setting, mixtures: Mapping[str, tuple[str, ...]]
) -> None:
    if isinstance(values, Range):
        if isinstance(getattr(base, axis), str) or values.low >= values.high:
            raise UserError(f"axis {axis}: {values} is no range of its values.")
        values = (values.low, values.high)
    kind = type(getattr(Setting(), axis))
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is str and not isinstance(value, str) or kind is not str and not number:
            raise UserError(f"axis {axis}: {value!r} is no {'text' if kind is str else 'number'}.")
        if kind is int and value != int(value) or number and value < 0:
            raise UserError(f"axis {axis}: {value!r}, expected a number not below 0"
                            f"{', and whole' if kind is int else ''}.")  # fmt: skip
        if axis in ("temperature", "rank", "prompt_length") and not value:
            raise UserError(f"axis {axis}: {value!r}, expected more than 0.")
        if axis == "sources" and value not in mixtures:
            raise unknown_name("source mixture", value, (*mixtures, *SHORTHANDS))
        if axis == "layers" and value not in ("last", "all"):
            raise unknown_name("layers", value, ("last", "all"))
        if axis == "sampler" and value not in ("paper", "proportional"):
            raise unknown_name("sampler", value, ("paper", "proportional"))
