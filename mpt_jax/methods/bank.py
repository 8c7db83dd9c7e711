"""The prompt bank: every prompt that a program holds, addressed by virtual token ids.

Ids from V up are virtual: id ``V + offset + q * P + i`` is slot ``i`` of prompt ``q = m * K + k``
of the method that starts at ``offset``. The data pipeline writes a prompt's ids in front of the
text and the network's embedding lookup reads them here; nothing else knows of prompts. Methods of
different kinds and prompt lengths lie side by side, and a batch mixes them freely because each
token names its own row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from mpt_jax.methods.method import Method, Params

BankParams = Mapping[str, Params]
ReadVirtual = Callable[[Int[Array, "B T"]], Float[Array, "B T D"]]


@dataclass(frozen=True)
class Bank:
    """Methods side by side.

    Attributes:
      methods: in the order of their virtual ids; names differ, widths agree.
      vocab_size: V, the rows of the backbone's embedding table (not of the tokenizer, which may
        have fewer); the first virtual id.
    """

    methods: tuple[Method, ...]
    vocab_size: int

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("A prompt bank needs at least one method.")
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError(
                f"The bank's methods are named {names}; give each its own name, which is the key "
                "of its parameters."
            )
        widths = {method.name: method.width for method in self.methods}
        if len(set(widths.values())) != 1:
            raise ValueError(f"All prompts of a bank have the backbone's width, but got {widths}.")
        if self.vocab_size + self.size > np.iinfo(np.int32).max:
            raise ValueError(f"{self.size} virtual tokens do not fit into int32 token ids.")

    @property
    def size(self) -> int:
        """Virtual ids in all."""
        return sum(method.rows for method in self.methods)

    @property
    def members(self) -> int:
        """Members of all methods together: the M of the whole fleet."""
        return sum(method.members for method in self.methods)

    def offset(self, method_index: int) -> int:
        """First row of a method in the bank."""
        return sum(method.rows for method in self.methods[:method_index])

    def member_id(self, method_index: int, m: int) -> int:
        """Number of a method's member ``m`` among the members of all methods."""
        return sum(method.members for method in self.methods[:method_index]) + m

    def virtual_ids(self, method_index: int, m: int, k: int = 0) -> Int32[np.ndarray, "p"]:
        """Virtual token ids of the prompt of task ``k`` of member ``m``, as many as it has slots."""
        method = self.methods[method_index]
        length = method.member_length(m)
        if not 0 <= k < method.tasks:
            raise IndexError(f"{method.name}: task {k} of {method.tasks}.")
        start = self.offset(method_index) + (m * method.tasks + k) * method.length
        return np.arange(start, start + length, dtype=np.int32) + np.int32(self.vocab_size)

    def reader(self, params: BankParams) -> ReadVirtual:
        """The function that the network's embedding lookup calls: rows (ids - V) -> embeddings.

        Each method is read at the looked-up positions only. Rows outside a method's range read
        one of its rows and are masked, so they pass no gradient; rows outside the bank come back
        as zeros.

        Args:
          params: {method name: the method's parameters}.
        """
        self.check(params)

        def read_virtual(rows: Int[Array, "B T"]) -> Float[Array, "B T D"]:
            values = jnp.zeros((*rows.shape, self.methods[0].width), jnp.float32)
            for index, method in enumerate(self.methods):
                local = rows - self.offset(index)
                inside = (local >= 0) & (local < method.rows)
                read = method.read(params[method.name], jnp.where(inside, local, 0))
                values = jnp.where(inside[..., None], read, values)
            return values

        return read_virtual

    def check(self, params: BankParams) -> None:
        """Raise ValueError unless ``params`` holds exactly this bank's methods and members."""
        expected = {method.name for method in self.methods}
        if set(params) != expected:
            raise ValueError(
                f"The bank's methods are {sorted(expected)}, the parameters are of {sorted(params)}."
            )
        for method in self.methods:
            wrong = {
                name: array.shape
                for name, array in params[method.name].items()
                if array.shape[0] != method.members
            }
            if wrong:
                raise ValueError(
                    f"{method.name} has {method.members} members, but its parameters have the shapes "
                    f"{wrong}; the first axis counts members (see stack_members)."
                )

    def count(self) -> dict[str, int]:
        """Trainable parameters of one member, by method name."""
        return {method.name: method.count() for method in self.methods}
