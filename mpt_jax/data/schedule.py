"""The schedule: which examples are the rows of the batch of a step."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from jaxtyping import Int, Int32

from mpt_jax.data.order import SILVER, even_sequence, mix, name_key, shuffled, uniform
from mpt_jax.data.ragged import positions
from mpt_jax.data.sampler import Sampler
from mpt_jax.data.streams import Streams

_BLOCK = 256
_BLOCKS_KEPT = 4


class Schedule:
    """Rows as a pure function of (seed, step).

    Each stream keeps its own shuffled order and a cursor that wraps round into a newly shuffled
    pass, as in the paper's loader: so over a pass every example is seen exactly once, however the
    sampler's draws fall. The cursor at a step is the number of rows that the stream got before it.
    That number is summed up from the sampler's counts, which takes no examples: about a
    millisecond for each thousand steps skipped, once.

    `groups` divides the examples of each stream, by length say. At each step every stream then
    takes its rows from one of its groups only, the one at the same quantile u of its own division,
    where u runs evenly through [0, 1). Each group of each stream so gets its exact share of the
    steps, the sampler's shares stay as they are, and streams with different lengths are short
    together and long together. Each group has its own order and cursor.

    Args:
      groups: group number (0, 1, ...) of every example, stream after stream; none empty.
    """

    def __init__(
        self,
        streams: Streams,
        sampler: Sampler,
        seed: int,
        groups: Int[np.ndarray, " N"] | None = None,
    ):
        self.streams = streams
        self.sampler = sampler
        total = int(streams.sizes.sum())
        groups = np.zeros(total, np.int64) if groups is None else np.asarray(groups, np.int64)
        stream_of = np.repeat(np.arange(len(streams)), streams.sizes)
        most = int(groups.max()) + 1
        sizes = np.bincount(stream_of * most + groups, minlength=len(streams) * most)
        # Cells are (stream, group) pairs; a cell's examples lie together, in the stores' order.
        self._cell_sizes = sizes.astype(np.int64)
        self._cell_starts = np.cumsum(sizes) - sizes
        first = np.cumsum(streams.sizes) - streams.sizes
        by_cell = np.argsort(stream_of * most + groups, kind="stable")
        self._examples = by_cell - first[stream_of[by_cell]]
        self._edges = np.cumsum(sizes.reshape(-1, most), axis=1)[:, :-1] / streams.sizes[:, None]
        self._groups_per_stream = most
        names = np.array([name_key(s.order_name) for s in streams], np.uint64)
        self._keys = mix(seed, names[:, None], np.arange(most)).reshape(-1)
        self._start = float(uniform(seed, name_key("length groups"))[0])
        # A batch lists its rows member by member, so that members can be laid out over devices.
        self._stream_order = np.argsort(streams.members, kind="stable")
        self._lock = threading.Lock()
        self._totals = [np.zeros(len(self._cell_sizes), np.int64)]
        self._recent: OrderedDict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = OrderedDict()

    @property
    def examples_per_step(self) -> int:
        return self.sampler.rows_per_member * len(np.unique(self.streams.members))

    def rows(self, step: int) -> Int32[np.ndarray, "E 2"]:
        """(stream, example index) of each row, members in order, a fixed number at every step."""
        counts, cells, before = self._at(step)
        order = self._stream_order
        counts = counts[order]
        cell = np.repeat(cells[order], counts)
        counters = positions(before[cells[order]], counts)
        place = shuffled(counters, self._cell_sizes[cell], self._keys[cell])
        rows = np.empty((len(cell), 2), np.int32)
        rows[:, 0] = np.repeat(order, counts)
        rows[:, 1] = self._examples[self._cell_starts[cell] + place]
        return rows

    def _at(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At a step: rows and cell of each stream, and each cell's cursor."""
        block, within = divmod(step, _BLOCK)
        with self._lock:
            for earlier in range(len(self._totals) - 1, block):
                counts, cells = self._block(earlier)
                self._totals.append(self._totals[-1] + self._summed(counts, cells))
            if block not in self._recent:
                counts, cells = self._block(block)
                steps = np.arange(_BLOCK)[:, None]
                per_cell = np.zeros((_BLOCK, len(self._cell_sizes)), np.int64)
                per_cell[steps, cells] = counts
                before = np.cumsum(per_cell, axis=0) - per_cell + self._totals[block]
                self._recent[block] = (counts, cells, before)
                if len(self._recent) > _BLOCKS_KEPT:
                    self._recent.popitem(last=False)
            counts, cells, before = self._recent[block]
        return counts[within], cells[within], before[within]

    def _block(self, block: int) -> tuple[Int[np.ndarray, "N S"], Int[np.ndarray, "N S"]]:
        """Rows and cell of each stream at each step of a block."""
        steps = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
        quantile = even_sequence(self._start, steps, SILVER)
        group = (quantile[:, None, None] >= self._edges).sum(axis=-1)
        cells = group + self._groups_per_stream * np.arange(len(self.streams))
        return self.sampler.counts(steps), cells

    def _summed(self, counts: np.ndarray, cells: np.ndarray) -> Int[np.ndarray, " C"]:
        sums = np.bincount(cells.ravel(), counts.ravel(), minlength=len(self._cell_sizes))
        return sums.astype(np.int64)
