"""What a method of prompt learning has to offer: start, read, materialise, count.

A method holds the prompts of a *fleet*: ``M`` members, each a training run of its own with ``K``
task prompts of up to ``P`` slots and width ``D``. Its parameters are a flat dict of fp32 arrays
that all have the leading axis ``M``; the same dict without that axis is one *member's*
parameters. Slot ``i`` of task ``k`` of member ``m`` has the row number ``(m * K + k) * P + i``.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mpt_jax.errors import UserError

Params = Mapping[str, Float[Array | np.ndarray, "..."]]
Embeddings = Float[Array | np.ndarray, "V D"]
# (rng, embedding table, prompt length) -> the prompt to start from; see methods/initialisers.py
Initialiser = Callable[[PRNGKeyArray, Embeddings, int], Float[Array, "P D"]]


class Sizes(NamedTuple):
    """K, P, D and R (None without factors) of one member's parameters."""

    tasks: int
    length: int
    width: int
    rank: int | None


@dataclass(frozen=True, kw_only=True)
class Method(abc.ABC):
    """One way of holding the prompts of a fleet.

    Attributes:
      name: key of the method's parameters in a bank; unique there.
      members: M, independent training runs.
      tasks: K, prompts of each member.
      length: P, slots of the longest prompt.
      width: D, the backbone's model width.
      lengths: slots that each member really uses, M numbers of at most P; None means P for all.
        Slots beyond a member's length exist in the arrays (as zeros) but no batch ever names
        them.
    """

    name: str
    members: int
    tasks: int
    length: int
    width: int
    lengths: tuple[int, ...] | None = None

    kind: ClassVar[str]  # what a prompt file calls the method

    def __post_init__(self) -> None:
        for field in ("members", "tasks", "length", "width"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{self.name}: {field} is {getattr(self, field)}; it has to be at least 1."
                )
        if self.lengths is None:
            return
        if len(self.lengths) != self.members:
            raise ValueError(
                f"{self.name}: {len(self.lengths)} prompt lengths for {self.members} members; "
                "give one length for each member, or none where all use the full length."
            )
        wrong = [n for n in self.lengths if not 1 <= n <= self.length]
        if wrong:
            raise ValueError(
                f"{self.name}: member lengths {wrong} lie outside 1..{self.length}; "
                "`length` has to be the longest prompt of the fleet."
            )

    # What each method defines.

    @abc.abstractmethod
    def init_member(
        self,
        m: int,
        rng: PRNGKeyArray,
        initialiser: Initialiser,
        embeddings: Embeddings,
    ) -> dict[str, Array]:
        """Fresh parameters of member ``m``, drawn by ``initialiser`` at the member's own length."""

    @abc.abstractmethod
    def start(
        self, m: int, rng: PRNGKeyArray, prompts: Float[Array | np.ndarray, "*N p D"]
    ) -> dict[str, Array]:
        """Parameters of member ``m`` that start at a given plain prompt [p, D], or several."""

    @abc.abstractmethod
    def read(self, params: Params, rows: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        """The prompt vectors of the given rows, computed at these rows only."""

    @staticmethod
    @abc.abstractmethod
    def compose(member_params: Params, k: int) -> Float[Array | np.ndarray, "P D"]:
        """Task ``k``'s finished prompt from one member's parameters."""

    @staticmethod
    @abc.abstractmethod
    def cut(member_params: Params, length: int) -> dict[str, Array | np.ndarray]:
        """One member's parameters with the first ``length`` slots of every prompt."""

    @staticmethod
    @abc.abstractmethod
    def take(member_params: Params, tasks: Sequence[int]) -> dict[str, np.ndarray]:
        """One member's parameters with some of its tasks, in the order given."""

    @staticmethod
    @abc.abstractmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        """What the shapes of one member's parameters say; None where they are not this method's."""

    @abc.abstractmethod
    def count(self) -> int:
        """Trainable parameters of one member (slots up to P)."""

    @abc.abstractmethod
    def default_groups(self) -> tuple[tuple[str, str], ...]:
        """(regex over a parameter's name, role of that parameter) for the optimizer's table."""

    # What follows from it.

    def member_length(self, m: int) -> int:
        """Slots that the prompts of member ``m`` use."""
        self._check_member(m)
        return self.length if self.lengths is None else self.lengths[m]

    @property
    def rows(self) -> int:
        """Rows in all: M * K * P."""
        return self.members * self.tasks * self.length

    def init(
        self,
        rng: PRNGKeyArray,
        initialiser: Initialiser,
        embeddings: Embeddings,
    ) -> dict[str, Array]:
        """Fresh parameters of the whole fleet. Member m draws from ``fold_in(rng, m)``."""
        return stack_members(
            [
                self.init_member(m, jax.random.fold_in(rng, m), initialiser, embeddings)
                for m in range(self.members)
            ]
        )

    def materialise(self, params: Params, m: int, k: int) -> Float[Array | np.ndarray, "p D"]:
        """Finished prompt of task ``k`` of member ``m``, as long as the member's prompts are."""
        if not 0 <= k < self.tasks:
            raise IndexError(f"{self.name}: task {k} of {self.tasks}.")
        return self.compose(member(params, m), k)[: self.member_length(m)]

    def export(self, params: Params, m: int) -> dict[str, np.ndarray]:
        """Member ``m`` as fp32 numpy arrays at its own prompt length, as a prompt file stores it."""
        arrays = self.cut(member(params, m), self.member_length(m))
        return {name: np.asarray(array, np.float32) for name, array in arrays.items()}

    def pad_slots(self, m: int, array: Float[Array, "*N p D"], what: str) -> Float[Array, "*N P D"]:
        """Check [.., p, D] against member ``m`` and fill the unused slots up to P with zeros."""
        expected = (self.member_length(m), self.width)
        if array.shape[-2:] != expected:
            raise UserError(
                f"{self.name}: {what} has the shape {array.shape[-2:]} (length, width), but member "
                f"{m} has {expected}. Take one of that length and from a backbone of that width."
            )
        unused = self.length - expected[0]
        padding = [(0, 0)] * (array.ndim - 2) + [(0, unused), (0, 0)]
        return jnp.pad(array.astype(jnp.float32), padding)

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
