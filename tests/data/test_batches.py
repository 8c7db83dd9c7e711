import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.data.batches import bucketed_batches, packed_batches
from mpt_jax.data.buckets import Buckets, choose_buckets, length_groups
from mpt_jax.data.evaluation import evaluation_batches
from mpt_jax.data.packing import unpack
from mpt_jax.data.sampler import PaperSampler, ProportionalSampler
from mpt_jax.data.schedule import Schedule
from mpt_jax.data.streams import Stream, Streams
from mpt_jax.errors import UserError

VOCABULARY = 100


@dataclasses.dataclass
class Example:
    inputs: np.ndarray
    targets: np.ndarray


def examples(count, seed=0, longest=12):
    random = np.random.RandomState(seed)

    def ids(longest):
        return np.append(random.randint(3, VOCABULARY, random.randint(longest)), 1).astype(np.int32)

    return [Example(ids(longest), ids(5)) for _ in range(count)]


def streams_of(*members, **options):
    """One tuple of task sizes for each member; prompts have 2, 3 or 4 slots."""
    streams, first = [], VOCABULARY
    for m, sizes in enumerate(members):
        for k, size in enumerate(sizes):
            length = 2 + len(streams) % 3
            ids = np.arange(first, first + length, dtype=np.int32)
            first += length
            streams.append(Stream(examples(size, k), ids, m, k, f"task{k}"))
    return Streams(streams, **options)


def expected(streams, row):
    stream, example = streams[int(row[0])], streams[int(row[0])].examples[int(row[1])]
    return np.concatenate([stream.virtual_ids, example.inputs]), example.targets


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_rows_hold_prompt_text_and_shifted_targets():
    streams = streams_of((30, 20), (9,))
    batches = bucketed_batches(streams, ProportionalSampler(streams, 4), seed=0)
    for step in range(5):
        batch, rows = batches[step], batches.rows(step)
        B, T, L = batches.shape(step)
        assert len(rows) == B == 8
        for b, row in enumerate(rows):
            encoder, targets = expected(streams, row)
            t, n = len(encoder), len(targets)
            line = {key: value[b] for key, value in batch.items()}
            assert line["encoder_input_tokens"].tolist() == [*encoder] + [0] * (T - t)
            assert line["decoder_target_tokens"].tolist() == [*targets] + [0] * (L - n)
            assert line["decoder_input_tokens"].tolist() == [0, *targets[:-1]] + [0] * (L - n)
            assert line["decoder_loss_weights"].tolist() == [1] * n + [0] * (L - n)
            member, task = streams[int(row[0])].member, streams[int(row[0])].task
            assert line["member_ids"].tolist() == [member] * n + [0] * (L - n)
            assert line["task_ids"].tolist() == [task] * n + [0] * (L - n)
        assert {k: v.dtype for k, v in batch.items() if v.dtype != np.int32} == {
            "decoder_loss_weights": np.float32
        }
    assert batches.task_names(0) == ["task0", "task1"]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    rows=st.integers(1, 12),
    room=st.tuples(st.integers(17, 60), st.integers(5, 20)),
    step=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_packed_batches_hold_every_example_once(sizes, rows, room, step):
    streams = streams_of(tuple(sizes), (7,))
    sampler = ProportionalSampler(streams, rows)
    batches = packed_batches(streams, sampler, seed=5, T=room[0], L=room[1])
    batch = batches[step]
    B, T, L = batches.shape(step)
    assert (T, L) == room and batch["encoder_input_tokens"].shape == (B, T)
    assert B in batches.layout.row_counts

    unpadded = bucketed_batches(streams, sampler, seed=5)
    np.testing.assert_array_equal(batches.rows(step), unpadded.rows(step))
    wanted = sorted((*map(tuple, expected(streams, row)),) for row in batches.rows(step))
    segments = unpack(batch)
    assert sorted((tuple(s.encoder), tuple(s.targets)) for s in segments) == wanted
    for segment in segments:
        np.testing.assert_array_equal(segment.decoder_inputs, [0, *segment.targets[:-1]])

    for side in ("encoder", "decoder"):
        for ids in batch[f"{side}_segment_ids"]:
            real = ids[ids > 0]
            assert (np.diff(real) >= 0).all() and (np.diff(real) <= 1).all()  # contiguous, from 1
            assert (ids[: len(real)] > 0).all() and real.size in (0, len(real))
            assert real.size == 0 or real[0] == 1
    np.testing.assert_array_equal(
        batch["encoder_segment_ids"] > 0, batch["encoder_input_tokens"] > 0
    )
    np.testing.assert_array_equal(
        batch["decoder_segment_ids"] > 0, batch["decoder_loss_weights"] > 0
    )


