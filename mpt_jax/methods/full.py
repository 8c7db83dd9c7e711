"""Full fine-tuning: every weight of the network is trained, from the backbone's own (Raffel et al. 2020)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PRNGKeyArray

from mpt_jax.methods.method import Params
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.models.formats.weights import Shape, parameter_shapes
from mpt_jax.models.t5 import logical_axes


@dataclass(frozen=True, kw_only=True)
class Full(NetworkMethod):
    """Parameters: all weights by their paths, e.g. ``encoder/layers_0/mlp/wo/kernel``, in fp32."""

    name: str = "full"
    kind: ClassVar[str] = "full"
    trains_kernels: ClassVar[bool] = True

    def shapes(self) -> dict[str, Shape]:
        return parameter_shapes(self.config)

    def logical_axes(self) -> dict[str, tuple[str, ...]]:
        axes = flatten_dict(logical_axes(self.config), sep="/")
        return {path: ("members", *names) for path, names in axes.items()}

    def init_member(self, rng: PRNGKeyArray, backbone: Any) -> dict[str, Array]:
        del rng  # nothing is drawn
        flat = flatten_dict(backbone, sep="/")
        return {path: jnp.asarray(flat[path], jnp.float32) for path in self.shapes()}

    def weights(self, params: Params, backbone: Any) -> Any:
        del backbone
        return unflatten_dict(dict(params), sep="/")

    def merge(
        self, params: Params, path: str, weight: Float[np.ndarray, "..."]
    ) -> Float[np.ndarray, "..."]:
        del weight
        return np.asarray(params[path])
