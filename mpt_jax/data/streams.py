"""Streams: the examples of one task for one prompt; and all streams of a program side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32

from mpt_jax.data.recorded import Fields, Record, RecordedStore
from mpt_jax.errors import UserError

_READ_AT_ONCE = 4096


@runtime_checkable
class Tokens(Protocol):
    """What a batch needs of an example: int32 ids, EOS included, no padding."""

    @property
    def inputs(self) -> Int[np.ndarray, " T"]: ...

    @property
    def targets(self) -> Int[np.ndarray, " L"]: ...


@dataclasses.dataclass(frozen=True)
class Stream:
    """The examples of one task, with the prompt that goes in front of each.

    Attributes:
      examples: a token store, a view of one, or any sequence of `Tokens`.
      virtual_ids: the prompt as virtual token ids; empty for no prompt.
      member: index of the fleet member that trains on it.
      task: index of the task within the member.
      name: the task's name in messages; the shuffled order depends on it (and on the seed), not on
        the stream's place in the fleet, so that a member alone sees what it sees in a fleet and
        streams of one name (method variants) see the same.
      order: number of the shuffled order; streams of one name and another number see another.
      recorded: arrays that batches hold of each example beside its tokens; of the same fields for all
        streams of a program, or none.
    """

    examples: Any
    virtual_ids: Int32[np.ndarray, " P"]
    member: int
    task: int
    name: str
    order: int = 0
    recorded: RecordedStore | None = None

    @property
    def order_name(self) -> str:
        """What the shuffled order is drawn by."""
        return f"{self.name}#{self.order}" if self.order else self.name

    @cached_property
    def lengths(self) -> Int[np.ndarray, "N 2"]:
        """Tokens of every example's inputs (without the prompt) and targets."""
        if hasattr(self.examples, "lengths"):
            return self.examples.lengths()
        pairs = [(len(e.inputs), len(e.targets)) for e in self.examples]
        return np.asarray(pairs, np.int32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.examples)


class Texts(NamedTuple):
    """Tokens of some examples: example e is tokens[starts[e]:], its inputs, then its targets."""

    tokens: Int32[np.ndarray, " N"]
    starts: Int[np.ndarray, " E"]
    lengths: Int[np.ndarray, "E 2"]


