"""What a method of prompt learning has to offer besides: start, read, finish.

Each member has ``K`` task prompts of up to ``P`` slots and width ``D``. Slot ``i`` of task ``k`` of
member ``m`` has the row number ``(m * K + k) * P + i``; a bank (``bank.py``) reads the rows that the
virtual tokens of a batch name.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mpt_jax.errors import UserError
from mpt_jax.methods.method import Method, Params, Shape, member, stack_members
from mpt_jax.models.t5_config import T5Config

Embeddings = Float[Array | np.ndarray, "V D"]
# (rng, embedding table, prompt length) -> the prompt to start from; see methods/initialisers.py
Initialiser = Callable[[PRNGKeyArray, Embeddings, int], Float[Array, "P D"]]


class Inputs(NamedTuple):
    """The encoder's whole input, for methods whose prompts depend on it.

    Attributes:
      ids: token ids; those of ``vocab_size`` or more are virtual, 0 is padding.
      words: the words' embeddings; anything at virtual ids.
      vocab_size: V.
    """

    ids: Int[Array, "B T"]
    words: Float[Array, "B T D"]
    vocab_size: int


@dataclass(frozen=True, kw_only=True)
class PromptMethod(Method):
    """One way of holding the prompts of a fleet.

    Attributes:
      length: P, slots of the longest prompt.
      width: D, the backbone's model width.
      lengths: slots that each member really uses, M numbers of at most P; None means P for all.
        Slots beyond a member's length exist in the arrays (as zeros) but no batch ever names
        them.
    """

    length: int
    width: int
    lengths: tuple[int, ...] | None = None

    starts: ClassVar[tuple[str, ...]] = (
        "vocabulary", "shared", "best_source", "similar_source", "weighted_sources",
    )  # fmt: skip
    # Whether a finished prompt is one matrix, whatever the input: such prompts can be exported.
    is_matrix: ClassVar[bool] = True
    # Whether text positions are changed too (offset_words).
    moves_words: ClassVar[bool] = False

    @classmethod
    def build(
        cls, *, name: str, members: int, tasks: int, length: int, config: T5Config, **settings: Any
    ) -> "PromptMethod":
        return cls(
            name=name, members=members, tasks=tasks, length=length, width=config.emb_dim, **settings
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("length", "width")
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

    def read_given(
        self, params: Params, rows: Int[Array, "B T"], inputs: Inputs
    ) -> Float[Array, "B T D"]:
        """As :meth:`read`, for methods whose prompts depend on the input."""
        del inputs
        return self.read(params, rows)

    def offset_words(
        self, params: Params, prompts: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """What is added to the words' embeddings, where ``moves_words``.

        Args:
          prompts: number ``m * K + k`` of the prompt that stands before each position.
          positions: how far behind that prompt each one is, from 0.
        """
        raise NotImplementedError(f"{self.kind} moves no words.")

    @abc.abstractmethod
    def compose(self, member_params: Params, k: int) -> Float[Array | np.ndarray, "P D"]:
        """Task ``k``'s finished prompt from one member's parameters, where ``is_matrix``."""

    @staticmethod
    @abc.abstractmethod
    def cut(member_params: Params, length: int) -> dict[str, Array | np.ndarray]:
        """One member's parameters with the first ``length`` slots of every prompt."""

    # What follows from it.

    @staticmethod
    def take(member_params: Params, tasks: Sequence[int]) -> dict[str, np.ndarray]:
        """Where the tasks share nothing: the first axis of every array counts them."""
        rows = np.array(tasks, np.int32)
        return {name: np.asarray(array)[rows] for name, array in member_params.items()}

    def draw_prompts(
        self,
        m: int,
        keys: Sequence[PRNGKeyArray],
        initialiser: Initialiser,
        embeddings: Embeddings,
    ) -> Float[Array, "K p D"]:
        """A prompt of member ``m``'s own length for each of K keys."""
        length = self.member_length(m)
        return jnp.stack([initialiser(key, embeddings, length) for key in keys])

    def member_length(self, m: int) -> int:
        """Slots that the prompts of member ``m`` use."""
        self._check_member(m)
        return self.length if self.lengths is None else self.lengths[m]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        def exported(rng: PRNGKeyArray) -> dict[str, Array | np.ndarray]:
            nothing = jnp.zeros((1, self.width), jnp.float32)
            start = self.init_member(0, rng, _blank_prompt, nothing)
            return self.cut(start, self.member_length(0))

        found = jax.eval_shape(exported, jax.random.key(0))
        return {name: array.shape for name, array in found.items()}

    @property
    def rows(self) -> int:
        """Rows in all: M * K * P."""
        return self.members * self.tasks * self.length

    def of_one(self) -> "PromptMethod":
        """The method as each single member has it."""
        return dataclasses.replace(self, members=1, lengths=None)

    def fleet_shapes(self) -> dict[str, Shape]:
        embeddings = jax.ShapeDtypeStruct((self.length, self.width), jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        one = self.of_one()
        own = jax.eval_shape(
            lambda rng, table: one.init_member(0, rng, lambda _, given, __: jnp.asarray(given), table),
            key, embeddings,
        )  # fmt: skip
        return {name: (self.members, *array.shape) for name, array in own.items()}

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


def _blank_prompt(rng: PRNGKeyArray, embeddings: Embeddings, length: int) -> Float[Array, "P D"]:
    """An initialiser where only shapes count."""
    del rng
    return jnp.zeros((length, embeddings.shape[1]), jnp.float32)
