"""The mesh over axes (data, model) and how batches are laid over it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mpt_jax.errors import UserError

DATA = "data"
MODEL = "model"


def make_mesh(shape: tuple[int, int] | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with axes (data, model).

    Args:
        shape: devices along (data, model); -1 in one place means "as many as there are". None puts
            every device on `data`, the best layout wherever the backbone fits on one device.
        devices: to lay out, real or mere descriptions; all devices of all processes when None.

    Raises:
        UserError: the shape does not use up the devices exactly, or needs `model` to span slices.
    """
    devices = _in_blocks(jax.devices() if devices is None else devices)
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
    grid = np.array(devices, dtype=object).reshape(data, model)
    spans = any(len({_slice(device) for device in row}) > 1 for row in grid)
    if spans and devices[0].platform == "tpu":  # GPUs of several machines may have no other way
        size = count // len({_slice(device) for device in devices})
        raise UserError(
            f"mesh shape (data, model): got {shape}, whose `model` axis would span slices, over a network "
            f"far slower than a slice's own links; give a `model` that divides the {size} devices of a slice."
        )
    return Mesh(grid, (DATA, MODEL), (AxisType.Auto, AxisType.Auto))


def _in_blocks(devices: Iterable[Any]) -> list[Any]:
    """Devices in the order of a mesh: slice by slice, in it host by host, on it by their number.

    A host then has one run of rows along `data`, which it can feed by itself, and the devices of a `model`
    group are neighbours: in one host while they fit, else in hosts side by side. jax.make_mesh orders
    a TPU's chips for long rings instead, where a host's rows lie scattered, and knows no slices. We
    give up little: what `data` sends is less than a megabyte a step.
    """
    devices = list(devices)
    corners: dict[int, tuple[int, ...]] = {}
    for device in devices:
        place = tuple(reversed(getattr(device, "coords", None) or ()))
        corners[device.process_index] = min(corners.get(device.process_index, place), place)

    def order(device: Any) -> tuple[Any, ...]:
        host = device.process_index
        return (_slice(device), corners[host], host, device.id)

    return sorted(devices, key=order)


def _slice(device: Any) -> int:
    """The slice of a TPU of several slices that a device belongs to; 0 where there is only one."""
    return getattr(device, "slice_index", None) or 0


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
