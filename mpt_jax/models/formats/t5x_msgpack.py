"""T5X's msgpack file: its tree, with arrays left in the file.

T5X writes it with `flax.serialization`: nested maps whose leaves are arrays, as extension values of
(shape, dtype's name, bytes), small values, or maps that say where else an array lies (TensorStore
specs). An array above 1 GiB is a map of its shape and several flat arrays.
"""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgpack

from mpt_jax.models.formats.stored_arrays import Segment, is_shape
from mpt_jax.models.formats.weights import Shape

WINDOW = 4096  # More than any value that is no array, or than what stands before an array's bytes.
DEEPEST = 64
CHUNKED = "__msgpack_chunked_array__"
NDARRAY, SCALAR = 1, 3  # flax's extension types; 2 is a complex number.


class InlineArray(NamedTuple):
    """Where in the file an array's numbers are."""

    shape: Shape
    dtype: str
    segments: list[Segment]


def read_tree(path: Path) -> dict[str, Any]:
    """The file's tree of dictionaries; arrays are `InlineArray`s.

    Raises:
        ValueError: the file is truncated, or not what flax writes.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        try:
            tree = _Walker(file, size).value("", DEEPEST)
            behind = file.tell() - size
        except (msgpack.UnpackException, ValueError, LookupError) as error:
            reason = str(error) or "it ends early"
            raise ValueError(
                f"{path} ({size:,} bytes) is truncated or not a T5X checkpoint: {reason}. "
                "Copy it again."
            ) from error
    if not isinstance(tree, dict) or behind:
        raise ValueError(f"{path} is not a T5X checkpoint: expected one map of names to values.")
    return tree


class _Walker:
    """Goes through the file value by value; the file's position is where the next one begins."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def value(self, name: str, depth: int) -> Any:
        start = self._file.tell()
        window = self._file.read(WINDOW)
        kind = window[0]
        if not depth:
            raise ValueError(f"maps are nested deeper than {DEEPEST}")
        if 0x80 <= kind <= 0x8F or kind in (0xDE, 0xDF):
            return self._map(name, start, window, depth)
        if 0xD4 <= kind <= 0xD8 or 0xC7 <= kind <= 0xC9:
            return self._extension(name, start, window)
        return self._small(start, window)

    def _small(self, start: int, window: bytes) -> Any:
        unpacker = _unpacker(window)
        value = unpacker.unpack()
        self._file.seek(start + unpacker.tell())
        return value

    def _map(self, name: str, start: int, window: bytes, depth: int) -> Any:
        unpacker = _unpacker(window)
        count = unpacker.read_map_header()
        self._file.seek(start + unpacker.tell())
        values: dict[str, Any] = {}
        for _ in range(count):
            at = self._file.tell()
            key = self._small(at, self._file.read(WINDOW))
            if not isinstance(key, str) or key in values:
                raise ValueError(f"got the key {key!r:.60} in {name or 'the file'}")
            values[key] = self.value(f"{name}/{key}" if name else key, depth - 1)
        return _joined(name, values) if CHUNKED in values else values

    def _extension(self, name: str, start: int, window: bytes) -> InlineArray | None:
        kind = window[0]
        if kind >= 0xD4:
            header, length = 2, 1 << (kind - 0xD4)
        else:
            width = 1 << (kind - 0xC7)
            header, length = width + 2, int.from_bytes(window[1 : 1 + width], "big")
        end = start + header + length
        if end > self._size:
            raise ValueError(f"{name} claims {length:,} bytes, the file ends before")
        self._file.seek(end)
        if window[header - 1] not in (NDARRAY, SCALAR):
            return None
        unpacker = _unpacker(window[header : header + length])
        parts = unpacker.read_array_header()
        shape, dtype = unpacker.unpack(), unpacker.unpack()
        if parts != 3 or not is_shape(shape) or not isinstance(dtype, str):
            raise ValueError(f"{name} is no array: got {shape!r:.60} and {dtype!r:.60}")
        # msgpack says how many bytes follow in one, two or four bytes behind a type byte.
        at = start + header + unpacker.tell()
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4}[window[at - start]]
        data = Segment(at + 1 + width, int.from_bytes(window[at - start + 1 :][:width], "big"))
        if data.offset + data.size != end:
            raise ValueError(f"{name}: its bytes do not end where the array does")
        return InlineArray(tuple(shape), dtype, [data])


def _unpacker(window: bytes) -> msgpack.Unpacker:
    unpacker = msgpack.Unpacker(max_buffer_size=WINDOW)
    unpacker.feed(window)
    return unpacker


def _joined(name: str, values: dict[str, Any]) -> InlineArray:
    """One array from the map of its shape and its parts, both of which are maps from "0" upward."""
    shape, parts = _listed(values.get("shape")), _listed(values.get("chunks"))
    if not is_shape(shape) or not parts or not all(isinstance(p, InlineArray) for p in parts):
        raise ValueError(f"{name} is no array in parts")
    if len({part.dtype for part in parts}) != 1:
        raise ValueError(f"{name} has parts of several dtypes")
    segments = [segment for part in parts for segment in part.segments]
    return InlineArray(tuple(shape), parts[0].dtype, segments)


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, dict):
        return []
    return [values[str(i)] for i in range(len(values))]
