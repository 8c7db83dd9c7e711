"""T5X checkpoints without T5X: the parameters by name, each on disk until it is read.

T5X has written two forms. *Legacy*: a msgpack file called `checkpoint`, with arrays in it or in zarr
folders beside it; all of the published T5 weights are like that. *Orbax*: a folder `state` that is
one OCDBT store. Both lie in a folder `checkpoint_<step>`. Source: `t5x/checkpoints.py` of T5X.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import tensorstore

from mpt_jax.models.formats.stored_arrays import (
    FileArray,
    StoredArray,
    ZarrArray,
    damage_named,
    is_shape,
)
from mpt_jax.models.formats.t5x_msgpack import InlineArray, read_tree
from mpt_jax.models.formats.weights import MOST_LISTED

LEGACY_FILE = "checkpoint"
ORBAX_FOLDER = "state"
ORBAX_MANIFEST = "manifest.ocdbt"
STEP_FOLDER = re.compile(r"checkpoint_(\d+)")
VERSIONS = (2, 3)  # 3 since June 2021; 2 coded bfloat16 as uint16 and is the same otherwise.
SPEC_KEYS = {"driver", "kvstore", "metadata"}
KVSTORES = ("file", "gfile", "gcs")  # Where T5X wrote; the arrays lie beside the msgpack file now.
PROMPTS = r"encoder/prompt/.*"


class T5XCheckpoint(NamedTuple):
    """An opened checkpoint.

    Attributes:
        path: the checkpoint's folder (or msgpack file) that was chosen.
        step: from the folder's name; None if it is not called `checkpoint_<step>`.
        passed_over: steps of the other checkpoints beside it, if a folder of several was given.
        arrays: the model's parameters by their path, e.g. "encoder/layers_0/mlp/wo/kernel", with
            T5X's names, shapes and dtypes. Optimizer state is not among them.
    """

    path: Path
    step: int | None
    passed_over: tuple[int, ...]
    arrays: Mapping[str, StoredArray]


def is_t5x_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `open_checkpoint` would find a checkpoint there, sound or not."""
    path = Path(path)
    return path.is_file() or _is_checkpoint(path) or bool(_steps(path))


def open_checkpoint(path: str | os.PathLike[str]) -> T5XCheckpoint:
    """Opens a checkpoint; only names, shapes and dtypes are read.

    Args:
        path: `checkpoint_<step>`, or a folder of several such (the latest is taken), or a msgpack
            file.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, incomplete, or of a kind that is not read; the message names the
            array.
    """
    path, passed_over = _chosen(Path(path))
    match = STEP_FOLDER.fullmatch(path.name)
    step = int(match[1]) if match else None
    if path.is_file():
        arrays = dict(_legacy_arrays(path))
    elif (path / LEGACY_FILE).is_file():
        arrays = dict(_legacy_arrays(path / LEGACY_FILE))
    else:
        state = path / ORBAX_FOLDER
        arrays = dict(_orbax_arrays(state if state.is_dir() else path))
    if not arrays:
        raise ValueError(f"{path} holds no parameters of a model.")
    return T5XCheckpoint(path, step, passed_over, arrays)


def read_prompts(checkpoint: T5XCheckpoint, pattern: str = PROMPTS) -> dict[str, np.ndarray]:
    """Arrays by path, for instance "encoder/prompt/prompt/prompt" [P, D].

    Args:
        checkpoint: the opened checkpoint.
        pattern: a regular expression that has to match the whole path.

    Raises:
        ValueError: no path matches, or an array is damaged.
    """
    chosen = [path for path in sorted(checkpoint.arrays) if re.fullmatch(pattern, path)]
    if not chosen:
        shown = ", ".join(sorted(checkpoint.arrays)[:MOST_LISTED])
        raise ValueError(
            f"{checkpoint.path}: no parameter matches {pattern!r}; it has "
            f"{len(checkpoint.arrays)}: {shown}{', ...' if len(checkpoint.arrays) > MOST_LISTED else ''}"
        )
    return {path: checkpoint.arrays[path].read() for path in chosen}


def _is_checkpoint(path: Path) -> bool:
    folders = (path / ORBAX_FOLDER, path)
    return (path / LEGACY_FILE).is_file() or any(
        (folder / ORBAX_MANIFEST).is_file() for folder in folders
    )


def _steps(path: Path) -> dict[int, Path]:
    if not path.is_dir():
        return {}
    matches = {entry: STEP_FOLDER.fullmatch(entry.name) for entry in path.iterdir()}
    return {int(match[1]): entry for entry, match in matches.items() if match}


def _chosen(path: Path) -> tuple[Path, tuple[int, ...]]:
    if path.is_file() or _is_checkpoint(path):
        return path, ()
    steps = _steps(path)
    if not steps:
        raise FileNotFoundError(
            f"{path} is no T5X checkpoint: expected a folder checkpoint_<step> with a file "
            f"{LEGACY_FILE} or a folder {ORBAX_FOLDER} with {ORBAX_MANIFEST} in it, or a folder of such."
        )
    latest = max(steps)
    if not _is_checkpoint(steps[latest]):
        raise ValueError(
            f"{steps[latest]} is incomplete: it has neither a file {LEGACY_FILE} nor "
            f"{ORBAX_FOLDER}/{ORBAX_MANIFEST}. Copy it again, or name another step's folder."
        )
    return steps[latest], tuple(sorted(steps.keys() - {latest}))