def test_packing_fills_first_row_with_room_and_overflows_into_the_next_count():
    streams = streams_of((40,))
    sampler = ProportionalSampler(streams, 8)
    tight = packed_batches(streams, sampler, 0, T=30, L=20, row_counts=(1, 2, 3, 8))
    shapes = {tight.shape(step) for step in range(60)}
    assert shapes <= {(b, 30, 20) for b in (1, 2, 3, 8)} and len(shapes) > 1
    none = packed_batches(streams, sampler, 0, T=40, L=20, row_counts=(1,))
    with pytest.raises(UserError, match="at most 1 were allowed"):
        for step in range(60):
            none.shape(step)
    with pytest.raises(UserError, match="TASK_FEATURE_LENGTHS"):
        packed_batches(streams, sampler, 0, T=8, L=20)


def all_kinds(streams, **hosts):
    for grouped, kind in itertools.product((False, True), (PaperSampler, ProportionalSampler)):
        sampler = kind(streams, 6, seed=1)
        yield bucketed_batches(streams, sampler, 2, grouped=grouped, **hosts)
        if not grouped:
            yield packed_batches(streams, sampler, 2, T=40, L=20, row_multiple=2, **hosts)


def test_a_step_is_the_same_by_iterating_and_by_seeking():
    streams = streams_of((30, 40), (20, 10))
    for batches, fresh in zip(all_kinds(streams), all_kinds(streams), strict=True):
        iterated = list(batches.iterate(250, 262))
        assert len(iterated) == 12
        for step in (261, 250, 257):
            same(iterated[step - 250], fresh[step])
        same(next(fresh.iterate(260)), iterated[10])
        same(next(fresh.iterate(261, threads=0)), iterated[11])


def test_the_shards_of_two_hosts_are_the_batch_of_one():
    streams = streams_of((30, 40), (20, 10))
    one = all_kinds(streams, process_index=0, process_count=1)
    hosts = [all_kinds(streams, process_index=h, process_count=2) for h in (0, 1)]
    for whole, first, second in zip(one, *hosts, strict=True):
        for step in (0, 7, 1000):
            a, b = first[step], second[step]
            assert len(a["member_ids"]) == len(b["member_ids"])
            same({k: np.concatenate([a[k], b[k]]) for k in a}, whole[step])


def test_rows_that_hosts_cannot_share():
    streams = streams_of((30,))
    with pytest.raises(UserError, match="5 rows in a batch cannot be shared by 2 hosts"):
        bucketed_batches(streams, ProportionalSampler(streams, 5), 0, process_count=2)


def frequencies(batches, steps):
    sizes = batches.streams.sizes
    seen = [np.zeros(n, int) for n in sizes]
    for step in range(steps):
        for stream, example in batches.rows(step):
            seen[stream][example] += 1
    return seen


@pytest.mark.parametrize("kind", [PaperSampler, ProportionalSampler])
def test_every_example_of_a_task_is_seen_equally_often(kind):
    streams = streams_of((13, 40, 90))
    for seen in frequencies(bucketed_batches(streams, kind(streams, 8), 0), 600):
        assert seen.max() - seen.min() <= 1 < seen.max()


def test_grouping_keeps_the_frequencies_of_tasks_and_nearly_those_of_examples():
    streams = streams_of((60, 120), (40, 200))
    sampler = ProportionalSampler(streams, 8)
    buckets = Buckets.for_text(streams, (3, 6, 9, 12), (8,))
    grouped = bucketed_batches(streams, sampler, 0, buckets=buckets, grouped=True)
    plain = bucketed_batches(streams, sampler, 0, buckets=buckets)
    counts, plain_counts = frequencies(grouped, 1000), frequencies(plain, 1000)
    for seen, without in zip(counts, plain_counts, strict=True):
        assert seen.sum() == without.sum()
        assert np.abs(seen / seen.mean() - 1).max() < 0.12
    padded = np.mean([grouped.shape(step)[1] for step in range(200)])
    assert padded < 0.8 * np.mean([plain.shape(step)[1] for step in range(200)])


def test_groups_smaller_than_a_batch_are_joined():
    streams = streams_of((5,), (60,))
    sampler = ProportionalSampler(streams, 8)
    groups = length_groups(streams, sampler, Buckets.for_text(streams, (3, 6, 9, 12), (8,)))
    np.testing.assert_array_equal(groups[:5], 0)
    counts = np.bincount(groups[5:])
    assert len(counts) > 1 and counts.min() >= 8 and counts.sum() == 60


