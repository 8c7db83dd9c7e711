"""LoRA (Hu et al. 2022): low-rank updates of the frozen linear layers.

A layer's kernel W [In, Out] becomes ``W + alpha / R * A @ B`` with A [In, R] and B [R, Out]. A is
drawn and B is zero, so that the network computes what it did before.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mpt_jax.errors import unknown_name
from mpt_jax.methods.method import DoesNotFit, Params
from mpt_jax.methods.network_method import NetworkMethod, linear_layers
from mpt_jax.models.formats.weights import Shape
from mpt_jax.models.t5_config import T5Config


@dataclass(frozen=True, kw_only=True)
class LoRA(NetworkMethod):
    """Parameters: ``<layer>/lora_a`` [In, R] and ``<layer>/lora_b`` [R, Out].

    Attributes:
      rank: R.
      alpha: the update's scale times R, so that the same rate serves several ranks.
      targets: which linear layers, by the last part of their paths: "query", "key", "value" and "out"
        of all attentions, "wi" (v1.0) or "wi_0" and "wi_1" (v1.1) and "wo" of feed-forward layers.
    """

    name: str = "lora"
    rank: int = 8
    alpha: float = 8.0
    targets: tuple[str, ...] = ("query", "value")
    kind: ClassVar[str] = "lora"

    @classmethod
    def build(
        cls, *, name: str, members: int, tasks: int, length: int, config: T5Config, **settings: Any
    ) -> "NetworkMethod":
        if "targets" in settings:  # a list where they come from a file
            settings["targets"] = tuple(settings["targets"])
        return super().build(
            name=name, members=members, tasks=tasks, length=length, config=config, **settings
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rank")
        known = {path.rpartition("/")[2] for path in linear_layers(self.config)}
        for target in self.targets:
            if target not in known:
                raise DoesNotFit(str(unknown_name(f"target layer of {self.name}", target, known)))
        if not self.targets:
            raise ValueError(f"{self.name}: targets is empty; name layers among {sorted(known)}.")

    @property
    def settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "alpha": self.alpha, "targets": list(self.targets)}

    def shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for path, (inward, outward) in linear_layers(self.config).items():
            if path.rpartition("/")[2] in self.targets:
                shapes[f"{path}/lora_a"] = (inward, self.rank)
                shapes[f"{path}/lora_b"] = (self.rank, outward)
        return shapes

    def init_member(self, rng: PRNGKeyArray, backbone: Any) -> dict[str, Array]:
        """A is uniform in ±1/sqrt(In), as in the authors' code; B is zero."""
        del backbone
        params = {}
        for number, (name, shape) in enumerate(self.shapes().items()):
            bound = shape[0] ** -0.5 if name.endswith("lora_a") else 0.0
            key = jax.random.fold_in(rng, number)
            params[name] = bound * jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
        return params

    def edit(
        self,
        params: Params,
        path: str,
        inputs: Float[Array, "B T In"],
        outputs: Float[Array, "B T Out"],
    ) -> Float[Array, "B T Out"]:
        if f"{path}/lora_a" not in params:
            return outputs
        a, b = (jnp.asarray(params[f"{path}/{n}"], outputs.dtype) for n in ("lora_a", "lora_b"))
        update = jnp.dot(jnp.dot(inputs.astype(outputs.dtype), a), b)
        return outputs + self.alpha / self.rank * update

    def merge(
        self, params: Params, path: str, weight: Float[np.ndarray, "..."]
    ) -> Float[np.ndarray, "..."]:
        layer = path.removesuffix("/kernel")
        if f"{layer}/lora_a" not in params:
            return weight
        a, b = (np.asarray(params[f"{layer}/{n}"], np.float64) for n in ("lora_a", "lora_b"))
        return (weight.astype(np.float64) + self.alpha / self.rank * a @ b).astype(np.float32)
