"""Arrays recorded for every example: on disk, and in batches at the examples' positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.data.batches import bucketed_batches, packed_batches
from mpt_jax.data.recorded import Field, RecordedStore, total_bytes, write_recorded
from mpt_jax.data.sampler import ProportionalSampler
from mpt_jax.data.streams import Stream, Streams

from .test_batches import streams_of

FIELDS = {
    "states": Field("encoder", (2, 3), jnp.dtype("bfloat16")),
    "marks": Field("decoder", (), np.dtype(np.int32)),
}


def records_of(lengths, offset=0):
    """Values that tell example and position."""
    found = []
    for index, (encoder, decoder) in enumerate(lengths.tolist()):
        first = offset + 16 * index
        states = np.arange(encoder)[:, None, None] + first + np.zeros((2, 3))
        marks = 1 + np.arange(decoder) + first
        found.append({"states": states.astype(FIELDS["states"].dtype), "marks": marks})
    return found


@pytest.fixture
def streams(tmp_path):
    """Two tasks of one member, and another member with the first of them."""
    one, two, other = streams_of((7, 5), (7,))
    stores = []
    for number, stream in enumerate((one, two)):
        lengths = stream.lengths + (2, 0)
        records = list(enumerate(records_of(lengths, 1000 * number)))
        write_recorded(tmp_path / str(number), FIELDS, lengths, reversed(records), {})
        stores.append(RecordedStore(tmp_path / str(number), FIELDS, lengths))
    return Streams(
        [
            Stream(examples, s.virtual_ids[:2], s.member, s.task, s.name, recorded=store)
            for s, examples, store in (
                (one, one.examples, stores[0]),
                (two, two.examples, stores[1]),
                (other, one.examples, stores[0]),
            )
        ]
    )


def expected_rows(streams, rows):
    """What each of the rows has, by a plain look into its store."""
    return [streams[int(s)].recorded.read([int(e)])[0] for s, e in rows]


def test_records_come_back_as_they_were_written(tmp_path):
    lengths = np.array([[3, 1], [1, 2], [5, 4]])
    records = records_of(lengths)
    order = [2, 0, 1]
    write_recorded(tmp_path / "s", FIELDS, lengths, ((i, records[i]) for i in order), {"a": 1})
    store = RecordedStore(tmp_path / "s", FIELDS, lengths)
    assert len(store) == 3
    for index, record in zip([1, 1, 2], store.read([1, 1, 2]), strict=True):
        for key, field in FIELDS.items():
            assert record[key].dtype == field.dtype
            np.testing.assert_array_equal(record[key], records[index][key])
    assert total_bytes(FIELDS, lengths) == 9 * 2 * 3 * 2 + 7 * 4


def test_a_store_that_is_there_stays(tmp_path):
    lengths = np.array([[1, 1]])
    first, second = records_of(lengths), records_of(lengths, offset=5)
    for records in (first, second):  # as of two processes at the same time
        write_recorded(tmp_path / "s", FIELDS, lengths, enumerate(records), {})
    (found,) = RecordedStore(tmp_path / "s", FIELDS, lengths).read([0])
    np.testing.assert_array_equal(found["marks"], first[0]["marks"])
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    lengths = np.array([[1, 1], [1, 1]])

    def failing():
        yield 0, records_of(lengths)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recorded(tmp_path / "s", FIELDS, lengths, failing(), {})
    assert list(tmp_path.iterdir()) == []


def test_another_store_is_refused(tmp_path):
    lengths = np.array([[3, 1], [1, 2]])
    write_recorded(tmp_path / "s", FIELDS, lengths, enumerate(records_of(lengths)), {})
    for fields, others in (({"marks": FIELDS["marks"]}, lengths), (FIELDS, lengths + 1)):
        with pytest.raises(Exception, match="is damaged: .* expected .*Delete that folder"):
            RecordedStore(tmp_path / "s", fields, others)


def test_padded_batches_hold_each_rows_own(streams):
    batches = bucketed_batches(streams, ProportionalSampler(streams, 4), seed=0)
    for step in range(4):
        batch, rows = batches[step], batches.rows(step)
        B, T, L = batches.shape(step)
        assert batch["states"].shape == (B, T, 2, 3) and batch["marks"].shape == (B, L)
        assert batch["states"].dtype == FIELDS["states"].dtype
        for b, record in enumerate(expected_rows(streams, rows)):
            for key, values in record.items():
                np.testing.assert_array_equal(batch[key][b, : len(values)], values)
                assert not batch[key][b, len(values) :].any()
        text = batch["decoder_loss_weights"] > 0
        np.testing.assert_array_equal(batch["marks"] > 0, text)


def test_packed_batches_hold_them_segment_by_segment(streams):
    sampler = ProportionalSampler(streams, 5)
    batches = packed_batches(streams, sampler, seed=3, T=40, L=16, row_multiple=2)
    batch, rows = batches[1], batches.rows(1)
    segments = [
        batch["marks"][row][batch["decoder_segment_ids"][row] == number]
        for row in range(len(batch["marks"]))
        for number in range(1, batch["decoder_segment_ids"][row].max() + 1)
    ]
    wanted = [record["marks"].tolist() for record in expected_rows(streams, rows)]
    assert sorted(s.tolist() for s in segments) == sorted(wanted)
    assert not batch["states"][batch["encoder_segment_ids"] == 0].any()

    hosts = [
        packed_batches(
            streams, sampler, seed=3, T=40, L=16, row_multiple=2, process_index=h, process_count=2
        )[1]
        for h in (0, 1)
    ]
    for key in FIELDS:
        np.testing.assert_array_equal(np.concatenate([host[key] for host in hosts]), batch[key])


def test_an_example_of_several_members_is_read_once(streams, monkeypatch):
    asked = []
    read = RecordedStore.read
    monkeypatch.setattr(
        RecordedStore, "read", lambda self, indices: asked.append(indices) or read(self, indices)
    )
    streams.records(np.array([[0, 3], [2, 3], [0, 1], [1, 3]]))
    assert asked == [[1, 3], [3]]


def test_streams_with_and_without_records_do_not_mix(streams):
    with pytest.raises(ValueError, match="need records"):
        Streams([streams[0], Stream(streams[1].examples, streams[1].virtual_ids, 0, 1, "x")])
