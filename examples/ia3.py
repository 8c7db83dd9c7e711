"""A method of one's own: (IA)^3 (Liu et al. 2022), learned scales on keys, values and inner activations.

    mpt adapt --method_module=examples/ia3.py --gin_file=models/embedded.gin --gin_file=runs/adapt.gin \\
        --gin_file=examples/ia3.gin --model_dir=runs/ia3 ...

`mpt evaluate`, `infer`, `show` and `export` take the same --method_module.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from mpt_jax.methods.network_method import NetworkMethod, linear_layers
from mpt_jax.methods.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class IA3(NetworkMethod):
    """Parameters: `<layer>/scale` of each key, value and second feed-forward layer."""

    name: str = "ia3"
    kind: ClassVar[str] = "ia3"

    def shapes(self):
        """Keys and values are scaled as they come out, the feed-forward's activations as they go in."""
        shapes = {}
        for path, (inward, outward) in linear_layers(self.config).items():
            if path.endswith(("key", "value")):
                shapes[f"{path}/scale"] = (outward,)
            elif path.endswith("wo"):
                shapes[f"{path}/scale"] = (inward,)
        return shapes

    def init_member(self, rng, backbone):
        """Ones: the network computes what the backbone does."""
        return {name: jnp.ones(shape, jnp.float32) for name, shape in self.shapes().items()}

    def merge(self, params, path, weight):
        """The weight at `path` with its scale in it; `mpt export --format=hf` writes these."""
        scale = params.get(path.removesuffix("kernel") + "scale") if "kernel" in path else None
        if scale is None:
            return weight
        return weight * scale.astype(weight.dtype)[(slice(None), None) if "wo" in path else (None,)]

    def weights(self, params, backbone):
        flat = flatten_dict(backbone, sep="/")
        merged = {path: self.merge(params, path, weight) for path, weight in flat.items()}
        return unflatten_dict(merged, sep="/")
