"""The members of a method that changes the network: one program for all of them.

The rows of a training batch lie member by member, as many for each (``data/schedule.py``), so the
fleet is ``vmap`` of the network over members: what is frozen is shared, what is trained is not.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from mpt_jax.methods.method import Params, member
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.models.edits import Edits
from mpt_jax.models.forward import Applied, Batch, forward
from mpt_jax.models.t5 import Transformer
from mpt_jax.partitioning import DATA


@dataclass(frozen=True)
class NetworkBank:
    """The counterpart of a prompt bank (``bank.AnyBank``).

    Attributes:
      method: of all members.
      mesh: over whose ``data`` axis members are laid out where they divide, their rows elsewhere.
    """

    method: NetworkMethod
    mesh: Mesh | None = None
    mixes: ClassVar[bool] = False

    @property
    def methods(self) -> tuple[NetworkMethod]:
        return (self.method,)

    @property
    def members(self) -> int:
        return self.method.members

    @property
    def laid_out(self) -> bool:
        """Whether each device along ``data`` holds the parameters of its own members only."""
        size = 1 if self.mesh is None else self.mesh.shape[DATA]
        return size > 1 and self.members % size == 0

    def virtual_ids(self, method_index: int, m: int, k: int = 0) -> Int32[np.ndarray, "0"]:
        """None: nothing stands before the text."""
        del method_index, m, k
        return np.zeros(0, np.int32)

    def check(self, params: Mapping[str, Params]) -> None:
        """Raise ValueError unless ``params`` holds exactly this method and its members."""
        expected = {n: (self.members, *shape) for n, shape in self.method.shapes().items()}
        found = {n: tuple(array.shape) for n, array in params.get(self.method.name, {}).items()}
        if set(params) != {self.method.name} or found != expected:
            raise ValueError(
                f"{self.method.name} of {self.members} members has the parameters {expected}, got "
                f"{ {name: found if name == self.method.name else '...' for name in params} }."
            )

    def logits(
        self,
        network: Transformer,
        params: Mapping[str, Params],
        backbone: Any,
        batch: Batch,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "B L V"]:
        """Of a training batch, whose rows lie member by member, as many for each.

        With plain attention: the fused one has no gradient for the position bias, which some methods
        train, and would run the members of a `vmap` one after another.
        """
        network = network.clone(config=dataclasses.replace(network.config, attention="plain"))

        def of_one(params: Params, batch: Batch, rng: PRNGKeyArray | None):
            weights, _, edits = self.applied(params, backbone)
            return forward(network, weights, batch, edits=edits, rng=rng)[0]

        stacked = params[self.method.name]
        if self.members == 1:
            return of_one(member(stacked, 0), batch, rng)
        by_member = {name: self._by_member(array) for name, array in batch.items()}
        rngs = None if rng is None else jax.random.split(rng, self.members)
        logits = jax.vmap(of_one, in_axes=(0, 0, None if rng is None else 0))(
            stacked, by_member, rngs
        )
        return logits.reshape(-1, *logits.shape[2:])

    def select(self, params: Mapping[str, Params], m: int) -> Params:
        """Member ``m``'s own parameters."""
        return member(params[self.method.name], m)

    def applied(self, selected: Any, backbone: Any) -> Applied:
        """The network as this member has it."""
        weights = self.method.weights(selected, backbone)
        return Applied(weights, None, Edits(selected, self.method))

    def _by_member(self, array: Array) -> Array:
        rows = array.shape[0] // self.members
        parts = array.reshape(self.members, rows, *array.shape[1:])
        if self.mesh is None:
            return parts
        if self.laid_out:
            spec = PartitionSpec(DATA)
        else:
            spec = PartitionSpec(None, DATA if rows % self.mesh.shape[DATA] == 0 else None)
        return jax.lax.with_sharding_constraint(parts, NamedSharding(self.mesh, spec))
