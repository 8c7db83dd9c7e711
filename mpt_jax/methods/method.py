"""What every method has to offer: its size, its parameters' roles, what a file of it holds.

A method holds the parameters of a *fleet*: ``M`` members, each a training run of its own on ``K``
tasks. They are a flat dict of fp32 arrays that all have the leading axis ``M``; the same dict
without that axis is one *member's* parameters. Methods of two makes exist: prompts
(``prompt_method.py``), which share a bank and mix freely in a batch, and methods that change the
network itself (``network_method.py``).
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, get_type_hints

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mpt_jax.errors import UserError
from mpt_jax.models.t5_config import T5Config

# What a stage says of a method, not its options.
_OF_THE_RUN = ("name", "members", "tasks", "width", "lengths", "config")

Params = Mapping[str, Float[Array | np.ndarray, "..."]]
Shape = tuple[int, ...]


class DoesNotFit(UserError):
    """A method, as it is set, cannot be made on a backbone of this shape; on another it may be."""


class Sizes(NamedTuple):
    """K, P, D and R of one member's parameters; 0 (and None for R) where a method has no such size.

    Without K and P a file's parameters are of all its tasks together.
    """

    tasks: int
    length: int
    width: int
    rank: int | None


@dataclass(frozen=True, kw_only=True)
class Method(abc.ABC):
    """One technique, for a fleet.

    Attributes:
      name: key of the method's parameters in a bank; unique there.
      members: M, independent training runs.
      tasks: K of each member.
    """

    name: str
    members: int
    tasks: int

    kind: ClassVar[str]  # what a file and a configuration call the method
    starts: ClassVar[tuple[str, ...]]  # where it can start from, see stages/starts.py
    has_factors: ClassVar[bool] = False  # whether some parameters have the role "factors"
    is_matrix: ClassVar[bool] = False  # whether a finished task is one prompt [P, D], and all of it
    packs: ClassVar[bool] = True  # whether a row may hold several examples of a member

    def __post_init__(self) -> None:
        self.check_positive("members", "tasks")

    @classmethod
    @abc.abstractmethod
    def build(
        cls, *, name: str, members: int, tasks: int, length: int, config: T5Config, **settings: Any
    ) -> "Method":
        """The method on a backbone of that shape. ``length`` is P for methods that have prompts.

        Args:
          settings: the method's own, by the names of its fields.
        """

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the settings that a configuration may give: the fields but those of every run."""
        return tuple(field.name for field in fields(cls) if field.name not in _OF_THE_RUN)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raises ValueError for a number or a truth value that is none."""
        hints = get_type_hints(cls)
        for name, value in options.items():
            kind: Any = hints.get(name)
            numbers = (int, float) if kind is float else kind
            if kind in (bool, int, float) and (
                not isinstance(value, numbers) or (isinstance(value, bool) and kind is not bool)
            ):
                raise ValueError(f"{name} is {value!r}; it has to be of type {kind.__name__}.")

    @property
    def settings(self) -> dict[str, Any]:
        """What :meth:`build` must be told besides to read the parameters again; plain JSON."""
        return {}

    def logical_axes(self) -> dict[str, tuple[str, ...]] | None:
        """Axis names of the fleet's parameters (the first is "members"), where they are large enough
        to be laid over the mesh as the backbone is; None for a copy on every device."""
        return None

    @abc.abstractmethod
    def fleet_shapes(self) -> dict[str, Shape]:
        """Names and shapes of the whole fleet's parameters, the axis of members included."""

    @abc.abstractmethod
    def count(self) -> int:
        """Trainable parameters of one member."""

    @abc.abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the first member's parameters, as :meth:`export` gives them."""

    @abc.abstractmethod
    def default_groups(self) -> tuple[tuple[str, str], ...]:
        """(regex over a parameter's name, its role), first match wins, for the optimizer's table.

        Roles: "prompt", "shared" and "weights" have a variant's learning rate, "factors" its factor
        rate, "frozen" none.
        """

    @abc.abstractmethod
    def export(self, params: Params, m: int) -> dict[str, np.ndarray]:
        """Member ``m`` as fp32 numpy arrays, as a file stores it."""

    @staticmethod
    @abc.abstractmethod
    def take(member_params: Params, tasks: Sequence[int]) -> dict[str, np.ndarray]:
        """One member's parameters with some of its tasks, in the order given."""

    @staticmethod
    @abc.abstractmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        """What the shapes of one member's parameters say; None where they are not this method's."""

    def check_positive(self, *fields: str) -> None:
        for field in fields:
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{self.name}: {field} is {getattr(self, field)}; it has to be at least 1."
                )

    def _check_member(self, m: int) -> None:
        if not 0 <= m < self.members:
            raise IndexError(f"{self.name}: member {m} of {self.members}.")


def member(params: Params, m: int) -> dict[str, Array | np.ndarray]:
    """One member's parameters out of the fleet's."""
    return {name: array[m] for name, array in params.items()}


def stack_members(members: Sequence[Params]) -> dict[str, Array]:
    """The fleet's parameters from those of its members, in order."""
    if not members:
        raise ValueError("A fleet needs at least one member.")
    first = {name: array.shape for name, array in members[0].items()}
    for m, params in enumerate(members):
        shapes = {name: array.shape for name, array in params.items()}
        if shapes != first:
            raise ValueError(
                f"Member {m} has the parameters {shapes}, member 0 has {first}; members of one fleet "
                "share shapes. Put methods that differ into one bank side by side instead."
            )
    return {
        name: jnp.stack([jnp.asarray(params[name], jnp.float32) for params in members])
        for name in first
    }
