"""Adapters: small bottleneck networks behind sublayers (Houlsby et al. 2019, Pfeiffer et al. 2021).

An adapter adds ``up(activation(down(x)))`` to what it stands behind; its up-projection starts at
zero, so that the network computes what it did before. Two placements, each in encoder and decoder:

- "houlsby", as in ATTEMPT's comparison (Asai et al. 2022): behind self-attention and behind the
  feed-forward layer, on their outputs, before these are added to the stream. None at
  cross-attention.
- "pfeiffer", as AdapterHub's ``adapters`` has it on T5: behind the feed-forward layer only, on the
  stream that the layer's output was added to already.

ATTEMPT starts both projections from N(0, 0.01), which is near the backbone but not equal to it;
``up_deviation = 0.01`` does that. It trains T5's own norms besides; AdapterHub leaves them frozen.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PRNGKeyArray

from mpt_jax.errors import unknown_name
from mpt_jax.methods.method import Params
from mpt_jax.methods.network_method import NetworkMethod, linear_layers, norms, residual_sums
from mpt_jax.models.formats.weights import Shape
from mpt_jax.models.t5_config import ACTIVATIONS, T5Config

DOWN_DEVIATION = 0.01


def _houlsby(config: T5Config) -> tuple[str, ...]:
    ends = ("/attention/out", "/self_attention/out", "/mlp/wo")
    return tuple(path for path in linear_layers(config) if path.endswith(ends))


def _pfeiffer(config: T5Config) -> tuple[str, ...]:
    return tuple(path for path in residual_sums(config) if path.endswith("/mlp_sum"))


PLACEMENTS = {"houlsby": _houlsby, "pfeiffer": _pfeiffer}


@dataclass(frozen=True, kw_only=True)
class Adapter(NetworkMethod):
    """Parameters: ``<layer>/adapter/down/kernel`` [D, N] and ``/bias`` [N], ``up/kernel`` [N, D] and
    ``/bias`` [D], and the norms' own ``<norm>/scale`` [D] where they are trained.

    Attributes:
      reduction: the bottleneck N is D divided by it, rounded down, and at least 1.
      placement: "houlsby" or "pfeiffer".
      activation: a name of `t5_config.ACTIVATIONS`; "gelu" is its tanh form.
      train_norms: train the backbone's norms too.
      up_deviation: of the up-projection's start; 0 starts at the backbone exactly.
    """

    name: str = "adapter"
    reduction: int = 32
    placement: str = "houlsby"
    activation: str = "gelu"
    train_norms: bool = True
    up_deviation: float = 0.0
    kind: ClassVar[str] = "adapter"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("reduction")
        if self.placement not in PLACEMENTS:
            raise unknown_name("placement of adapters", self.placement, PLACEMENTS)
        if self.activation not in ACTIVATIONS:
            raise unknown_name("activation of adapters", self.activation, ACTIVATIONS)
        if self.up_deviation < 0:
            raise ValueError(
                f"{self.name}: up_deviation is {self.up_deviation}; it cannot be below 0."
            )

    @property
    def settings(self) -> dict[str, Any]:
        names = ("reduction", "placement", "activation", "train_norms", "up_deviation")
        return {name: getattr(self, name) for name in names}

    def shapes(self) -> dict[str, Shape]:
        width = self.config.emb_dim
        narrow = max(1, width // self.reduction)
        shapes: dict[str, Shape] = {}
        for path in PLACEMENTS[self.placement](self.config):
            shapes[f"{path}/adapter/down/kernel"] = (width, narrow)
            shapes[f"{path}/adapter/down/bias"] = (narrow,)
            shapes[f"{path}/adapter/up/kernel"] = (narrow, width)
            shapes[f"{path}/adapter/up/bias"] = (width,)
        return shapes | dict.fromkeys(self._scales, (width,))

    @property
    def _scales(self) -> tuple[str, ...]:
        return tuple(f"{path}/scale" for path in norms(self.config)) if self.train_norms else ()

    def init_member(self, rng: PRNGKeyArray, backbone: Any) -> dict[str, Array]:
        own = flatten_dict(backbone, sep="/")
        params = {}
        for number, (name, shape) in enumerate(self.shapes().items()):
            if name in self._scales:
                params[name] = jnp.asarray(own[name], jnp.float32)
                continue
            drawn = {"down/kernel": DOWN_DEVIATION, "up/kernel": self.up_deviation}
            deviation = drawn.get("/".join(name.split("/")[-2:]), 0.0)
            noise = jax.random.normal(jax.random.fold_in(rng, number), shape, jnp.float32)
            params[name] = deviation * noise
        return params

    def weights(self, params: Params, backbone: Any) -> Any:
        scales = {path: params[path] for path in self._scales}
        return unflatten_dict({**flatten_dict(backbone, sep="/"), **scales}, sep="/")

    def edit(
        self,
        params: Params,
        path: str,
        inputs: Float[Array, "B T In"],
        outputs: Float[Array, "B T Out"],
    ) -> Float[Array, "B T Out"]:
        del inputs
        if f"{path}/adapter/down/kernel" not in params:
            return outputs
        hidden = self._linear(params, f"{path}/adapter/down", outputs)
        hidden = ACTIVATIONS[self.activation](hidden)
        return outputs + self._linear(params, f"{path}/adapter/up", hidden)

    @staticmethod
    def _linear(params: Params, path: str, x: Float[Array, "B T In"]) -> Float[Array, "B T Out"]:
        kernel, bias = (jnp.asarray(params[f"{path}/{n}"], x.dtype) for n in ("kernel", "bias"))
        return jnp.dot(x, kernel) + bias[None, None, :]
