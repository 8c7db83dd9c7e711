"""Examples, the manifest that describes them, and views of some of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Int

FORMAT_VERSION = 1
_HEADER = struct.Struct("<II")


@dataclasses.dataclass(frozen=True)
class Example:
    """One example: token ids (int32, EOS as the task wrote it), their text and further fields."""

    inputs: Int[np.ndarray, " T"]
    targets: Int[np.ndarray, " L"]
    inputs_text: str
    targets_text: str
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_bytes(self) -> bytes:
        text = json.dumps([self.inputs_text, self.targets_text, dict(self.extras)])
        ids = np.concatenate([self.inputs, self.targets]).astype("<i4").tobytes()
        return _HEADER.pack(len(self.inputs), len(self.targets)) + ids + text.encode()

    @classmethod
    def from_bytes(cls, record: bytes) -> Example:
        n_inputs, n_targets = _HEADER.unpack_from(record)
        ids = np.frombuffer(record, "<i4", n_inputs + n_targets, _HEADER.size).astype(np.int32)
        text = json.loads(record[_HEADER.size + 4 * len(ids) :])
        return cls(ids[:n_inputs], ids[n_inputs:], *text)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a store is filled with, known before the first example is written.

    `vocabulary` is its fingerprint, `source` a hash of where the examples come from.
    """

    task: str
    split: str
    feature_lengths: Mapping[str, int]
    vocabulary: str
    source: str = ""

    @property
    def key(self) -> str:
        """A hash of all that a store's content depends on."""
        lengths = sorted(self.feature_lengths.items())
        content = repr((self.task, self.split, lengths, self.vocabulary, self.source))
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Manifest(Description):
    """A description and what was seen while writing; the content of `manifest.json`.

    `fields` is the dtype of each field that the task's examples have beside inputs and targets.
    """

    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    count: int = 0
    truncated_inputs: int = 0
    length_histogram: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    tool_version: str = ""


@runtime_checkable
class Examples(Protocol):
    """Random access to examples: a whole store or a view of one."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def key(self) -> str:
        """A hash of all that the examples, and their order, depend on."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> Example: ...

    def read(self, indices: Iterable[SupportsIndex]) -> list[Example]:
        """Several examples at once, in the order asked for; faster than one by one."""
        ...

    def lengths(self) -> Int[np.ndarray, "N 2"]:
        """Tokens in the inputs and in the targets of every example."""
        ...


class SubStore:
    """Some examples of a store, in the order of `indices`; itself as good as a store."""

    def __init__(self, store: Examples, indices: Int[np.ndarray, " N"] | Sequence[int]):
        self.store = store
        self.indices = np.asarray(indices, np.int64)
        wrong = self.indices[(self.indices < 0) | (self.indices >= len(store))]
        if wrong.size:
            raise IndexError(f"Example {wrong[0]} of {store!r}, which has {len(store)} examples.")

    @property
    def manifest(self) -> Manifest:
        """The manifest of the whole store; its counts are not those of the view."""
        return self.store.manifest

    @property
    def key(self) -> str:
        chosen = hashlib.sha256(self.indices.astype("<i8").tobytes()).hexdigest()[:12]
        return f"{self.store.key}-{chosen}"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self.read([index])[0]

    def read(self, indices: Iterable[SupportsIndex]) -> list[Example]:
        return self.store.read(self.indices[operator.index(i)] for i in indices)

    def lengths(self) -> Int[np.ndarray, "N 2"]:
        return self.store.lengths()[self.indices]

    def __repr__(self) -> str:
        return f"SubStore({self.store!r}, {len(self)} of them)"
