"""The tensors in a file that torch.save wrote, read without torch and without unpickling.

Such a file is a zip archive: a pickle that says which tensors there are, and one entry of raw numbers
for each storage. Files of torch before 1.6 are bare pickles, and are refused.
"""

import math
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from mpt_jax.methods.formats.inert_pickle import Call, Persistent, Symbol, parse
from mpt_jax.methods.prompt_file import PromptFileError

DTYPES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.DoubleStorage": np.dtype(np.float64),
}
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ALLOWED = frozenset({*DTYPES, TENSOR, PARAMETER, "collections.OrderedDict"})
LARGEST_PICKLE = 1 << 20
MOST_AXES = 8

Tensor = Shaped[np.ndarray, "..."]


def read_archive(path: Path) -> Tensor | dict[str, Tensor]:
    """The tensor that was saved, or those of a dict of tensors.

    Raises:
      UserError: a file of old torch, a damaged one, one that holds something else, or a pickle that
        names anything but tensors (`inert_pickle`).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(path, archive)
    except zipfile.BadZipFile as error:
        raise PromptFileError(
            f"{path} is not a whole zip archive ({error}): it is cut, or was saved by torch before 1.6 "
            "as a bare pickle, which is not read because loading it can run any code. Where you trust "
            "it, load it with torch and save it again: torch.save(torch.load(file), new_file)."
        ) from error
    except (EOFError, RuntimeError, OSError, ValueError) as error:
        raise PromptFileError(f"{path} is damaged ({error}); copy it again.") from error


def _read(path: Path, archive: zipfile.ZipFile) -> Tensor | dict[str, Tensor]:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PromptFileError(f"{path} is a zip archive, but torch.save did not write it.")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist():
        if (order := _entry(path, archive, f"{root}byteorder")) != b"little":
            raise PromptFileError(f"{path} has the byte order {order!r:.20}; only little is read.")
    storages = _Storages(path, archive, root)
    saved = parse(_entry(path, archive, pickles[0], LARGEST_PICKLE), ALLOWED, str(path))
    if isinstance(saved, dict):
        return {str(name): storages.tensor(value) for name, value in saved.items()}
    return storages.tensor(saved)


def _entry(path: Path, archive: zipfile.ZipFile, name: str, largest: int | None = None) -> bytes:
    """An entry's bytes; torch never compresses, so none can be larger than the file."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise PromptFileError(f"{path} lacks its entry {name}; it is damaged.") from None
    limit = path.stat().st_size if largest is None else min(largest, path.stat().st_size)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
        raise PromptFileError(
            f"{path}: the entry {name} is compressed or claims {info.file_size:,} bytes; torch.save did "
            "not write it."
        )
    return archive.read(info)


class _Storages:
    """Makes tensors of what the pickle says about them and of the archive's raw numbers."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, root: str):
        self.path, self.archive, self.root = path, archive, root

    def tensor(self, node: Any) -> Tensor:
        match node:
            case Call(Symbol(name), (inner, _, _)) if name == PARAMETER:
                return self.tensor(inner) if _is_call(inner, TENSOR) else self._refuse(inner)
            case Call(
                Symbol(name), (Persistent(id), int(offset), tuple(size), tuple(stride), *_)
            ) if name == TENSOR:
                return self._view(self._storage(id), offset, size, stride)
        return self._refuse(node)

    def _storage(self, id: Any) -> Shaped[np.ndarray, "n"]:
        match id:
            case ("storage", Symbol(kind), str(key), _, int()) if kind in DTYPES:
                data = _entry(self.path, self.archive, f"{self.root}data/{key}")
                if len(data) % DTYPES[kind].itemsize == 0:
                    return np.frombuffer(data, DTYPES[kind])
        return self._refuse(id)

    def _view(self, storage: np.ndarray, offset: int, size: tuple, stride: tuple) -> Tensor:
        axes = len(size)
        whole = axes == len(stride) and axes <= MOST_AXES
        if not whole or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
            return self._refuse(size)
        # No more numbers than the storage has, and none beyond its end: a stride of 0 could claim
        # any size.
        if 0 < math.prod(size) <= storage.size:
            last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
            if last < storage.size:
                steps = [s * storage.itemsize for s in stride]
                return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()
        raise PromptFileError(
            f"{self.path}: a tensor of size {size}, stride {stride} at {offset} does not lie in its "
            f"storage of {storage.size:,} numbers; the file is damaged."
        )

    def _refuse(self, node: Any) -> Any:
        raise PromptFileError(
            f"{self.path} holds {type(node).__name__} where a tensor of floats was expected: save one "
            "[length, width] tensor, or a dict of tensors."
        )


def _is_call(node: Any, name: str) -> bool:
    return isinstance(node, Call) and node.symbol.name == name
