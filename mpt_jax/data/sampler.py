"""Samplers: how many rows of the batch of a step belong to each stream.

A sampler answers for many steps at once and holds no state. Which examples the rows are, is the
schedule's business (`schedule.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from mpt_jax.data.order import GOLDEN, even_sequence, mix, name_key, uniform
from mpt_jax.data.streams import Streams
from mpt_jax.errors import UserError

EXAMPLES_CAP = 2**18
"""T5's cap of examples-proportional mixing: a task counts as no larger than this."""


@runtime_checkable
class Sampler(Protocol):
    """Every member gets `rows_per_member` rows at every step, divided among its streams.

    Attributes:
      rates: the expected fraction of its member's rows that a stream gets.
    """

    rows_per_member: int
    rates: Float[np.ndarray, " S"]

    def counts(self, steps: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N S"]:
        """Rows of each stream at each of the steps."""
        ...


class ProportionalSampler:
    """Every step divides a member's rows among all its streams by their rates.

    With one stream a member this is the sampler of a fleet: each member gets its rows. With
    several it is plain multitask mixing: in every batch a stream has its share of rows rounded
    down or up, and exactly its share over time; a share below one row is a row now and then.

    Args:
      rates: of each stream, normalised within each member; by default examples-proportional with
        the cap `EXAMPLES_CAP`.
      seed: changes which steps round up.
    """

    def __init__(
        self,
        streams: Streams,
        rows_per_member: int,
        rates: Sequence[float] | None = None,
        seed: int = 0,
    ):
        self.rows_per_member = _positive(rows_per_member)
        self.rates = normalised_rates(streams, rates)
        self._groups = [np.flatnonzero(streams.members == m) for m in np.unique(streams.members)]
        # The start is a hash of the member's own streams, so that it is the same outside a fleet.
        self._starts = [
            float(uniform(seed, *[name_key(streams[i].order_name) for i in group])[0])
            for group in self._groups
        ]

    def counts(self, steps: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N S"]:
        counts = np.empty((len(steps), len(self.rates)), np.int64)
        for group, start in zip(self._groups, self._starts, strict=True):
            edges = self.rows_per_member * np.cumsum(self.rates[group])[:-1]
            # Systematic sampling: one comb of unit spacing, moved at each step; a stream gets the
            # teeth between its edges.
            moved = even_sequence(start, steps, GOLDEN)[:, None]
            passed = np.ceil(edges - moved).clip(0, self.rows_per_member).astype(np.int64)
            counts[:, group] = np.diff(passed, prepend=0, append=self.rows_per_member)
        return counts


class PaperSampler:
    """Stage 1 of MPT: a stochastic number of tasks in a batch (Wang et al. 2023, section 3.2).

    Each step draws the number of draws uniformly from {2 ... K} (1 where K = 1), draws that many
    tasks with replacement by the rates, and divides the rows equally among the draws; the
    remainder goes to one draw at random. There are never more draws than rows. Members with the same
    tasks (variants of a distillation) get the same draws.

    Args:
      rates: of each stream, normalised within each member; by default examples-proportional with
        the cap `EXAMPLES_CAP`.
    """

    def __init__(
        self,
        streams: Streams,
        rows_per_member: int,
        rates: Sequence[float] | None = None,
        seed: int = 0,
    ):
        self.rows_per_member = _positive(rows_per_member)
        self.rates = normalised_rates(streams, rates)
        self._seed = int(mix(seed, name_key("paper sampler"))[0])
        members = np.unique(streams.members)
        self._groups = [
            sorted(np.flatnonzero(streams.members == m), key=lambda i: streams.tasks[i])
            for m in members
        ]

    def counts(self, steps: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N S"]:
        counts = np.zeros((len(steps), len(self.rates)), np.int64)
        by_size: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for group in self._groups:
            if len(group) not in by_size:
                by_size[len(group)] = self._draws(steps, len(group))
            draw, per_draw = by_size[len(group)]
            edges = np.cumsum(self.rates[group])[:-1]
            drawn = np.asarray(group)[np.searchsorted(edges, draw, side="right")]
            which_step = np.broadcast_to(np.arange(len(steps))[:, None], draw.shape)
            np.add.at(counts, (which_step, drawn), per_draw)
        return counts

    def _draws(
        self, steps: Int[np.ndarray, " N"], tasks: int
    ) -> tuple[Float[np.ndarray, "N K"], Int[np.ndarray, "N K"]]:
        """Up to K draws from [0, 1) at each step, for members of K tasks, and the rows of each."""
        fewest = min(2, tasks)
        draws = fewest + (mix(self._seed, steps, 0) % np.uint64(tasks - fewest + 1)).astype(
            np.int64
        )
        draws = np.minimum(draws, self.rows_per_member)
        share, remainder = np.divmod(self.rows_per_member, draws)
        lucky = (mix(self._seed, steps, 1) % draws.astype(np.uint64)).astype(np.int64)
        places = np.arange(tasks)
        per_draw = share[:, None] * (places < draws[:, None])
        per_draw += remainder[:, None] * (places == lucky[:, None])
        return uniform(self._seed, steps[:, None], 2 + places), per_draw


def normalised_rates(
    streams: Streams, rates: Sequence[float] | None = None
) -> Float[np.ndarray, " S"]:
    """Rates that sum to 1 within each member; examples-proportional with a cap by default.

    Raises:
      UserError: not one positive rate for each stream.
    """
    if rates is None:
        rates = np.minimum(streams.sizes, EXAMPLES_CAP).tolist()
    given = np.asarray(rates, np.float64)
    if given.shape != (len(streams),) or not (given > 0).all() or not np.isfinite(given).all():
        raise UserError(
            f"Expected one mixing rate above 0 for each of {[s.name for s in streams]}, got "
            f"{given.tolist()}."
        )
    totals = np.bincount(streams.members, given)
    return given / totals[streams.members]


def _positive(rows: int) -> int:
    if rows < 1:
        raise UserError(
            f"A batch needs at least 1 row for each member, got {rows}: check BATCH_SIZE."
        )
    return rows
