"""The prompt bank: every prompt that a program holds, addressed by virtual token ids.

Ids from V up are virtual: id ``V + offset + q * P + i`` is slot ``i`` of prompt ``q = m * K + k``
of the method that starts at ``offset``. The data pipeline writes a prompt's ids in front of the
text and the network's embedding lookup reads them here; nothing else knows of prompts. Methods of
different kinds and prompt lengths lie side by side, and a batch mixes them freely because each
token names its own row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Int32, PRNGKeyArray

from mpt_jax.methods.method import Method, Params
from mpt_jax.methods.prompt_method import Inputs, PromptMethod
from mpt_jax.models.forward import Applied, Batch, forward
from mpt_jax.models.t5 import PAD_ID, Embed, Transformer
from mpt_jax.partitioning import DATA

BankParams = Mapping[str, Params]


@runtime_checkable
class AnyBank(Protocol):
    """All the trained parameters that a program holds: prompts (`Bank`), or a network method's
    (`network_bank.NetworkBank`).

    Attributes:
      mixes: whether the rows of a decoded batch may belong to several members.
    """

    mixes: ClassVar[bool]

    @property
    def methods(self) -> Sequence[Method]: ...

    @property
    def members(self) -> int:
        """Members of all methods together: the M of the whole fleet."""

    def virtual_ids(self, method_index: int, m: int, k: int = 0) -> Int32[np.ndarray, "p"]:
        """Virtual token ids that stand before the inputs of task ``k`` of member ``m``."""

    @property
    def laid_out(self) -> bool:
        """Whether each device along ``data`` holds the parameters of its own members only."""

    def check(self, params: BankParams) -> None:
        """Raise ValueError unless ``params`` holds exactly this bank's methods and members."""

    def logits(
        self,
        network: Transformer,
        params: BankParams,
        backbone: Any,
        batch: Batch,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "B L V"]:
        """Of a training batch: each member's rows with its own parameters."""  # fmt: skip

    def select(self, params: BankParams, m: int) -> Any:
        """The parameters that rows of member ``m`` are run with."""

    def applied(self, selected: Any, backbone: Any) -> Applied:
        """The network with what :meth:`select` gave."""


