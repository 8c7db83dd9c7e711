"""Evaluation batches: every example of some streams once, in batches of few shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mpt_jax.data.buckets import Buckets, all_rows
from mpt_jax.data.collate import Batch, Placement, collate
from mpt_jax.data.streams import Streams
from mpt_jax.errors import UserError


class EvaluationBatch(NamedTuple):
    """A batch of this host, and which (stream, example index) each of its rows is.

    Rows that only fill up the last batch have loss weight 0 and are (-1, -1) in `rows`; their
    tokens are those of the batch's first example, so that they decode as any other.
    """

    batch: Batch
    rows: Int[np.ndarray, "B 2"]


def evaluation_batches(
    streams: Streams,
    batch_size: int,
    buckets: Buckets,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[EvaluationBatch]:
    """All examples, once each, in batches of `batch_size` rows over all hosts.

    The order is fixed: by length bucket, then stream, then example. Every host gets as many
    batches, of the same shapes.

    Raises:
      UserError: an example longer than the last bucket, or rows that the hosts cannot share.
    """
    buckets.check(streams)
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"An evaluation batch of {batch_size} rows cannot be shared by {process_count} hosts: "
            "choose a multiple of their number."
        )
    rows = all_rows(streams)
    lengths = streams.lengths(rows)
    by_length = np.lexsort(
        (
            np.searchsorted(buckets.decoder, lengths[:, 1]),
            np.searchsorted(buckets.encoder, lengths[:, 0]),
        )
    )  # stable, so streams and examples stay in order within a bucket
    rows = rows[by_length]
    own = batch_size // process_count
    own_rows = slice(process_index * own, (process_index + 1) * own)
    for start in range(0, len(rows), batch_size):
        real = rows[start : start + batch_size]
        missing = batch_size - len(real)
        filled = np.concatenate([real, np.repeat(real[:1], missing, axis=0)])
        T, L = buckets.shape(streams.lengths(real))
        placement = Placement.one_a_row(batch_size, (batch_size, T, L))
        batch = collate(streams, filled, placement, (process_index, process_count))
        marked = np.concatenate([real, np.full((missing, 2), -1)])[own_rows]
        batch["decoder_loss_weights"][marked[:, 0] < 0] = 0
        yield EvaluationBatch(batch, marked)
