"""Length buckets: the few lengths that batches are padded to, one compiled program for each."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from mpt_jax.data.sampler import Sampler
from mpt_jax.data.streams import Streams
from mpt_jax.errors import UserError

_GOOD_ENOUGH = 1.05


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Encoder lengths T (prompt included) and decoder lengths L, both ascending."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, edges in (("encoder", self.encoder), ("decoder", self.decoder)):
            if not edges or list(edges) != sorted(set(edges)) or edges[0] < 1:
                raise UserError(f"Expected ascending lengths as {name} buckets, got {edges}.")

    @classmethod
    def for_text(
        cls, streams: Streams, inputs: tuple[int, ...], targets: tuple[int, ...]
    ) -> Buckets:
        """Buckets that hold so many tokens of text behind the longest of the prompts.

        Raises:
          UserError: an example is longer than the last bucket.
        """
        longest_prompt = int(streams.prompt_lengths.max())
        buckets = cls(tuple(longest_prompt + n for n in inputs), tuple(targets))
        buckets.check(streams)
        return buckets

    def check(self, streams: Streams) -> None:
        """Raise a UserError if an example is longer than the last bucket."""
        needed, largest = streams.longest, (self.encoder[-1], self.decoder[-1])
        if needed[0] > largest[0] or needed[1] > largest[1]:
            raise UserError(
                f"The longest example needs {needed[0]} encoder positions (prompt included) and "
                f"{needed[1]} decoder positions, but the largest length buckets are {largest[0]} "
                f"and {largest[1]}: add larger buckets or lower TASK_FEATURE_LENGTHS."
            )

    def shape(self, lengths: Int[np.ndarray, "E 2"]) -> tuple[int, int]:
        """The smallest (T, L) that hold all of these encoder and decoder lengths."""
        T, L = lengths.max(axis=0)
        return (
            self.encoder[np.searchsorted(self.encoder, T)],
            self.decoder[np.searchsorted(self.decoder, L)],
        )


def choose_buckets(
    streams: Streams, sampler: Sampler, *, grouped: bool = False, most: tuple[int, int] = (4, 2)
) -> Buckets:
    """Buckets that waste little padding on the batches that `sampler` makes of `streams`.

    Lengths are multiples of 8 (encoder) and 4 (decoder). Of at most `most` buckets so few are
    taken as come within 5 % of the padded tokens of the best `most`, since each costs a compiled
    program.

    Args:
      grouped: whether batches are grouped by encoder length (`length_groups`); otherwise a batch
        is as long as its longest row, so short buckets are worth less the larger the batch.
    """
    rows = sampler.rows_per_member * len(np.unique(streams.members))
    everything = all_rows(streams)
    lengths = streams.lengths(everything)
    share = (sampler.rates / streams.sizes)[everything[:, 0]]
    share /= share.sum()
    encoder = _edges(lengths[:, 0], share, 1 if grouped else rows, most[0], multiple=8)
    decoder = _edges(lengths[:, 1], share, rows, most[1], multiple=4)
    return Buckets(encoder, decoder)


def length_groups(streams: Streams, sampler: Sampler, buckets: Buckets) -> Int[np.ndarray, " N"]:
    """The group of every example, for a `Schedule` whose batches each need one bucket only.

    A stream's group is its examples of one encoder bucket; a group with fewer examples than the
    stream can have rows in a batch joins the next longer one, so that a batch need not repeat its
    examples. Few-shot streams so stay whole, or nearly.
    """
    everything = all_rows(streams)
    bucket = np.searchsorted(buckets.encoder, streams.lengths(everything)[:, 0])
    groups = np.empty(len(everything), np.int64)
    start = 0
    for size in streams.sizes:
        own = bucket[start : start + size]
        counts = np.bincount(own, minlength=len(buckets.encoder))
        number, held, group_of = 0, 0, np.zeros(len(counts), np.int64)
        for b, count in enumerate(counts):
            if held >= sampler.rows_per_member:
                number, held = number + 1, 0
            group_of[b] = number
            held += count
        if held < sampler.rows_per_member:  # the longest are too few: they join the group below
            group_of[group_of == number] = max(number - 1, 0)
        groups[start : start + size] = group_of[own]
        start += size
    return groups


def all_rows(streams: Streams) -> Int[np.ndarray, "N 2"]:
    """(stream, example index) of every example, in order."""
    stream = np.repeat(np.arange(len(streams)), streams.sizes)
    first = np.cumsum(streams.sizes) - streams.sizes
    return np.stack([stream, np.arange(len(stream)) - first[stream]], axis=1)


def _edges(
    lengths: Int[np.ndarray, " N"],
    share: Float[np.ndarray, " N"],
    rows: int,
    most: int,
    multiple: int,
) -> tuple[int, ...]:
    """The best edges for batches as long as the longest of `rows` rows drawn by `share`."""
    rounded = -(-np.maximum(lengths, 1) // multiple) * multiple
    candidates, which = np.unique(rounded, return_inverse=True)
    below = np.cumsum(np.bincount(which, share)) ** rows
    chance = np.diff(below / below[-1], prepend=0)
    # best[j]: the least padded length of what needs the candidates up to j, which is an edge;
    # one row of the table for each number of edges, each with its way back.
    reach = np.concatenate([[0], np.cumsum(chance)])
    best = candidates * reach[1:]
    costs, back = [best[-1]], []
    for _ in range(min(most, len(candidates)) - 1):
        # via[i, j]: the edge before candidate j is candidate i.
        via = best[:, None] + candidates[None, :] * (reach[None, 1:] - reach[1:, None])
        via = np.where(np.arange(len(best))[:, None] < np.arange(len(best)), via, np.inf)
        back.append(via.argmin(axis=0))
        best = via.min(axis=0)
        costs.append(best[-1])
    number = next(n for n, cost in enumerate(costs) if cost <= _GOOD_ENOUGH * min(costs))
    chosen = [len(candidates) - 1]
    for way in reversed(back[:number]):
        chosen.append(int(way[chosen[-1]]))
    return tuple(int(candidates[i]) for i in reversed(chosen))
