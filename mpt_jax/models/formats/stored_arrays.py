"""Arrays that stay on disk until they are read: bytes in a file, or zarr chunks.

What a file says of itself is believed only as far as it can be checked: an array that claims more
numbers than its bytes can hold is refused before memory is asked for.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import jax.numpy as jnp
import numpy as np
import tensorstore

from mpt_jax.models.formats.weights import Shape

DTYPES = ("float32", "bfloat16", "float16")
ZARR_DTYPES = {"<f4": "float32", "bfloat16": "bfloat16", "<f2": "float16", "<u2": "uint16"}
# What zstd makes of equal bytes: four bytes for a block of 128 KiB. gzip shrinks by 1032 at most.
MOST_COMPRESSED = 1 << 15
MOST_OVERHEAD = 1 << 16


@runtime_checkable
class StoredArray(Protocol):
    """An array on disk."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self) -> np.ndarray:
        """All of it.

        Raises:
            ValueError: its bytes are damaged.
        """
        ...

    def layers(self, axis: int) -> Callable[[int], np.ndarray]:
        """A reader of single layers along `axis`.

        What it decodes it may keep, up to the size of the array, for as long as the reader lives.

        Raises:
            ValueError: the array's bytes are damaged; the reader raises it too.
        """
        ...


class Segment(NamedTuple):
    offset: int
    size: int


class FileArray:
    """Little-endian numbers in C order, in one or several segments of a file."""

    def __init__(self, name: str, file: Path, shape: Shape, dtype: str, segments: list[Segment]):
        self._name, self._file, self._segments = name, file, segments
        self.shape, self.dtype = shape, known_dtype(name, dtype)
        held = sum(segment.size for segment in segments)
        if held != byte_count(shape, self.dtype):
            raise ValueError(
                f"{name}: got {held} bytes for {list(shape)} {dtype}, expected "
                f"{byte_count(shape, self.dtype)}; the file is damaged."
            )

    def read(self) -> np.ndarray:
        values = np.empty(byte_count(self.shape, self.dtype), np.uint8)
        at = 0
        with open(self._file, "rb") as file:
            for offset, size in self._segments:
                file.seek(offset)
                if file.readinto(values[at : at + size].data) != size:
                    raise ValueError(f"{self._name}: {self._file} has become shorter.")
                at += size
        return values.view(self.dtype).reshape(self.shape)

    def layers(self, axis: int) -> Callable[[int], np.ndarray]:
        whole = self.read()
        return lambda layer: whole[(slice(None),) * axis + (layer,)]


class ZarrArray:
    """A zarr (version 2) array in a folder or in another key-value store.

    Args:
        name: for messages.
        store: TensorStore's description of the key-value store that is the array's folder.
        metadata: the contents of `.zarray`.
        keys: names in the folder.
        stored: bytes that the array can take on disk at most.

    Raises:
        ValueError: the metadata are damaged, absurd, of a kind that T5X does not write, or chunks
            are missing.
    """

    def __init__(
        self,
        name: str,
        store: Mapping[str, Any],
        metadata: bytes,
        keys: Collection[str],
        stored: int,
    ):
        self._name, self._store = name, store
        values = _zarr_metadata(name, metadata)
        self.shape: Shape = tuple(values["shape"])
        chunk: Shape = tuple(values["chunks"])
        self.dtype = known_dtype(name, ZARR_DTYPES.get(values["dtype"], values["dtype"]))
        most = MOST_COMPRESSED * stored + MOST_OVERHEAD
        if max(byte_count(self.shape, self.dtype), byte_count(chunk, self.dtype)) > most:
            raise ValueError(
                f"{name} claims {list(self.shape)} {self.dtype} in chunks of {list(chunk)}, but at most "
                f"{stored:,} bytes lie on disk for it; the checkpoint is damaged or incomplete."
            )
        self._check_chunks(chunk, values.get("dimension_separator", "."), keys)

    def _check_chunks(self, chunk: Shape, separator: str, keys: Collection[str]) -> None:
        grid = tuple(-(-size // step) for size, step in zip(self.shape, chunk, strict=True))
        count = math.prod(grid)
        # Counted first: a grid that is far too large is not walked through.
        if count <= len(keys):
            places = np.ndindex(*grid)
            names = [separator.join(map(str, place)) if place else "0" for place in places]
            count = len([name for name in names if name not in keys])
        else:
            count -= len(keys)
        if count:
            raise ValueError(
                f"{self._name}: {count} or more of its {math.prod(grid)} chunks are missing; copy the "
                "checkpoint again."
            )

    def read(self) -> np.ndarray:
        return self._read(self._open(cached_bytes=0))

    def layers(self, axis: int) -> Callable[[int], np.ndarray]:
        # Layers share chunks, so decoded chunks are kept; else each layer would decode all of them.
        opened = self._open(cached_bytes=2 * byte_count(self.shape, self.dtype))
        return lambda layer: self._read(opened[(slice(None),) * axis + (layer,)])

    def _open(self, cached_bytes: int) -> Any:
        spec = {
            "driver": "zarr",
            "kvstore": self._store,
            "fill_missing_data_reads": False,
            "recheck_cached_data": "open",
        }
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": cached_bytes}})
        with damage_named(self._name):
            return tensorstore.open(spec, context=context, open=True, read=True).result()

    def _read(self, opened: Any) -> np.ndarray:
        with damage_named(self._name):
            return np.asarray(opened.read().result(), order="C")


class damage_named:
    """Turns TensorStore's errors into a ValueError that says which array is damaged."""

    def __init__(self, name: str | os.PathLike[str]):
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, (ValueError, RuntimeError, OSError, NotImplementedError)):
            text = str(error).split(" [source locations", 1)[0]
            raise ValueError(
                f"{self._name} cannot be read ({text}); the checkpoint is damaged or incomplete."
            ) from error


def byte_count(shape: Shape, dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def known_dtype(name: str, dtype: str) -> np.dtype:
    if dtype == "uint16":
        raise ValueError(
            f"{name} is stored as uint16, which T5X before June 2021 wrote for bfloat16. Restore the "
            "checkpoint with a T5X of that time and save it in float32."
        )
    if dtype not in DTYPES:
        raise ValueError(f"{name} is stored as {dtype!r}, expected one of {list(DTYPES)}.")
    return jnp.dtype(dtype)


def is_shape(value: object, least: int = 0) -> TypeGuard[list[int]]:
    """Whether something that a file holds is a list of sizes."""
    return isinstance(value, list | tuple) and all(
        isinstance(size, int) and not isinstance(size, bool) and least <= size < 1 << 60
        for size in value
    )


def _zarr_metadata(name: str, metadata: bytes) -> dict[str, Any]:
    try:
        values = json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: its .zarray is not JSON ({error}).") from error
    good = (
        isinstance(values, dict)
        and values.get("zarr_format") == 2
        and is_shape(values.get("shape"))
        and is_shape(values.get("chunks"), least=1)
        and len(values["shape"]) == len(values["chunks"])
        and isinstance(values.get("dtype"), str)
        and values.get("dimension_separator", ".") in (".", "/")
    )
    if not good:
        raise ValueError(
            f"{name}: got a .zarray of {metadata[:300]!r}, expected zarr version 2 with a shape, chunks "
            "of as many dimensions, and a plain dtype."
        )
    return values
