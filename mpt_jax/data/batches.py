"""Batches: the batch of a step as a pure function of (seed, step, host), served ahead by Grain."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int

from mpt_jax.data.buckets import Buckets, choose_buckets, length_groups
from mpt_jax.data.collate import Batch, Placement, collate
from mpt_jax.data.packing import choose_row_counts, first_fit
from mpt_jax.data.sampler import Sampler
from mpt_jax.data.schedule import Schedule
from mpt_jax.data.streams import Streams
from mpt_jax.errors import UserError

_STEPS_LOOKED_AT = 32


@runtime_checkable
class Layout(Protocol):
    """How examples become the rows of a batch."""

    def place(self, lengths: Int[np.ndarray, "E 2"]) -> Placement:
        """Places for examples of these encoder (prompt included) and decoder lengths."""
        ...


@dataclasses.dataclass(frozen=True)
class Bucketed:
    """One example a row, padded to the smallest bucket that holds the longest row."""

    buckets: Buckets

    def place(self, lengths: Int[np.ndarray, "E 2"]) -> Placement:
        return Placement.one_a_row(len(lengths), (len(lengths), *self.buckets.shape(lengths)))


@dataclasses.dataclass(frozen=True)
class Packed:
    """Several examples a row of T encoder and L decoder positions (first fit).

    Attributes:
      row_counts: the numbers of rows that a batch may have, ascending; the smallest that suffices
        is taken, and unused rows are padding.
    """

    T: int
    L: int
    row_counts: tuple[int, ...]

    def place(self, lengths: Int[np.ndarray, "E 2"]) -> Placement:
        placement, used = first_fit(lengths, self.T, self.L)
        if used > self.row_counts[-1]:
            raise UserError(
                f"The examples of a step fill {used} packed rows, but at most "
                f"{self.row_counts[-1]} were allowed: allow more, or pack into longer rows."
            )
        B = self.row_counts[np.searchsorted(self.row_counts, used)]
        return dataclasses.replace(placement, shape=(B, self.T, self.L))


@dataclasses.dataclass(frozen=True)
class Batches:
    """`batches[step]` is this host's part of the batch of a step; nothing else depends on the host.

    Host h of n builds rows h * B / n ... (h + 1) * B / n - 1 of the B rows, and reads only their
    examples. Shapes follow from the lengths of all rows, so all hosts agree on them.
    """

    schedule: Schedule
    layout: Layout
    process_index: int = 0
    process_count: int = 1

    @property
    def streams(self) -> Streams:
        return self.schedule.streams

    def rows(self, step: int) -> Int[np.ndarray, "E 2"]:
        """(stream, example index) of all examples of a step, of all hosts."""
        return self.schedule.rows(step)

    def task_names(self, step: int) -> list[str]:
        """Names of the tasks in the batch of a step, for messages."""
        return sorted({self.streams[i].name for i in np.unique(self.rows(step)[:, 0])})

    def shape(self, step: int) -> tuple[int, int, int]:
        """(B, T, L) of the batch of a step, all hosts together."""
        return self.layout.place(self.streams.lengths(self.rows(step))).shape

    def __getitem__(self, step: int) -> Batch:
        rows = self.rows(step)
        placement = self.layout.place(self.streams.lengths(rows))
        return collate(self.streams, rows, placement, (self.process_index, self.process_count))

    def iterate(
        self, start: int = 0, stop: int | None = None, *, threads: int = 2, ahead: int = 4
    ) -> Iterator[Batch]:
        """Batches of the steps start ... stop - 1 (without end by default), built in advance.

        Args:
          threads: that build batches; 0 builds each in the caller's.
          ahead: batches held ready.
        """
        self.streams.load()
        steps = grain.MapDataset.range(start, sys.maxsize if stop is None else stop)
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=ahead if threads else 0
        )
        return iter(steps.map(self.__getitem__).to_iter_dataset(options))


def bucketed_batches(
    streams: Streams,
    sampler: Sampler,
    seed: int,
    *,
    buckets: Buckets | None = None,
    grouped: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Batches of one example a row in a few lengths.

    Args:
      buckets: by default chosen from the lengths (`choose_buckets`).
      grouped: whether the examples of a batch are of like length (see `Schedule` and
        `length_groups`), which saves most of the padding where lengths differ widely. The
        frequencies of tasks and examples stay as they are.

    Raises:
      UserError: an example longer than the last bucket, or rows that the hosts cannot share.
    """
    buckets = buckets or choose_buckets(streams, sampler, grouped=grouped)
    buckets.check(streams)
    groups = length_groups(streams, sampler, buckets) if grouped else None
    schedule = Schedule(streams, sampler, seed, groups)
    _check_rows(schedule.examples_per_step, process_count)
    return Batches(schedule, Bucketed(buckets), process_index, process_count)


def packed_batches(
    streams: Streams,
    sampler: Sampler,
    seed: int,
    *,
    T: int,
    L: int,
    row_counts: tuple[int, ...] | None = None,
    row_multiple: int = 1,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Batches of packed rows; a step has the same examples as with `bucketed_batches` ungrouped.

    Args:
      row_counts: by default chosen by a look at the first steps (`choose_row_counts`).
      row_multiple: what the number of rows must divide by, such as the devices that share them.

    Raises:
      UserError: an example longer than a row, or rows that the hosts cannot share.
    """
    schedule = Schedule(streams, sampler, seed)
    first_fit(np.array([streams.longest]), T, L)  # says it if the longest example does not fit
    if row_counts is None:
        looked_at = [streams.lengths(schedule.rows(step)) for step in range(_STEPS_LOOKED_AT)]
        used = max(first_fit(lengths, T, L)[1] for lengths in looked_at)
        multiple = int(np.lcm(row_multiple, process_count))
        row_counts = choose_row_counts(used, schedule.examples_per_step, multiple)
    for count in row_counts:
        _check_rows(count, process_count)
    layout = Packed(T, L, tuple(sorted(row_counts)))
    return Batches(schedule, layout, process_index, process_count)


def _check_rows(rows: int, process_count: int) -> None:
    if rows % process_count:
        raise UserError(
            f"{rows} rows in a batch cannot be shared by {process_count} hosts: choose a "
            "BATCH_SIZE that divides by their number."
        )
