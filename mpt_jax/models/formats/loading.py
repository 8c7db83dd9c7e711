"""Weights from a file onto a mesh, one tensor at a time."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Num

from mpt_jax.models.fingerprint import Fingerprint
from mpt_jax.models.formats.hf_folder import HuggingFaceWeights, is_hf_folder
from mpt_jax.models.formats.t5x_checkpoint import is_t5x_checkpoint
from mpt_jax.models.formats.t5x_weights import T5XWeights
from mpt_jax.models.formats.weights import Shape, Weights, parameter_shapes, read_finite
from mpt_jax.models.layer_stacking import stacked_place
from mpt_jax.models.placement import placed_shapes
from mpt_jax.models.t5 import T5Config
from mpt_jax.models.weight_precision import kept
from mpt_jax.partitioning import make_mesh


class Loaded(NamedTuple):
    """A backbone's weights on the mesh.

    Attributes:
        params: the tree, unrolled or scanned as the config asks, kept as it says.
        stored: fingerprint of the weights as the file holds them.
        placed: fingerprint of the weights as they lie on the mesh, where they may be rounded.
    """

    params: dict
    stored: str
    placed: str


def open_weights(folder: str | os.PathLike[str]) -> Weights:
    """A reader for a Hugging Face folder, or for a T5X checkpoint (or a folder of several).

    Raises:
        FileNotFoundError, ValueError: see the readers.
    """
    folder = Path(folder)
    if not is_hf_folder(folder) and is_t5x_checkpoint(folder):
        return T5XWeights(folder)
    return HuggingFaceWeights(folder)


def load(weights: Weights, config: T5Config, mesh: Mesh) -> Loaded:
    """Streams weights onto the mesh; beyond what this host keeps there is about one tensor in memory.

    Args:
        weights: the reader.
        config: its config, or one that differs in dtype, weights, scan_layers and remat.
        mesh: where to; every device gets its part of each weight, by the standard axis rules.

    Raises:
        ValueError: a weight holds NaN or infinity.
        UserError: a dimension does not divide over the mesh.
    """
    shapes = flatten_dict(placed_shapes(config, mesh), sep="/")
    stored, placed = Fingerprint(), Fingerprint()
    pending: dict[str, _Stacked] = {}
    params: dict[str, jax.Array] = {}

    def put(path: str, values: np.ndarray) -> None:
        placed.add(path, values)
        where, layer = stacked_place(path) if config.scan_layers else (path, None)
        shape, sharding = shapes[where], shapes[where].sharding
        if layer is None:
            params[where] = _spread(values, sharding)
            return
        if where not in pending:
            pending[where] = _Stacked(shape.shape, shape.dtype, sharding)
        stack = pending[where]
        stack.put(layer, values)
        if stack.complete:
            params[where] = pending.pop(where).array

    for path in sorted(parameter_shapes(weights.config)):
        values = read_finite(weights, path)
        stored.add(path, values)
        parts = kept(path, values, config)
        del values  # before the next one is read
        for name, part in parts.items():
            put(name, part)
        del parts, part
    return Loaded(unflatten_dict(params, sep="/"), stored.hexdigest(), placed.hexdigest())


def load_backbone(folder: str | os.PathLike[str]) -> tuple[T5Config, dict]:
    """A backbone's shape and its weights: unrolled, in float32, whole on every device.

    The config asks for float32 compute and unrolled layers; to change that, use
    `dataclasses.replace` and, for scanned layers, `layer_stacking.stack_layers`.

    Raises:
        FileNotFoundError, ValueError: see `open_weights` and `load`.
    """
    weights = open_weights(folder)
    return weights.config, load(weights, weights.config, make_mesh()).params


def _spread(values: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A whole weight onto the devices; each takes its part."""
    return jax.make_array_from_callback(
        values.shape, sharding, lambda index: np.ascontiguousarray(values[index])
    )


class _Stacked:
    """A scanned weight in the making: its layers are written into place on the devices, one by one."""

    def __init__(self, shape: Shape, dtype: np.dtype, sharding: NamedSharding):
        self._layers = NamedSharding(
            sharding.mesh, PartitionSpec(*sharding.spec[1:])
        )  # the axis of layers is never split
        self._put = jax.jit(_write_layer, donate_argnums=0, out_shardings=sharding)
        self.array: jax.Array = jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=sharding)(
            shape, dtype
        )
        self._missing = shape[0]

    def put(self, layer: int, values: np.ndarray) -> None:
        self.array = self._put(self.array, _spread(values, self._layers), layer)
        self._missing -= 1

    @property
    def complete(self) -> bool:
        return not self._missing


def _write_layer(
    stacked: Num[Array, "N ..."], values: Num[Array, "..."], layer: Int[Array, ""]
) -> Num[Array, "N ..."]:
    return jax.lax.dynamic_update_index_in_dim(stacked, values, layer, axis=0)
