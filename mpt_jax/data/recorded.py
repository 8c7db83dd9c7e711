"""Arrays recorded for every example of a split: values for its positions, kept on disk for batches.

A recorded store is a folder of three files: `records.array_record` (random access, in whatever order they
were made), `places.npy` (which record is which example's) and `manifest.json`. It appears by one rename, as a
token store does. What the values mean, whoever records them knows.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Int

from mpt_jax.data.store import MANIFEST, READ_ONE_BY_ONE, DamagedStoreError
from mpt_jax.scratch_folders import first_to_fill

RECORDS, PLACES = "records.array_record", "places.npy"
FORMAT_VERSION = 1
_SIDES = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class Field:
    """An array that a batch holds beside its tokens.

    Attributes:
        side: whose positions have a value.
        shape: of the value.
        dtype: of its numbers.
    """

    side: Literal["encoder", "decoder"]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def value_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def positions(self, lengths: Int[np.ndarray, "*E 2"]) -> Int[np.ndarray, "*E"]:
        """Positions of its side, of examples with so many on both."""
        return lengths[..., _SIDES.index(self.side)]


Fields = Mapping[str, Field]  # by batch key
Record = Mapping[str, np.ndarray]  # batch key -> [positions, *shape]


def total_bytes(fields: Fields, lengths: Int[np.ndarray, "N 2"]) -> int:
    """What the records of examples with these encoder (prompt included) and decoder lengths need."""
    return sum(
        field.value_bytes * int(field.positions(lengths).sum(dtype=np.int64))
        for field in fields.values()
    )


class RecordedStore:
    """A filled store, opened for reading, from any number of threads.

    Args:
        folder: of the store.
        fields: what is recorded.
        lengths: encoder (prompt included) and decoder positions of every example.

    Raises:
        DamagedStoreError: the folder is no whole store of these.
    """

    def __init__(self, folder: Path, fields: Fields, lengths: Int[np.ndarray, "N 2"]):
        self.folder, self.fields = folder, fields
        self._lengths = lengths
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            expected = _manifest(fields, lengths)
            if wrong := [name for name, value in expected.items() if manifest.get(name) != value]:
                raise ValueError(
                    ", ".join(f"{n} is {manifest.get(n)}, expected {expected[n]}" for n in wrong)
                )
            self._places = np.load(folder / PLACES)
            self._reader = ArrayRecordReader(str(folder / RECORDS), options=READ_ONE_BY_ONE)
            records = self._reader.num_records()
            if not records == len(self._places) == len(lengths):
                raise ValueError(
                    f"{records} records of {len(self._places)} examples, expected {len(lengths)}"
                )
        except Exception as error:  # ArrayRecord, NumPy and JSON each raise their own kinds
            raise DamagedStoreError(
                f"{folder} is damaged: {error}. Delete that folder; it is filled again on the next run."
            ) from error

    def __len__(self) -> int:
        return len(self._places)

    def read(self, indices: Sequence[int]) -> list[Record]:
        """The records of some examples, in the order asked for; views of what was read."""
        records = self._reader.read(self._places[list(indices)].tolist())
        return [self._parsed(*pair) for pair in zip(records, indices, strict=True)]

    def _parsed(self, record: bytes, index: int) -> Record:
        arrays, start = {}, 0
        for key, field in self.fields.items():
            positions = int(field.positions(self._lengths[index]))
            size = positions * math.prod(field.shape)
            flat = np.frombuffer(record, field.dtype, size, start)
            arrays[key] = flat.reshape(positions, *field.shape)
            start += flat.nbytes
        return arrays


def write_recorded(
    folder: Path,
    fields: Fields,
    lengths: Int[np.ndarray, "N 2"],
    records: Iterable[tuple[int, Record]],
    made_from: Mapping[str, Any],
) -> None:
    """Writes a store at `folder`, unless another process puts one there first.

    Args:
        records: (example, what is recorded of it), each example once, in any order.
        made_from: for people; the folder's name is to have a hash of it.
    """
    with first_to_fill(folder) as temporary:
        places = np.full(len(lengths), -1, np.int64)
        writer = ArrayRecordWriter(str(temporary / RECORDS), "group_size:1,uncompressed")
        try:
            for place, (index, record) in enumerate(records):
                parts = [np.ascontiguousarray(record[key], f.dtype) for key, f in fields.items()]
                writer.write(b"".join(part.tobytes() for part in parts))
                places[index] = place
        finally:
            writer.close()
        assert (places >= 0).all(), "an example was not recorded"
        np.save(temporary / PLACES, places)
        manifest = {**_manifest(fields, lengths), "made_from": dict(made_from)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _manifest(fields: Fields, lengths: Int[np.ndarray, "N 2"]) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "count": len(lengths),
        "bytes": total_bytes(fields, lengths),
        "fields": {
            key: {"side": field.side, "shape": list(field.shape), "dtype": str(field.dtype)}
            for key, field in fields.items()
        },
    }
