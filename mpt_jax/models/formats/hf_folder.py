"""A backbone as a Hugging Face folder: `config.json` and safetensors files, one or several.

T5 v1.0 and v1.1, LM-adapted T5, Flan-T5, mT5, umT5 and ByT5 are read as they are published.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mpt_jax.models.formats.hf_config import from_hf_config
from mpt_jax.models.formats.hf_names import HEAD, TABLE, UNREAD, HFTensor, hf_tensor
from mpt_jax.models.formats.weights import Shape, parameter_shapes, refuse_difference
from mpt_jax.models.t5 import T5Config

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Weights that transformers also writes or once wrote. Pickles can run code, so they are never opened.
OTHER_WEIGHTS = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "tf_model.h5",
)
READ_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # safetensors' name: numpy's


class HuggingFaceWeights:
    """The weights of a Hugging Face folder; only names, shapes and dtypes are read at first.

    Args:
        folder: holds `config.json`, and `model.safetensors` or its shards with their index.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or the weights are not those that the configuration describes;
            each missing, unexpected or misshapen tensor is named.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        folder = Path(folder)
        self.name = folder.resolve().name
        values = _read_json(_existing(folder / CONFIG_FILE))
        self._files = _tensor_files(folder)
        found, self.dtypes = _headers(self._files)
        try:
            self.config: T5Config = from_hf_config(values, has_head=HEAD in found)
        except ValueError as error:
            raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
        shapes = parameter_shapes(self.config)
        self._tensors: dict[str, HFTensor] = {path: hf_tensor(path) for path in shapes}
        expected = {
            tensor.name: shapes[path][::-1] if tensor.transposed else shapes[path]
            for path, tensor in self._tensors.items()
        }
        copies = UNREAD | ({HEAD} if self.config.logits_via_embedding else set())
        needed = {
            name: shape for name, shape in found.items() if name not in copies - expected.keys()
        }
        refuse_difference(needed, expected, f"The weights in {folder} do not fit its {CONFIG_FILE}")
        self._check_dtypes(folder)
        if self.config.logits_via_embedding and HEAD in found:
            self._check_head(folder)

    def read(self, path: str) -> np.ndarray:
        """One weight in our orientation, in the dtype in which it is stored."""
        tensor = self._tensors[path]
        values = self._read(tensor.name)
        return values.T if tensor.transposed else values

    def _read(self, name: str) -> np.ndarray:
        # Opened anew for each tensor: a mapped file counts as memory for as long as it is open.
        with safe_open(self._files[name], framework="numpy") as file:
            return file.get_tensor(name)

    def _check_dtypes(self, folder: Path) -> None:
        names = [tensor.name for tensor in self._tensors.values()]
        wrong = {name: self.dtypes[name] for name in names if self.dtypes[name] not in READ_DTYPES}
        if wrong:
            name, dtype = next(iter(wrong.items()))
            raise ValueError(
                f"{folder}: {name} is stored as {dtype} ({len(wrong)} such tensors), expected one of "
                f"{list(READ_DTYPES)}. Quantised weights are not read; take the model's plain ones."
            )

    def _check_head(self, folder: Path) -> None:
        """v1.0 has no output layer of its own; some files repeat the embedding table in its place."""
        if not np.array_equal(self._read(HEAD), self._read(TABLE)):
            raise ValueError(
                f"{folder}: {CONFIG_FILE} says that the output layer is the embedding table "
                f"(tie_word_embeddings), but {HEAD} differs from {TABLE}. If the model has an output "
                'layer of its own (v1.1 and its kin), set "tie_word_embeddings": false in '
                f"{CONFIG_FILE}."
            )


def is_hf_folder(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. A backbone is a folder of {CONFIG_FILE} and {WEIGHTS_FILE} (or its "
            f"shards with {INDEX_FILE}), as transformers' `save_pretrained` writes them, or a T5X "
            "checkpoint_<step>."
        )
    return path


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy it again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got {type(values).__name__}, expected a JSON object.")
    return values


def _tensor_files(folder: Path) -> dict[str, Path]:
    """The file of every tensor by its Hugging Face name."""
    if (whole := folder / WEIGHTS_FILE).is_file():
        return dict.fromkeys(_names(whole), whole)
    index = folder / INDEX_FILE
    if not index.is_file():
        others = [name for name in OTHER_WEIGHTS if (folder / name).is_file()]
        if others:
            raise FileNotFoundError(
                f"{folder} holds {others[0]} but no {WEIGHTS_FILE}; only safetensors are read. "
                "transformers rewrites them: T5ForConditionalGeneration.from_pretrained(FOLDER)"
                ".save_pretrained(NEW_FOLDER)."
            )
        _existing(whole)
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index}: got no weight_map from tensor names to file names.")
    files = {name: folder / _plain_name(shard, index) for name, shard in places.items()}
    absent = sorted({path.name for path in files.values() if not path.is_file()})
    if absent:
        raise FileNotFoundError(
            f"{index} names {len(absent)} files that are not in {folder}: {', '.join(absent[:5])}. "
            "Copy all shards of the model."
        )
    held = {(name, shard) for shard in set(files.values()) for name in _names(shard)}
    astray = sorted(held ^ set(files.items()), key=str)
    if astray:
        name, shard = astray[0]
        raise ValueError(
            f"{index} and its files differ in {len(astray)} places, for instance in {name} of "
            f"{shard.name}. They are not of one model, or the index is of another version."
        )
    return files


def _plain_name(name: str, index: Path) -> str:
    if name != Path(name).name or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise ValueError(
            f"{index} names the file {name!r}, expected a plain file name: all shards lie beside the index."
        )
    return name


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or not a safetensors file: {error}. "
            "Copy it again."
        ) from error


def _headers(files: Mapping[str, Path]) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes and safetensors' dtypes by tensor name."""
    shapes, dtypes = {}, {}
    for path in sorted(set(files.values())):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                view = file.get_slice(name)
                shapes[name], dtypes[name] = tuple(view.get_shape()), view.get_dtype()
    return shapes, dtypes
