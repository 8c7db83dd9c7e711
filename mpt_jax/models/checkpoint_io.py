"""Backbones on disk, in Hugging Face's form: a folder of `config.json` and `model.safetensors`.

transformers reads what `save_backbone` writes, and `load_backbone` reads a T5 v1.0 or v1.1 (or
mT5, Flan, ByT5) folder whose weights are in one safetensors file.
"""

import hashlib
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open
from safetensors.numpy import save_file

from mpt_jax.models.formats.weights import parameter_shapes, refuse_difference
from mpt_jax.models.hf_names import UNREAD, from_hf_config, hf_tensor, to_hf_config
from mpt_jax.models.layer_stacking import unstack_layers
from mpt_jax.models.t5 import T5Config

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
STORED_DTYPES = ("float32", "bfloat16")


def load_backbone(folder: str | os.PathLike) -> tuple[T5Config, dict]:
    """The model's shape and its parameters, unrolled and in float32 whatever the stored dtype.

    The config asks for float32 compute and unrolled layers; to change that, use
    `dataclasses.replace` and, for scanned layers, `layer_stacking.stack_layers`.

    Raises:
        FileNotFoundError: `folder` lacks one of the two files.
        ValueError: the weights are not those that the config describes; each missing, extra or
            misshapen tensor is named.
    """
    folder = Path(folder)
    config = from_hf_config(json.loads(_existing(folder / CONFIG_FILE).read_text()))
    shapes = parameter_shapes(config)
    tensors = {path: hf_tensor(path) for path in shapes}
    expected = {
        tensor.name: shapes[path][::-1] if tensor.transposed else shapes[path]
        for path, tensor in tensors.items()
    }
    weights = _existing(folder / WEIGHTS_FILE)
    with safe_open(weights, framework="flax") as file:
        unread = UNREAD | ({"lm_head.weight"} if config.logits_via_embedding else set())
        names = [name for name in file.keys() if name in expected or name not in unread]
        found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        refuse_difference(found, expected, f"{weights} does not fit {folder / CONFIG_FILE}")
        flat = {}
        for path, tensor in tensors.items():
            weight = file.get_tensor(tensor.name).astype(jnp.float32)
            flat[path] = weight.T if tensor.transposed else weight
    return config, unflatten_dict(flat, sep="/")


def save_backbone(
    folder: str | os.PathLike, config: T5Config, params: dict, dtype: str = "float32"
) -> None:
    """Writes `params` (unrolled or scanned) with weights stored as `dtype`.

    The weights' file appears whole or not at all.

    Raises:
        ValueError: the parameters are not those that `config` describes, or `dtype` is unknown.
    """
    if dtype not in STORED_DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, expected one of {list(STORED_DTYPES)}.")
    folder = Path(folder)
    flat = flatten_dict(unstack_layers(params), sep="/")
    found = {path: tuple(leaf.shape) for path, leaf in flat.items()}
    refuse_difference(found, parameter_shapes(config), "The parameters do not fit the config")
    weights = {}
    for path, leaf in flat.items():
        tensor = hf_tensor(path)
        weight = np.asarray(leaf).astype(jnp.dtype(dtype))
        weights[tensor.name] = np.ascontiguousarray(weight.T if tensor.transposed else weight)
    folder.mkdir(parents=True, exist_ok=True)
    description = json.dumps(to_hf_config(config, dtype), indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(description + "\n")
    unfinished = folder / f"{WEIGHTS_FILE}.{os.getpid()}.unfinished"
    save_file(weights, unfinished, metadata={"format": "pt"})  # transformers insists on the key.
    os.replace(unfinished, folder / WEIGHTS_FILE)


def fingerprint(params: dict) -> str:
    """16 hex digits that tell backbones apart: over names, shapes and values as float32.

    The same for the unrolled and the scanned form.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(unstack_layers(params), sep="/").items()):
        values = np.ascontiguousarray(np.asarray(leaf), dtype="<f4")
        digest.update(f"{path} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()[:16]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. A backbone is a folder of {CONFIG_FILE} and {WEIGHTS_FILE}, "
            "as transformers' `save_pretrained` writes them."
        )
    return path
