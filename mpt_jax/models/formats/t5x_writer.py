"""Writes a checkpoint that T5X restores: legacy form, version 3, parameters without optimizer state.

Each array above a few kilobytes becomes a zarr folder of its own, written before the next array is
asked for; the others go into the msgpack file, as T5X's own legacy checkpoints have them.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from flax import serialization
from flax.traverse_util import unflatten_dict

from mpt_jax.models.formats.stored_arrays import DTYPES
from mpt_jax.models.formats.t5x_checkpoint import LEGACY_FILE
from mpt_jax.models.formats.weights import Shape

VERSION = 3
MOST_INLINE = 1 << 14
CHUNK_BYTES = 1 << 26
PATH = re.compile(r"[\w-]+(/[\w-]+)*")  # No dots: they stand for the slashes in folder names.


def write_checkpoint(
    folder: str | os.PathLike[str], step: int, arrays: Iterable[tuple[str, np.ndarray]]
) -> Path:
    """Writes `folder/checkpoint_<step>`, whole or not at all.

    T5X restores it into a model with more parameters, or with optimizer state, if
    `fallback_to_scratch` is set and an `assignment_map` leaves out what is not there.

    Args:
        folder: T5X's MODEL_DIR; made if it does not exist.
        step: of training, from 0 upward.
        arrays: path and values, e.g. ("encoder/prompt/prompt/prompt", [P, D]); taken one by one.

    Returns:
        The checkpoint's folder.

    Raises:
        FileExistsError: that checkpoint is there already.
        ValueError: the step is negative; there is no array, or a path comes twice, lies inside of
            another, or has odd characters; an array is not of a floating dtype that T5X stores.
    """
    if step < 0:
        raise ValueError(f"step: got {step}, expected 0 or more.")
    folder = Path(folder)
    final = folder / f"checkpoint_{step}"
    if final.exists():
        raise FileExistsError(
            f"{final} exists already, and nothing is overwritten; move it away, or choose another folder or "
            "step."
        )
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{final.name}.tmp-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    try:
        leaves: dict[str, Any] = {}
        for path, values in arrays:
            _check(path, values, leaves)
            leaves[path] = _written(unfinished, f"target/{path}".replace("/", "."), values)
        if not leaves:
            raise ValueError("arrays: got none, expected at least one.")
        optimizer = {
            "target": unflatten_dict(leaves, sep="/"),
            "state": {"step": np.asarray(step, np.int32)},
        }
        contents = serialization.msgpack_serialize({"version": VERSION, "optimizer": optimizer})
        (unfinished / LEGACY_FILE).write_bytes(contents)
        os.rename(unfinished, final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return final


def _check(path: str, values: np.ndarray, before: Iterable[str]) -> None:
    if not PATH.fullmatch(path):
        raise ValueError(f'path: got {path!r}, expected names with "/" between them.')
    for other in before:
        if path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/"):
            raise ValueError(
                f"path: got {path!r} after {other!r}; each array needs a place of its own."
            )
    if values.dtype.name not in DTYPES:
        raise ValueError(f"{path}: got dtype {values.dtype}, expected one of {list(DTYPES)}.")


def _written(folder: Path, name: str, values: np.ndarray) -> np.ndarray | dict[str, Any]:
    """The array itself, or, once it is written to a zarr folder, the spec that stands for it."""
    if values.nbytes <= MOST_INLINE:
        return np.asarray(values)
    kvstore = {"driver": "file", "path": f"{name}/"}
    metadata = {
        "shape": list(values.shape),
        "chunks": _chunk(values.shape, values.dtype.itemsize),
        "compressor": {"id": "gzip", "level": 1},
    }
    spec = {"driver": "zarr", "dtype": values.dtype.name, "metadata": metadata}
    place = {"kvstore": kvstore | {"path": f"{folder / name}/"}}
    tensorstore.open(spec | place, create=True).result().write(values).result()
    return spec | {"kvstore": kvstore}


def _chunk(shape: Shape, itemsize: int) -> list[int]:
    """Whole rows (of the first axis), as many as stay within the wanted bytes, but at least one."""
    if not shape:
        return []
    row = itemsize * int(np.prod(shape[1:], dtype=np.int64))
    return [min(shape[0], max(1, CHUNK_BYTES // row)), *shape[1:]]
