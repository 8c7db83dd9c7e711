"""Methods that change what the network computes: adapters, biases, low-rank updates, all weights.

They are written for one member, on the network as it is for one task; a fleet is ``vmap`` over
members (``network_bank.py``). A parameter is named by the layer that it belongs to, e.g.
``encoder/layers_0/attention/query/bias``.
"""

import abc
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mpt_jax.errors import UserError
from mpt_jax.methods.method import Method, Params, Sizes, member, stack_members
from mpt_jax.models.formats.weights import Shape, parameter_shapes
from mpt_jax.models.t5_config import INT8, T5Config


@dataclass(frozen=True, kw_only=True)
class NetworkMethod(Method):
    """One way of changing the network, for a fleet. The K tasks of a member share everything.

    Attributes:
      config: the backbone's shape.
    """

    config: T5Config
    starts: ClassVar[tuple[str, ...]] = ("backbone",)
    trains_kernels: ClassVar[bool] = False  # whether it puts others in the place of kernels

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config.scan_layers:
            raise UserError(
                f"{self.name} names single layers, but the backbone's are stacked; set "
                "backbone.BackboneSource.scan_layers = False."
            )
        if self.config.attention == "fused":
            raise UserError(
                f"{self.name} changes the network, which is trained with plain attention; set "
                "backbone.BackboneSource.attention = 'auto', which is fused for prompts only."
            )
        self.check_precision(self.config.weights)

    @classmethod
    def check_precision(cls, weights: str | None) -> None:
        """Raises UserError if the method cannot train on a backbone whose weights are kept so."""
        if cls.trains_kernels and weights == INT8:
            raise UserError(
                f"{cls.kind} trains the weights themselves, which int8 numbers cannot follow; leave "
                "backbone.BackboneSource.weights out, or train a method that leaves the weights alone."
            )

    @classmethod
    def build(
        cls, *, name: str, members: int, tasks: int, length: int, config: T5Config, **settings: Any
    ) -> "NetworkMethod":
        del length  # there are no prompts
        return cls(name=name, members=members, tasks=tasks, config=config, **settings)

    # What each method defines.

    @abc.abstractmethod
    def shapes(self) -> dict[str, Shape]:
        """Names and shapes of one member's parameters."""

    @abc.abstractmethod
    def init_member(self, rng: PRNGKeyArray, backbone: Any) -> dict[str, Array]:
        """Fresh parameters of one member, with which the network computes what it did before."""

    def weights(self, params: Params, backbone: Any) -> Any:
        """The network's parameters; some may stand in the place of the backbone's."""
        del params
        return backbone

    def edit(
        self,
        params: Params,
        path: str,
        inputs: Float[Array, "B T In"],
        outputs: Float[Array, "B T Out"],
    ) -> Float[Array, "B T Out"]:
        """The output of the layer at ``path`` that the network goes on with (``models/edits.py``)."""
        del params, path, inputs
        return outputs

    def merge(
        self, params: Params, path: str, weight: Float[np.ndarray, "..."]
    ) -> Float[np.ndarray, "..."]:
        """The weight at ``path`` of a plain T5 that computes what this network does.

        Args:
          weight: the backbone's.

        Raises:
          UserError: the method adds what a T5 has no weight for.
        """
        del params, path, weight
        raise UserError(
            f"{self.kind} adds to the network what T5 has no weights for, so that no plain T5 computes the "
            "same; mpt infer and mpt evaluate run it from its file."
        )

    # What follows from it.

    def fleet_shapes(self) -> dict[str, Shape]:
        return {name: (self.members, *shape) for name, shape in self.shapes().items()}

    def count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes().values())

    def default_groups(self) -> tuple[tuple[str, str], ...]:
        return ((".*", "weights"),)

    def init(self, rng: PRNGKeyArray, backbone: Any) -> dict[str, Array]:
        """Fresh parameters of the whole fleet. Member m draws from ``fold_in(rng, m)``."""
        return stack_members(
            [self.init_member(jax.random.fold_in(rng, m), backbone) for m in range(self.members)]
        )

    def export(self, params: Params, m: int) -> dict[str, np.ndarray]:
        self._check_member(m)
        return {name: np.asarray(array, np.float32) for name, array in member(params, m).items()}

    @staticmethod
    def take(member_params: Params, tasks: Sequence[int]) -> dict[str, np.ndarray]:
        del tasks  # they share everything
        return {name: np.asarray(array) for name, array in member_params.items()}

    @staticmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        return Sizes(0, 0, 0, None) if shapes else None

    def check_shapes(self, arrays: Params, what: str) -> None:
        """Raises UserError unless ``arrays`` are one member's parameters."""
        found = {name: tuple(array.shape) for name, array in arrays.items()}
        expected = self.shapes()
        wrong = sorted(n for n in found.keys() | expected if found.get(n) != expected.get(n))
        if wrong:
            lines = "".join(
                f"\n  {n}: has {found.get(n, 'none')}, expected {expected.get(n, 'none')}"
                for n in wrong[:5]
            )
            raise UserError(
                f"{what} does not fit {self.kind} with {self.settings} on this backbone:{lines}"
            )


@functools.cache
def linear_layers(config: T5Config) -> dict[str, tuple[int, int]]:
    """Paths of the network's linear layers with their widths (in, out), the output layer apart."""
    return {
        path.removesuffix("/kernel"): (shape[0], shape[1])
        for path, shape in parameter_shapes(config).items()
        if path.endswith("/kernel") and "logits" not in path
    }


@functools.cache
def residual_sums(config: T5Config) -> tuple[str, ...]:
    """Paths of the sums behind the network's sublayers."""
    sublayers = {path.rpartition("/")[0] for path in linear_layers(config)}
    return tuple(f"{sublayer}_sum" for sublayer in sorted(sublayers))


@functools.cache
def norms(config: T5Config) -> tuple[str, ...]:
    """Paths of the network's norms."""
    paths = parameter_shapes(config)
    return tuple(path.removesuffix("/scale") for path in paths if path.endswith("/scale"))


def zeros(shapes: Mapping[str, Shape]) -> dict[str, Array]:
    return {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
