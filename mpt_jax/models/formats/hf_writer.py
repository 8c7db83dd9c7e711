"""Writes a backbone as a Hugging Face folder that transformers reads."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from mpt_jax.models.formats.hf_config import to_hf_config
from mpt_jax.models.formats.hf_folder import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE
from mpt_jax.models.formats.hf_names import hf_tensor
from mpt_jax.models.formats.weights import (
    Weights,
    in_reading_order,
    parameter_shapes,
    read_finite,
    refuse_difference,
)
from mpt_jax.models.layer_stacking import unstack_layers
from mpt_jax.models.t5 import T5Config
from mpt_jax.whole_files import new_folder

STORED_DTYPES = ("float32", "bfloat16")
SHARD_BYTES = 5_000_000_000  # transformers' own limit for one file


class TreeWeights:
    """Weights that are in memory already, unrolled or scanned, as a file's reader offers them.

    Raises:
        ValueError: the parameters are not those that `config` describes.
    """

    name = "in memory"

    def __init__(self, config: T5Config, params: dict):
        self.config = config
        self._flat = flatten_dict(unstack_layers(params), sep="/")
        found = {path: tuple(leaf.shape) for path, leaf in self._flat.items()}
        refuse_difference(found, parameter_shapes(config), "The parameters do not fit the config")

    def read(self, path: str) -> np.ndarray:
        return np.asarray(self._flat[path])


def save_backbone(
    folder: str | os.PathLike[str],
    config: T5Config,
    params: dict,
    dtype: str = "float32",
    *,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes parameters (unrolled or scanned); see `save_weights`."""
    weights = TreeWeights(config, params)
    save_weights(folder, weights, dtype, files=files, overwrite=overwrite)


def save_weights(
    folder: str | os.PathLike[str],
    weights: Weights,
    dtype: str | None = None,
    *,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a backbone's folder. It appears whole or not at all.

    At most the tensors of one file are in memory at a time.

    Args:
        folder: new or empty, unless `overwrite`.
        weights: a file's reader, or `TreeWeights`.
        dtype: to store all weights in; None keeps each in its own.
        files: further files by name, such as the vocabulary's.
        overwrite: take the place of what the folder holds.
        shard_bytes: most bytes of one safetensors file, unless a single tensor is larger.

    Raises:
        ValueError: an unknown dtype, or a weight that holds NaN or infinity.
        UserError: the folder holds something.
    """
    if dtype not in (None, *STORED_DTYPES):
        raise ValueError(f"dtype: got {dtype!r}, expected one of {list(STORED_DTYPES)}.")
    with new_folder(Path(folder), overwrite=overwrite) as unfinished:
        stored = _write_tensors(unfinished, weights, dtype, shard_bytes)
        description = json.dumps(to_hf_config(weights.config, stored), indent=2, sort_keys=True)
        (unfinished / CONFIG_FILE).write_text(description + "\n", encoding="utf-8")
        for name, content in (files or {}).items():
            (unfinished / name).write_bytes(content)


def _write_tensors(folder: Path, weights: Weights, dtype: str | None, shard_bytes: int) -> str:
    """Writes the shards and, where there are several, their index; returns the widest dtype in them."""
    shards: list[list[str]] = []
    dtypes: set[np.dtype] = set()
    total = 0
    for shard in _shards(weights, dtype, shard_bytes):
        name = f"shard-{len(shards)}"
        save_file(
            shard, folder / name, metadata={"format": "pt"}
        )  # transformers insists on the key
        shards.append(list(shard))
        total += sum(values.nbytes for values in shard.values())
        dtypes |= {values.dtype for values in shard.values()}
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = [WEIGHTS_FILE]
    for i, name in enumerate(names):
        os.rename(folder / f"shard-{i}", folder / name)
    if len(shards) > 1:
        places = {tensor: name for name, held in zip(names, shards, strict=True) for tensor in held}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return max(dtypes, key=lambda dtype: dtype.itemsize).name


def _shards(weights: Weights, dtype: str | None, most: int) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    size = 0
    for path in in_reading_order(parameter_shapes(weights.config)):
        tensor, values = hf_tensor(path), read_finite(weights, path)
        values = values if dtype is None else values.astype(jnp.dtype(dtype))
        if shard and size + values.nbytes > most:
            yield shard
            shard, size = {}, 0
        shard[tensor.name] = np.ascontiguousarray(values.T if tensor.transposed else values)
        size += values.nbytes
    yield shard
