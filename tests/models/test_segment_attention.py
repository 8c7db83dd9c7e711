"""Attention that passes over other segments' blocks, interpreted on CPU, against plain attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.models import attention_kernels, segment_attention
from mpt_jax.models.relative_position import relative_position_buckets
from mpt_jax.models.segment_attention import (
    SegmentBias,
    attend,
    bias_tiles,
    check_attention,
    is_fused,
    segment_blocks,
)
from mpt_jax.models.t5 import mask_bias, padding_or_segment_mask
from mpt_jax.models.t5_config import T5Config
from mpt_jax.partitioning import make_mesh

NEAR = dict(relpos_num_buckets=16, relpos_max_distance=20)  # so that far blocks share the last tile


def config_of(heads, head_dim, **more):
    return T5Config(32, 16, heads, head_dim, 24, 1, 1, **(NEAR | more))


def rows_of(lengths, length):
    """Segment ids of rows whose segments follow one another; what is left is padding."""
    ids = np.zeros((len(lengths), length), np.int32)
    for row, sizes in zip(ids, lengths, strict=True):
        row[: sum(sizes)] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    return ids


ROWS = {  # name -> segment ids, positions in a block, heads, their width
    "packed": (rows_of([[10, 19, 2, 9], [5, 4, 30, 8], [1] * 48], 48), 8, 4, 8),
    "padding, an empty row, no whole blocks": (rows_of([[10, 3], [], [41]], 42), 8, 3, 6),
    "a segment between others": (np.array([[1] * 9 + [2] * 9 + [1] * 9 + [0] * 9], np.int32), 6, 1, 8),
    "shorter than a block": (rows_of([[3, 2], [7]], 7), 128, 2, 6),
}  # fmt: skip


def inputs_of(ids, heads, head_dim, dtype):
    """Queries, keys, values, a weight for each result (0 for padding), and a bias table."""
    stream = np.random.RandomState(3)
    shape = (*ids.shape, heads * head_dim)
    arrays = [stream.standard_normal(shape) for _ in range(4)]
    arrays[0] *= 0.7
    arrays[3] = np.where((ids > 0)[:, :, None], arrays[3], 0.0)
    table = stream.standard_normal((heads, NEAR["relpos_num_buckets"]))
    return *(jnp.asarray(x, jnp.float32).astype(dtype) for x in arrays), jnp.asarray(
        table, jnp.float32
    ).astype(dtype)


def whole_bias(config, table, T):
    positions = jnp.arange(T, dtype=jnp.int32)
    buckets = relative_position_buckets(
        positions[None, :] - positions[:, None],
        bidirectional=True,
        num_buckets=config.relpos_num_buckets,
        max_distance=config.relpos_max_distance,
    )
    return jnp.take(table, buckets, axis=1)


def plain(query, key, value, ids, table, config):
    """As `t5_layers.Attention.attend` computes it."""
    B, T, _ = query.shape

    def heads_first(x):
        return x.reshape(B, T, config.num_heads, config.head_dim).transpose(0, 2, 1, 3)

    bias = whole_bias(config, table, T)[None] + mask_bias(
        padding_or_segment_mask(ids, ids), str(query.dtype)
    )
    logits = jnp.einsum("bhqk,bhsk->bhqs", heads_first(query), heads_first(key)) + bias
    weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(query.dtype)
    mixed = jnp.einsum("bhqs,bhsk->bhqk", weights, heads_first(value))
    return mixed.transpose(0, 2, 1, 3).reshape(B, T, -1)


def fused(query, key, value, ids, table, config, block):
    segments = segment_blocks(ids, block)
    tiles = bias_tiles(table, config, segments.ids.shape[1], block)
    return attend(query, key, value, SegmentBias(segments, tiles, None))


def result_and_gradients(attention, query, key, value, weight, run=jax.jit):
    """The mixed values where there is no padding, and the gradients: all in float32."""

    def loss(query, key, value):
        mixed = attention(query, key, value)
        return jnp.sum((mixed * weight).astype(jnp.float32)), mixed

    gradients, mixed = run(jax.grad(loss, (0, 1, 2), has_aux=True))(query, key, value)
    seen = jnp.any(weight != 0, axis=2, keepdims=True)
    found = (jnp.where(seen, mixed, jnp.zeros_like(mixed)), *gradients)
    return [np.asarray(x.astype(jnp.float32)) for x in found], mixed


@pytest.mark.parametrize("name", ROWS)
def test_results_and_gradients_are_those_of_plain_attention(name):
    ids, block, heads, head_dim = ROWS[name]
    config = config_of(heads, head_dim)
    *arrays, weight, table = inputs_of(ids, heads, head_dim, jnp.float32)
    ids = jnp.asarray(ids)
    expected, _ = result_and_gradients(
        lambda q, k, v: plain(q, k, v, ids, table, config), *arrays, weight
    )
    got, mixed = result_and_gradients(
        lambda q, k, v: fused(q, k, v, ids, table, config, block), *arrays, weight
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6 * max(1.0, np.abs(other).max()), rtol=0)
    assert not np.any(np.asarray(mixed)[np.asarray(ids) == 0])  # nor any NaN


def test_bfloat16_is_no_further_from_the_truth_than_plain_attention():
    ids, block, heads, head_dim = ROWS["packed"]
    exact, rounded = (config_of(heads, head_dim, dtype=dtype) for dtype in ("float32", "bfloat16"))
    inputs = inputs_of(ids, heads, head_dim, jnp.bfloat16)
    *arrays, weight, table = inputs
    *same, same_weight, same_table = (x.astype(jnp.float32) for x in inputs)
    ids = jnp.asarray(ids)
    truth, _ = result_and_gradients(
        lambda q, k, v: plain(q, k, v, ids, same_table, exact), *same, same_weight
    )
    # Operation by operation: a compiled program leaves out roundings, and which, is the platform's.
    usual, _ = result_and_gradients(
        lambda q, k, v: plain(q, k, v, ids, table, rounded), *arrays, weight, run=lambda f: f
    )
    got, _ = result_and_gradients(
        lambda q, k, v: fused(q, k, v, ids, table, rounded, block), *arrays, weight
    )
    for one, other, true in zip(got, usual, truth, strict=True):
        distances = [float(np.sqrt(np.mean((x - true) ** 2))) for x in (one, other)]
        assert 0 < distances[0] <= 1.05 * distances[1]


def test_blocks_that_share_a_segment_are_visited_and_others_are_not():
    stream = np.random.RandomState(0)
    for _ in range(30):
        rows = [stream.randint(1, 20, stream.randint(0, 6)) for _ in range(4)]
        length = max(1, *(sum(sizes) for sizes in rows)) + stream.randint(0, 9)
        ids, block = rows_of(rows, length), int(stream.randint(1, 9))
        segments = segment_blocks(jnp.asarray(ids), block)
        first, last = np.asarray(segments.first), np.asarray(segments.last)
        padded = np.pad(ids, [(0, 0), (0, -length % block)]).reshape(len(ids), -1, block)
        for b, blocks in enumerate(padded):
            for n, own in enumerate(blocks):
                shared = [k for k, other in enumerate(blocks) if set(own) & set(other) - {0}]
                assert list(range(first[b, n], last[b, n])) == shared


def test_every_shared_segment_is_visited_in_rows_of_any_order():
    ids = np.random.RandomState(1).randint(0, 5, (8, 30)).astype(np.int32)
    segments = segment_blocks(jnp.asarray(ids), 3)
    for b, blocks in enumerate(ids.reshape(8, 10, 3)):
        for n, own in enumerate(blocks):
            shared = {k for k, other in enumerate(blocks) if set(own) & set(other) - {0}}
            assert shared <= set(range(int(segments.first[b, n]), int(segments.last[b, n])))


@pytest.mark.parametrize(("blocks", "tiles"), [(1, 1), (2, 3), (9, 2 * 4 + 1)])
def test_tiles_are_the_whole_position_bias(blocks, tiles):
    config, block = config_of(2, 8), 7  # distances from 20 on are alike: three blocks, and one more
    table = jnp.asarray(np.random.RandomState(2).standard_normal((2, 16)), jnp.float32)
    found = np.asarray(bias_tiles(table, config, blocks, block))
    assert found.shape == (2, tiles, block, block)
    middle = tiles // 2
    for q in range(blocks):
        for k in range(blocks):
            expected = whole_bias(config, table, blocks * block)[
                :, q * block : (q + 1) * block, k * block : (k + 1) * block
            ]
            tile = found[:, np.clip(k - q + middle, 0, tiles - 1)]
            np.testing.assert_array_equal(tile, expected)


def test_a_position_bias_that_is_trained_is_refused():
    ids, block, heads, head_dim = ROWS["packed"]
    config = config_of(heads, head_dim)
    query, key, value, _, table = inputs_of(ids, heads, head_dim, jnp.float32)

    def loss(table):
        return jnp.sum(fused(query, key, value, jnp.asarray(ids), table, config, block))

    with pytest.raises(UserError, match="attention = 'plain'"):
        jax.grad(loss)(table)


def test_heads_fill_whole_vectors_or_are_all_there_are():
    of_a_step = functools.partial(attention_kernels.heads_of_a_step, offsets=5, block=128)
    assert of_a_step(32, 64, 1024, 2) == 4  # T5 v1.1 XL
    assert of_a_step(6, 64, 1024, 2) == 2  # small
    assert of_a_step(3, 64, 1024, 2) == 3
    assert of_a_step(128, 128, 1024, 2) == 4  # the 11 B of v1.0
    assert of_a_step(32, 64, 4096, 2) == 2  # long rows leave room for fewer
    assert of_a_step(32, 64, 16_384, 2) is None


# Where it is used.


@pytest.fixture
def as_if_on_tpus(monkeypatch):
    monkeypatch.setattr(segment_attention, "_platform", lambda mesh: "tpu")


AUTO = config_of(4, 64, attention="auto")
DEFAULTS = dict(rows=16, length=256, packed=True, dropping=False)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"packed": False}, False),  # short rows: one product does it
        ({"packed": False, "length": 512}, True),
        ({"dropping": True}, False),
        ({"rows": 6}, False),  # not the same number on each device
        ({"length": 20_000}, False),
    ],
)
def test_auto_on_tpus(changed, expected, as_if_on_tpus):
    assert is_fused(AUTO, make_mesh((4, 2)), **(DEFAULTS | changed)) is expected


def test_auto_is_plain_elsewhere_and_without_a_mesh(as_if_on_tpus, monkeypatch):
    assert not is_fused(AUTO, None, **DEFAULTS)
    monkeypatch.undo()
    assert not is_fused(AUTO, make_mesh(), **DEFAULTS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dropping": True}, "no dropout"),
        ({"rows": 6}, "6 rows do not divide over 4 devices"),
        ({"length": 20_000}, "rows of 20000 tokens do not fit"),
    ],
)
def test_what_is_asked_for_and_cannot_be_is_an_error(changed, message):
    wanted = dataclasses.replace(AUTO, attention="fused")
    assert is_fused(wanted, make_mesh((4, 2)), **(DEFAULTS | {"packed": False}))
    with pytest.raises(UserError, match=message):
        is_fused(wanted, make_mesh((4, 2)), **(DEFAULTS | changed))


def test_names_and_platforms_are_checked():
    check_attention("fused", "tpu")
    check_attention("auto", "gpu")
    with pytest.raises(UserError, match="runs on TPUs, but the platform is gpu"):
        check_attention("fused", "gpu")
    with pytest.raises(UserError, match="got 'flash', expected one of"):
        check_attention("flash", "tpu")
    with pytest.raises(ValueError, match="got 'flash', expected one of"):
        config_of(1, 8, attention="flash")
