"""Collating: examples with their prompts, placed into the arrays of a batch.

Batch keys are T5X's, with the fleet's beside them; B rows, T encoder and L decoder positions:
`encoder_input_tokens` [B, T] (prompt as virtual ids, then text), `decoder_input_tokens` [B, L]
(targets shifted right behind a 0), `decoder_target_tokens` [B, L], `decoder_loss_weights` [B, L]
(1 on targets, 0 on padding), `member_ids` and `task_ids` [B, L] (0 on padding). Packed batches have
`encoder_segment_ids` [B, T] and `decoder_segment_ids` [B, L] besides (from 1; 0 on padding). What the streams
have recorded of the examples stands under its own keys, at their positions, with zeros elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from mpt_jax.data.ragged import positions
from mpt_jax.data.streams import Streams

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where in a batch of shape (B, T, L) each of E examples lies.

    Attributes:
      row: batch row of each example.
      encoder_start, decoder_start: first position of each in its row.
      segment: number of each within its row, from 1; None where each example has its own row.
    """

    shape: tuple[int, int, int]
    row: Int[np.ndarray, " E"]
    encoder_start: Int[np.ndarray, " E"]
    decoder_start: Int[np.ndarray, " E"]
    segment: Int[np.ndarray, " E"] | None = None

    @classmethod
    def one_a_row(cls, examples: int, shape: tuple[int, int, int]) -> Placement:
        zeros = np.zeros(examples, np.int64)
        return cls(shape, np.arange(examples), zeros, zeros)


def collate(
    streams: Streams,
    rows: Int[np.ndarray, "E 2"],
    placement: Placement,
    part: tuple[int, int] = (0, 1),
) -> Batch:
    """The batch, or the part (i, n) of its rows: the i-th of n equal runs of rows.

    Only the examples in that part are read.
    """
    (B, T, L), (index, count) = placement.shape, part
    assert B % count == 0, f"{B} rows cannot be divided into {count} equal parts"
    B //= count
    own = np.flatnonzero(placement.row // B == index)
    rows = rows[own]
    row = placement.row[own] - index * B
    stream = rows[:, 0]
    tokens, starts, lengths = streams.texts(rows)
    prompt, (inputs, targets) = streams.prompt_lengths[stream], lengths.T
    encoder_at = row * T + placement.encoder_start[own]
    decoder_at = row * L + placement.decoder_start[own]

    encoder = np.zeros(B * T, np.int32)
    virtual = positions(streams.virtual_starts[stream], prompt)
    encoder[positions(encoder_at, prompt)] = streams.virtual_ids[virtual]
    encoder[positions(encoder_at + prompt, inputs)] = tokens[positions(starts, inputs)]

    decoder = positions(decoder_at, targets)
    target_tokens = np.zeros(B * L, np.int32)
    target_tokens[decoder] = tokens[positions(starts + inputs, targets)]
    shifted = np.zeros(B * L, np.int32)
    fed_back = np.maximum(targets - 1, 0)  # the last target is never an input
    shifted[positions(decoder_at + 1, fed_back)] = tokens[positions(starts + inputs, fed_back)]

    def spread(values: np.ndarray, at: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
        flat = np.zeros(size, np.int32)
        flat[at] = np.repeat(values, lengths)
        return flat

    weights = np.zeros(B * L, np.float32)
    weights[decoder] = 1
    batch = {
        "encoder_input_tokens": encoder.reshape(B, T),
        "decoder_input_tokens": shifted.reshape(B, L),
        "decoder_target_tokens": target_tokens.reshape(B, L),
        "decoder_loss_weights": weights.reshape(B, L),
        "member_ids": spread(streams.members[stream], decoder, targets, B * L).reshape(B, L),
        "task_ids": spread(streams.tasks[stream], decoder, targets, B * L).reshape(B, L),
    }
    if placement.segment is not None:
        segment, whole = placement.segment[own], prompt + inputs
        everywhere = positions(encoder_at, whole)
        batch["encoder_segment_ids"] = spread(segment, everywhere, whole, B * T).reshape(B, T)
        batch["decoder_segment_ids"] = spread(segment, decoder, targets, B * L).reshape(B, L)
    if streams.recorded_fields:
        sides = {"encoder": (T, encoder_at), "decoder": (L, decoder_at)}
        batch |= _recorded(streams, rows, B, sides)
    return batch


def _recorded(
    streams: Streams,
    rows: Int[np.ndarray, "E 2"],
    B: int,
    sides: Mapping[str, tuple[int, Int[np.ndarray, " E"]]],
) -> Batch:
    """What is recorded of the rows, at their positions.

    Args:
      sides: positions of a batch row on each side, and where among all of them each example starts.
    """
    records, batch = streams.records(rows), {}
    for key, field in streams.recorded_fields.items():
        length, starts = sides[field.side]
        flat = np.zeros((B * length, *field.shape), field.dtype)
        for start, record in zip(starts.tolist(), records, strict=True):
            flat[start : start + len(record[key])] = record[key]
        batch[key] = flat.reshape(B, length, *field.shape)
    return batch
