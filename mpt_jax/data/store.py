"""Token stores: the tokenised, prompt-free examples of one split of one task, on disk.

A store is a folder of three files: `examples.array_record` (random access), `lengths.npy` and
`manifest.json`. It is written once, under another name, and appears by one rename; so a folder that
has its final name is whole, whoever else was writing it or was killed while writing.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Int

from mpt_jax.data.examples import FORMAT_VERSION, Description, Example, Manifest
from mpt_jax.data.vocabularies import EOS_ID
from mpt_jax.errors import UserError
from mpt_jax.scratch_folders import first_to_fill

RECORDS, LENGTHS, MANIFEST = "examples.array_record", "lengths.npy", "manifest.json"
READ_ONE_BY_ONE = "readahead_buffer_size:0,max_parallelism:0"  # records that lie anywhere


class DamagedStoreError(UserError):
    """A store's folder does not hold what its manifest says."""


class TokenStore:
    """A filled store, opened for reading. It may be pickled and read from several processes.

    Raises:
        DamagedStoreError: the folder is not a whole store.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._reader: ArrayRecordReader | None = None
        try:
            content = json.loads((self.folder / MANIFEST).read_text())
            version = content.get("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"format version {version}, expected {FORMAT_VERSION}")
            self.manifest = Manifest(**content)
            self._lengths = np.load(self.folder / LENGTHS)
            records = self._open().num_records()
            if not records == len(self._lengths) == self.manifest.count:
                raise ValueError(
                    f"{records} records and {len(self._lengths)} lengths, but the manifest says "
                    f"{self.manifest.count}"
                )
        except Exception as error:  # ArrayRecord, NumPy and JSON each raise their own kinds
            raise DamagedStoreError(
                f"The token store {self.folder} is damaged: {error}. Delete that folder; it is "
                "filled again from the task on the next run."
            ) from error

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> TokenStore:
        return cls(folder)

    def _open(self) -> ArrayRecordReader:
        if self._reader is None:
            self._reader = ArrayRecordReader(str(self.folder / RECORDS), options=READ_ONE_BY_ONE)
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __len__(self) -> int:
        return self.manifest.count

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self.read([index])[0]

    def read(self, indices: Iterable[SupportsIndex]) -> list[Example]:
        wanted = [operator.index(i) for i in indices]
        for i in wanted:
            if not 0 <= i < len(self):
                raise IndexError(f"Example {i} of {self.folder}, which has {len(self)} examples.")
        return [Example.from_bytes(record) for record in self._open().read(wanted)]

    def lengths(self) -> Int[np.ndarray, "N 2"]:
        return self._lengths

    @property
    def key(self) -> str:
        return self.manifest.key

    def __repr__(self) -> str:
        return f"TokenStore({str(self.folder)!r}, {len(self)} examples)"


def write_store(
    folder: str | os.PathLike[str],
    examples: Iterable[Example],
    description: Description,
    fields: Mapping[str, str] | None = None,
) -> TokenStore:
    """Write a store at `folder`, or open the one that another process put there meanwhile.

    Inputs longer than `description.feature_lengths["inputs"]` are cut, keeping a closing EOS, and
    counted in the manifest. A target is never cut, since a cut label cannot be predicted.

    Raises:
        UserError: a target is longer than its length; nothing is left behind.
    """
    folder = Path(folder)
    with first_to_fill(folder) as temporary:
        _write_files(temporary, examples, description, fields or {})
    return TokenStore(folder)


def find_store(
    root: str | os.PathLike[str], task: str, split: str, feature_lengths: Mapping[str, int]
) -> TokenStore | None:
    """The newest store under `root` for a task's split, found without seqio or TensorFlow.

    Only `fill_store` sees whether the task has changed since the store was written.
    """
    wanted = (task, split, dict(feature_lengths))
    folders = (f for f in Path(root).glob("*/") if not f.name.startswith("."))
    for folder in sorted(folders, key=lambda f: f.stat().st_mtime, reverse=True):
        if (folder / MANIFEST).is_file():
            store = TokenStore(folder)
            found = store.manifest
            if (found.task, found.split, dict(found.feature_lengths)) == wanted:
                return store
    return None


def _write_files(
    folder: Path, examples: Iterable[Example], description: Description, fields: Mapping[str, str]
) -> None:
    limit = description.feature_lengths
    lengths: list[tuple[int, int]] = []
    truncated = 0
    overlong: list[tuple[int, Example]] = []
    # One record a group: a read decompresses the record asked for and no other.
    writer = ArrayRecordWriter(str(folder / RECORDS), "group_size:1")
    try:
        for index, example in enumerate(examples):
            if len(example.targets) > limit["targets"]:
                overlong.append((index, example))
            if len(example.inputs) > limit["inputs"]:
                truncated += 1
                example = dataclasses.replace(example, inputs=_cut(example.inputs, limit["inputs"]))
            lengths.append((len(example.inputs), len(example.targets)))
            writer.write(example.to_bytes())
    finally:
        writer.close()
    if overlong:
        raise UserError(_overlong_message(overlong, len(lengths), description))
    table = np.asarray(lengths, np.int32).reshape(len(lengths), 2)
    manifest = Manifest(
        **dataclasses.asdict(description),
        fields=dict(fields),
        count=len(lengths),
        truncated_inputs=truncated,
        length_histogram={
            name: {str(n): count for n, count in sorted(Counter(column.tolist()).items())}
            for name, column in zip(("inputs", "targets"), table.T, strict=True)
        },
        tool_version=_tool_version(),
    )
    np.save(folder / LENGTHS, table)
    (folder / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=1))


def _cut(ids: np.ndarray, length: int) -> np.ndarray:
    if ids[-1] == EOS_ID:
        return np.append(ids[: length - 1], ids[-1])
    return ids[:length]


def _overlong_message(
    overlong: list[tuple[int, Example]], count: int, description: Description
) -> str:
    index, example = overlong[0]
    needed = max(len(example.targets) for _, example in overlong)
    return (
        f"Task {description.task!r}, split {description.split!r}: {len(overlong)} of {count} "
        f"targets are longer than the target length {description.feature_lengths['targets']}, "
        f"EOS included. The first is example {index} with {len(example.targets)} tokens: "
        f"{example.targets_text[:200]!r}. Set 'targets' in TASK_FEATURE_LENGTHS to at least "
        f"{needed}, or shorten these targets in the task's preprocessors."
    )


def _tool_version() -> str:
    try:
        return importlib.metadata.version("mpt_jax")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"