def test_a_member_sees_the_same_alone_and_in_a_fleet():
    fleet = streams_of((30, 40), (20,), (30, 40))
    alone = streams_of((30, 40))
    inside = Schedule(fleet, ProportionalSampler(fleet, 6), seed=9)
    outside = Schedule(alone, ProportionalSampler(alone, 6), seed=9)
    for step in (0, 3, 555):
        rows, wanted = inside.rows(step), outside.rows(step)
        np.testing.assert_array_equal(rows[:6], wanted)
        np.testing.assert_array_equal(rows[12:] - [[3, 0]], wanted)


def test_a_store_too_large_for_memory_gives_the_same_batches():
    small, large = (streams_of((30, 40), (9,), in_memory_tokens=n) for n in (10**6, 10))
    assert small.in_memory and not large.in_memory
    for step in (0, 5):
        same(*(bucketed_batches(s, ProportionalSampler(s, 4), 0)[step] for s in (small, large)))


def test_chosen_buckets_hold_everything_in_few_lengths():
    random = np.random.RandomState(0)
    ids = np.ones(300, np.int32)
    many = [Example(ids[: min(256, int(n) + 1)], ids[:1]) for n in random.lognormal(4, 0.7, 2000)]
    streams = Streams([Stream(many, np.arange(100, 120, dtype=np.int32), 0, 0, "task")])
    buckets = choose_buckets(streams, ProportionalSampler(streams, 16), grouped=True)
    assert buckets.decoder == (4,)
    assert 2 <= len(buckets.encoder) <= 4 and buckets.encoder[-1] == 280
    assert all(edge % 8 == 0 for edge in buckets.encoder)
    needed = 20 + np.array([len(e.inputs) for e in many])

    def cost(edges):
        return np.mean(np.asarray(edges)[np.searchsorted(edges, needed)])

    eights = range(40, 280, 8)
    best = min(cost([*middle, 280]) for middle in itertools.combinations(eights, 3))
    assert cost(buckets.encoder) <= 1.05 * best


def test_equal_lengths_need_one_bucket():
    ids = np.ones(9, np.int32)
    streams = Streams([Stream([Example(ids, ids[:2])] * 20, ids[:3] * 100, 0, 0, "task")])
    assert choose_buckets(streams, ProportionalSampler(streams, 4)) == Buckets((16,), (4,))


def test_a_bucket_too_small():
    streams = streams_of((30,))
    with pytest.raises(UserError, match="largest length buckets are 7 and 2"):
        bucketed_batches(streams, ProportionalSampler(streams, 4), 0, buckets=Buckets((7,), (2,)))
    with pytest.raises(UserError, match="ascending"):
        Buckets((7, 5), (2,))


def test_no_examples_and_no_streams():
    with pytest.raises(UserError, match="'task1' has no examples"):
        streams_of((3, 0))
    with pytest.raises(UserError, match="no task was given"):
        Streams([])


def test_evaluation_has_every_example_once_on_any_number_of_hosts():
    streams = streams_of((11, 3), (5,))
    buckets = choose_buckets(streams, ProportionalSampler(streams, 4))
    whole = list(evaluation_batches(streams, 6, buckets))
    assert len(whole) == 4
    rows = np.concatenate([rows for _, rows in whole])
    real = rows[rows[:, 0] >= 0]
    assert sorted(map(tuple, real)) == [(s, e) for s, n in enumerate((11, 3, 5)) for e in range(n)]
    for batch, rows in whole:
        for b, row in enumerate(rows):
            if row[0] < 0:
                assert batch["decoder_loss_weights"][b].sum() == 0
                assert batch["encoder_input_tokens"][b].any()
            else:
                encoder, targets = expected(streams, row)
                np.testing.assert_array_equal(
                    batch["encoder_input_tokens"][b][: len(encoder)], encoder
                )
                assert batch["decoder_loss_weights"][b].sum() == len(targets)
    halves = [
        evaluation_batches(streams, 6, buckets, process_index=h, process_count=2) for h in (0, 1)
    ]
    for (batch, rows), (a, a_rows), (b, b_rows) in zip(whole, *halves, strict=True):
        same({k: np.concatenate([a[k], b[k]]) for k in a}, batch)
        np.testing.assert_array_equal(np.concatenate([a_rows, b_rows]), rows)