class Streams(Sequence[Stream]):
    """Streams side by side, their lengths and tokens laid out in flat arrays for quick batches.

    Rows name examples as pairs (stream, example index). Streams that share an `examples` object
    share its tokens.

    Args:
      in_memory_tokens: up to this many tokens in all are held in memory; beyond it every batch
        reads its examples from the stores.

    Raises:
      UserError: there is no stream, or one without examples.
    """

    def __init__(self, streams: Sequence[Stream], in_memory_tokens: int = 2**27):
        self._streams = tuple(streams)
        if not self._streams:
            raise UserError("There is nothing to make batches of: no task was given.")
        for stream in self._streams:
            if not len(stream):
                raise UserError(
                    f"Task {stream.name!r} has no examples. Check its split and what its "
                    "preprocessors filter out."
                )
        self._sources = list({id(s.examples): s for s in self._streams}.values())
        self.in_memory = sum(int(s.lengths.sum()) for s in self._sources) <= in_memory_tokens
        self.sizes = np.array([len(s) for s in self._streams], np.int64)
        self.members = np.array([s.member for s in self._streams], np.int32)
        self.tasks = np.array([s.task for s in self._streams], np.int32)
        self.prompt_lengths = np.array([len(s.virtual_ids) for s in self._streams], np.int64)
        self.virtual_ids = np.concatenate([s.virtual_ids for s in self._streams])
        self.virtual_starts = np.cumsum(self.prompt_lengths) - self.prompt_lengths
        source_sizes = np.array([len(s) for s in self._sources], np.int64)
        self._lengths = np.concatenate([s.lengths for s in self._sources]).astype(np.int64)
        place = {id(s.examples): i for i, s in enumerate(self._sources)}
        first = np.cumsum(source_sizes) - source_sizes
        self._first = first[[place[id(s.examples)] for s in self._streams]]
        stores = {id(s.recorded): s.recorded for s in self._streams if s.recorded is not None}
        self._recorded = tuple(stores.values())
        number = {identity: i for i, identity in enumerate(stores)}
        self._recorded_of = np.array([number.get(id(s.recorded), -1) for s in self._streams])
        if any(store.fields != self.recorded_fields for store in self._recorded) or (
            self._recorded and (self._recorded_of < 0).any()
        ):
            raise ValueError("all streams of a program need records of the same fields, or none")

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, index: Any) -> Any:
        return self._streams[index]

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams)

    def lengths(self, rows: Int[np.ndarray, "E 2"]) -> Int[np.ndarray, "E 2"]:
        """Tokens of each row's encoder side, its prompt included, and of its targets."""
        lengths = self._lengths[self._first[rows[:, 0]] + rows[:, 1]]
        lengths[:, 0] += self.prompt_lengths[rows[:, 0]]
        return lengths

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest encoder side, its prompt included, and of the longest target."""
        longest = np.array([s.lengths.max(axis=0) for s in self._streams], np.int64)
        return int((longest[:, 0] + self.prompt_lengths).max()), int(longest[:, 1].max())

    @cached_property
    def _texts(self) -> Texts:
        """Every example of every source."""
        tokens = []
        for source in self._sources:
            for start in range(0, len(source), _READ_AT_ONCE):
                indices = range(start, min(start + _READ_AT_ONCE, len(source)))
                tokens += [np.concatenate(_flat(_read(source.examples, indices)))]
        counts = self._lengths.sum(axis=1)
        return Texts(np.concatenate(tokens), np.cumsum(counts) - counts, self._lengths)

    def load(self) -> None:
        """Read the tokens now, where they are held in memory, rather than at the first batch."""
        if self.in_memory:
            _ = self._texts

    def texts(self, rows: Int[np.ndarray, "E 2"]) -> Texts:
        """The tokens of the rows, prompts not included."""
        wanted = self._first[rows[:, 0]] + rows[:, 1]
        if self.in_memory:
            everything = self._texts
            return Texts(everything.tokens, everything.starts[wanted], everything.lengths[wanted])
        read: list[Tokens | None] = [None] * len(rows)
        for stream in np.unique(rows[:, 0]):
            places = np.flatnonzero(rows[:, 0] == stream)
            found = _read(self._streams[stream].examples, rows[places, 1].tolist())
            for place, example in zip(places, found, strict=True):
                read[place] = example
        counts = self._lengths[wanted].sum(axis=1)
        tokens = np.concatenate([np.empty(0, np.int32), *_flat(read)])
        return Texts(tokens, np.cumsum(counts) - counts, self._lengths[wanted])

    @property
    def recorded_fields(self) -> Fields:
        """What batches hold of each example beside its tokens."""
        return self._recorded[0].fields if self._recorded else {}

    def records(self, rows: Int[np.ndarray, "E 2"]) -> list[Record]:
        """What is recorded of each row; an example that several streams share is read once."""
        found: list[Record] = [{}] * len(rows)
        stores = self._recorded_of[rows[:, 0]]
        for number in np.unique(stores):
            places = np.flatnonzero(stores == number)
            indices, which = np.unique(rows[places, 1], return_inverse=True)
            read = self._recorded[number].read(indices.tolist())
            for place, i in zip(places.tolist(), which.tolist(), strict=True):
                found[place] = read[i]
        return found


def _read(examples: Any, indices: Sequence[int]) -> Sequence[Any]:
    if hasattr(examples, "read"):
        return examples.read(indices)
    return [examples[i] for i in indices]


def _flat(examples: Sequence[Any]) -> list[np.ndarray]:
    return [part.astype(np.int32) for e in examples for part in (e.inputs, e.targets)]