@dataclass(frozen=True)
class Bank:
    """Prompt methods side by side.

    Attributes:
      methods: in the order of their virtual ids; names differ, widths agree.
      vocab_size: V, the rows of the backbone's embedding table (not of the tokenizer, which may
        have fewer); the first virtual id.
      mesh: over whose ``data`` axis the members of a training batch are laid out with their rows,
        where there is one method and they divide. Give none where rows do not lie member by
        member: in packed batches.
    """

    methods: tuple[PromptMethod, ...]
    vocab_size: int
    mesh: Mesh | None = None
    mixes: ClassVar[bool] = True

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

    @property
    def laid_out(self) -> bool:
        """Whether each device along ``data`` holds the parameters of its own members only."""
        size = 1 if self.mesh is None else self.mesh.shape[DATA]
        return size > 1 and len(self.methods) == 1 and self.members % size == 0

    def virtual_ids(self, method_index: int, m: int, k: int = 0) -> Int32[np.ndarray, "p"]:
        """Virtual token ids of the prompt of task ``k`` of member ``m``, as many as it has slots."""
        method = self.methods[method_index]
        length = method.member_length(m)
        if not 0 <= k < method.tasks:
            raise IndexError(f"{method.name}: task {k} of {method.tasks}.")
        start = self.offset(method_index) + (m * method.tasks + k) * method.length
        return np.arange(start, start + length, dtype=np.int32) + np.int32(self.vocab_size)

    def reader(self, params: BankParams) -> Embed:
        """The function that the network's embedding lookup calls: (ids, words) -> embeddings.

        Each method is read at the looked-up positions only. Rows outside a method's range read
        one of its rows and are masked, so they pass no gradient; rows outside the bank come back
        as zeros.

        Args:
          params: {method name: the method's parameters}.
        """
        self.check(params)

        def embed(ids: Int[Array, "B T"], words: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            virtual = ids >= self.vocab_size
            rows = jnp.maximum(ids - self.vocab_size, 0)
            inputs = Inputs(ids, words, self.vocab_size)
            values = jnp.where(virtual[..., None], jnp.zeros_like(words), words)
            for index, method in enumerate(self.methods):
                local, inside = self._local(index, rows, virtual)
                read = method.read_given(params[method.name], local, inputs)
                values = jnp.where(inside[..., None], read.astype(words.dtype), values)
            if any(method.moves_words for method in self.methods):
                values = self._with_moved_words(params, ids, rows, virtual, values)
            return values

        return embed

    def training_reader(self, params: BankParams) -> Embed:
        """The reader of a training batch, whose rows lie member by member, as many for each.

        Where members are laid out over devices, each reads its own rows' prompts and nothing else,
        so that no gradient crosses devices. Reading is done again for the gradient: that is cheap, and
        several fp32 arrays of the input's size would wait for it otherwise.
        """
        if not self.laid_out:
            return jax.checkpoint(self.reader(params))
        self.check(params)
        (method,) = self.methods
        alone = Bank((method.of_one(),), self.vocab_size)
        rows_of_one = method.tasks * method.length

        def of_one(own: Params, m: Array, ids: Array, words: Array) -> Array:
            ids = jnp.where(ids >= self.vocab_size, ids - m * rows_of_one, ids)
            stacked = {name: array[None] for name, array in own.items()}
            return alone.reader({method.name: stacked})(ids, words)

        def embed(ids: Int[Array, "B T"], words: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            members = jnp.arange(self.members, dtype=ids.dtype)
            values = jax.vmap(of_one)(
                params[method.name], members, self._by_member(ids), self._by_member(words)
            )
            return self._along_data(values.reshape(-1, *values.shape[2:]))

        return jax.checkpoint(embed)

    def logits(
        self,
        network: Transformer,
        params: BankParams,
        backbone: Any,
        batch: Batch,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "B L V"]:
        """Of a training batch. Every token names its own prompt, so all rows go through at once."""
        return forward(network, backbone, batch, self.training_reader(params), rng=rng)[0]

    def select(self, params: BankParams, m: int) -> BankParams:
        """All of them: the rows' virtual tokens name their prompts."""
        del m
        return params

    def applied(self, selected: BankParams, backbone: Any) -> Applied:
        """The frozen network with this bank's prompts in its input."""
        return Applied(backbone, self.reader(selected))

    def _by_member(self, array: Array) -> Array:
        return self._along_data(array.reshape(self.members, -1, *array.shape[1:]))

    def _along_data(self, array: Array) -> Array:
        assert self.mesh is not None
        return jax.lax.with_sharding_constraint(
            array, NamedSharding(self.mesh, PartitionSpec(DATA))
        )

    def _local(self, index: int, rows: Array, virtual: Array) -> tuple[Array, Array]:
        """Rows counted within a method (0 outside of it), and which are inside."""
        local = rows - self.offset(index)
        inside = virtual & (local >= 0) & (local < self.methods[index].rows)
        return jnp.where(inside, local, 0), inside

    def _with_moved_words(self, params, ids, rows, virtual, values):
        """Words get the offsets of the prompt that stands before them, in packed rows too."""
        columns = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
        last = jax.lax.cummax(jnp.where(virtual, columns, -1), axis=1)
        owners = jnp.take_along_axis(rows, jnp.maximum(last, 0), axis=1)
        words = ~virtual & (last >= 0) & (ids != PAD_ID)
        for index, method in enumerate(self.methods):
            if method.moves_words:
                local, inside = self._local(index, owners, words)
                offsets = method.offset_words(
                    params[method.name], local // method.length, jnp.maximum(columns - last - 1, 0)
                )
                values = values + jnp.where(inside[..., None], offsets, 0.0).astype(values.dtype)
        return values

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