def _legacy_arrays(file: Path) -> Iterator[tuple[str, StoredArray]]:
    with open(file, "rb") as opened:
        if opened.read(21) == b"model_checkpoint_path":
            raise ValueError(
                f"{file} belongs to a TensorFlow checkpoint of Mesh TensorFlow's T5. Convert it with T5X's "
                "convert_tf_checkpoint script, or take the same model from Hugging Face."
            )
    tree = read_tree(file)
    version = tree.get("version", 0)
    optimizer = tree.get("optimizer")
    if version not in VERSIONS or not isinstance(optimizer, dict):
        raise ValueError(
            f"{file}: got version {version!r:.60} and the entries {sorted(tree)!r:.200}, expected version "
            f"{' or '.join(map(str, VERSIONS))} and an entry 'optimizer', as T5X writes them."
        )
    for path, leaf in _leaves(optimizer.get("target"), ""):
        yield path, _legacy_array(file, path, leaf)


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict) or node.keys() >= SPEC_KEYS:
        if path:
            yield path, node
        return
    for name, value in node.items():
        yield from _leaves(value, f"{path}/{name}" if path else name)


def _legacy_array(file: Path, path: str, leaf: Any) -> StoredArray:
    name = f"{file}: target/{path}"
    if isinstance(leaf, InlineArray):
        return FileArray(name, file, *leaf)
    if not isinstance(leaf, dict):
        raise ValueError(f"{name}: got {leaf!r:.100}, expected an array.")
    folder = file.parent / _relative_path(name, leaf)
    try:
        metadata = (folder / ".zarray").read_bytes()
        entries = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    except OSError as error:
        raise ValueError(
            f"{name} should lie in {folder}, which cannot be read ({error.strerror}); the checkpoint is "
            "incomplete. Copy all of its folders, and the files in them whose names begin with a dot."
        ) from error
    store = {"driver": "file", "path": f"{folder}/"}
    array = ZarrArray(name, store, metadata, entries.keys(), sum(entries.values()))
    _compare_with_spec(name, leaf, array)
    return array


def _relative_path(name: str, spec: dict[str, Any]) -> str:
    """The array's folder by its TensorStore spec, which must lie in the checkpoint's."""
    kvstore = spec["kvstore"]
    driver = kvstore.get("driver") if isinstance(kvstore, dict) else None
    if spec["driver"] != "zarr" or driver not in KVSTORES:
        raise ValueError(
            f"{name}: got the drivers {spec['driver']!r:.40} and {driver!r:.40}, expected 'zarr' on one of "
            f"{list(KVSTORES)}."
        )
    path = kvstore.get("path", spec.get("path"))  # TensorStore before 0.1.14 had it outside.
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(
            f"{name}: got the folder {path!r:.100}, expected one in the checkpoint's folder."
        )
    return path.rstrip("/")


def _compare_with_spec(name: str, spec: dict[str, Any], array: ZarrArray) -> None:
    metadata = spec["metadata"]
    shape = metadata.get("shape") if isinstance(metadata, dict) else None
    if not is_shape(shape) or tuple(shape) != array.shape:
        raise ValueError(
            f"{name}: the checkpoint's file says shape {shape!r:.100}, its .zarray {list(array.shape)}; they "
            "are not of one checkpoint."
        )
    if spec.get("dtype", array.dtype.name) != array.dtype.name:
        raise ValueError(
            f"{name}: the checkpoint's file says {spec['dtype']!r:.40}, its .zarray {array.dtype.name!r}; "
            "they are not of one checkpoint."
        )


def _orbax_arrays(folder: Path) -> Iterator[tuple[str, StoredArray]]:
    if not (folder / ORBAX_MANIFEST).is_file():
        raise ValueError(f"{folder} has no {ORBAX_MANIFEST}; the checkpoint is incomplete.")
    stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    with damage_named(folder):
        root = tensorstore.KvStore.open(store).result()
        keys = [key.decode() for key in root.list().result()]
    chunks: dict[str, set[str]] = {}
    for key in keys:
        array, _, chunk = key.partition("/")
        chunks.setdefault(array, set()).add(chunk)
    for array, names in chunks.items():
        top, _, path = array.partition(".")
        if top != "target":
            continue
        if ".zarray" not in names:
            raise ValueError(f"{folder}: {array} has no .zarray, expected zarr version 2.")
        with damage_named(f"{folder}: {array}"):
            metadata = root.read(f"{array}/.zarray").result().value
        inside = store | {"path": f"{array}/"}
        yield (
            path.replace(".", "/"),
            ZarrArray(f"{folder}: {array}", inside, metadata, names, stored),
        )
