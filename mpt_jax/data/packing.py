"""Packing: several examples, each behind its own prompt, share a row of fixed length."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mpt_jax.data.collate import Batch, Placement
from mpt_jax.errors import UserError


def first_fit(lengths: Int[np.ndarray, "E 2"], T: int, L: int) -> tuple[Placement, int]:
    """Place each example, in order, in the first row with room for both of its sides.

    Returns:
      The placement, whose B is the number of rows in use, and that number.

    Raises:
      UserError: an example alone is longer than a row.
    """
    longest = lengths.max(axis=0, initial=0)
    if longest[0] > T or longest[1] > L:
        raise UserError(
            f"An example needs {longest[0]} encoder positions (prompt included) and {longest[1]} "
            f"decoder positions, but packed rows have {T} and {L}: pack into longer rows or lower "
            "TASK_FEATURE_LENGTHS."
        )
    E, limit, rows = len(lengths), np.array([T, L]), 0
    used, segments = np.zeros((E, 2), np.int64), np.zeros(E, np.int64)  # of each row
    row, start, segment = np.zeros(E, np.int64), np.zeros((E, 2), np.int64), np.zeros(E, np.int64)
    for e, needed in enumerate(lengths):
        fits = (used[: rows + 1] + needed <= limit).all(axis=1)
        r = int(fits.argmax())
        row[e], start[e], segment[e] = r, used[r], segments[r] + 1
        used[r] += needed
        segments[r] += 1
        rows = max(rows, r + 1)
    return Placement((rows, T, L), row, start[:, 0], start[:, 1], segment), rows


def choose_row_counts(most_used: int, examples: int, multiple: int) -> tuple[int, ...]:
    """The few numbers of rows that packed batches may have, ascending.

    The smallest holds `most_used` rows, what some batches looked at need at most; the next a
    quarter more; the last one row for each example, which always suffices. All are multiples of
    `multiple`, the number of devices and hosts that share the rows.
    """
    wanted = {min(most_used, examples), min(math.ceil(1.25 * most_used), examples), examples}
    return tuple(sorted({-(-n // multiple) * multiple for n in wanted}))


class Segment(NamedTuple):
    """One example as it lies in a batch; `encoder` begins with its prompt."""

    encoder: Int[np.ndarray, " t"]
    decoder_inputs: Int[np.ndarray, " l"]
    targets: Int[np.ndarray, " l"]


def unpack(batch: Batch) -> list[Segment]:
    """The examples of a packed batch, row after row; what a look into a batch wants."""
    segments = []
    for b, encoder_ids in enumerate(batch["encoder_segment_ids"]):
        decoder_ids = batch["decoder_segment_ids"][b]
        for s in range(1, encoder_ids.max(initial=0) + 1):
            segments.append(
                Segment(
                    batch["encoder_input_tokens"][b, encoder_ids == s],
                    batch["decoder_input_tokens"][b, decoder_ids == s],
                    batch["decoder_target_tokens"][b, decoder_ids == s],
                )
            )
    return segments
