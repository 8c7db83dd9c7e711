"""The mesh over axes (data, model) and how batches are laid over it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mpt_jax.errors import UserError

DATA = "data"
MODEL = "model"


def make_mesh(
    shape: tuple[int, int] | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with axes (data, model).

    Args:
        shape: devices along (data, model); -1 in one place means "as many as there are". None puts
            every device on `data`, the best layout wherever the backbone fits on one device.
        devices: to lay out; all devices of all processes when None.

    Raises:
        UserError: the shape does not use up the devices exactly.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    data, model = (count, 1) if shape is None else shape
    if data == -1 and model > 0:
        data = count // model
    elif model == -1 and data > 0:
        model = count // data
    if data < 1 or model < 1 or data * model != count:
        raise UserError(
            f"mesh shape (data, model): got {shape}, which does not use up the {count} devices "
            f"exactly; give two factors of {count}, or -1 for one of them."
        )
    return jax.make_mesh(
        (data, model), (DATA, MODEL), (AxisType.Auto, AxisType.Auto), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis (rows) split over `data`, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def process_data_shard(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process feeds the index-th of `count` equal parts of every batch.

    Processes whose devices share positions along `data` (a `model` axis that spans processes) get
    the same index and must feed the same rows.
    """
    own = jax.process_index()
    mine = np.vectorize(lambda device: device.process_index == own, otypes=[bool])(mesh.devices)
    rows = np.flatnonzero(mine.any(axis=1))
    size = mesh.shape[DATA]
    if len(rows) == 0:
        raise ValueError(f"process {own} owns no device of the mesh {dict(mesh.shape)}.")
    first, length = int(rows[0]), len(rows)
    if int(rows[-1]) - first + 1 != length or size % length or first % length:
        raise ValueError(
            f"process {own} owns rows {rows.tolist()} of {size} along 'data'; expected one aligned "
            "block. Choose a mesh shape that keeps each process's devices together."
        )
    return first // length, size // length


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays from this process's rows of a batch (its part by `process_data_shard`).

    Args:
        mesh: rows are split over its `data` axis.
        batch: arrays whose leading axis is this process's share of the rows.

    Raises:
        UserError: the rows do not divide over the mesh.
    """
    _, count = process_data_shard(mesh)
    sharding = batch_sharding(mesh)
    size = mesh.shape[DATA]
    arrays = {}
    for name, local in batch.items():
        rows = local.shape[0] * count
        if rows % size:
            raise UserError(
                f"batch key {name!r}: got {rows} rows, which do not divide over {size} devices "
                f"along 'data'; choose a batch size that is a multiple of {size}."
            )
        shape = (rows, *local.shape[1:])
        arrays[name] = jax.make_array_from_process_local_data(sharding, np.asarray(local), shape)
    if mesh.devices.flat[0].platform == "cpu":
        # A CPU copies large arrays on the side, and would then start the step in a thread of its own as
        # well: see host_memory.
        jax.block_until_ready(arrays)
    return arrays


def fetch(tree: Any) -> Any:
    """The whole of every array as NumPy, wherever its parts lie. All processes must call it together."""

    def whole(array: Any) -> np.ndarray:
        if isinstance(array, jax.Array) and not (
            array.is_fully_addressable or array.is_fully_replicated
        ):
            return multihost_utils.process_allgather(array, tiled=True)
        return np.asarray(array)

    return jax.tree.map(whole, tree)
