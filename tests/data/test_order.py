import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.data.order import GOLDEN, SILVER, even_sequence, mix, name_key, permuted, shuffled


@given(size=st.integers(1, 300), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permuted_is_a_permutation(size, key):
    places = np.arange(size)
    image = permuted(places, np.full(size, size), np.full(size, key, np.uint64))
    np.testing.assert_array_equal(np.sort(image), places)


def test_rows_of_different_sizes_and_keys_are_answered_as_alone():
    sizes, keys = np.array([1, 2, 5, 1000, 2**20 + 1]), np.arange(5).astype(np.uint64)
    places = sizes - 1
    together = permuted(places, sizes, keys)
    alone = [permuted(places[i : i + 1], sizes[i : i + 1], keys[i : i + 1])[0] for i in range(5)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("size", [2, 3, 5, 16, 37])
def test_every_place_goes_everywhere_equally_often(size):
    keys = np.repeat(mix(np.arange(4000)), size)
    image = permuted(np.tile(np.arange(size), 4000), np.full(4000 * size, size), keys)
    image = image.reshape(4000, size)
    frequencies = np.stack([np.bincount(image[:, p], minlength=size) for p in range(size)])
    expected = 4000 / size
    deviation = (frequencies - expected) / np.sqrt(expected * (1 - 1 / size))
    assert np.abs(deviation).max() < 5
    follows = np.bincount((image[:, 1] - image[:, 0]) % size, minlength=size)[1:]
    assert np.abs(follows - 4000 / (size - 1)).max() < 5 * np.sqrt(4000 / (size - 1))


def test_all_orders_of_three_come_up():
    orders = {
        tuple(permuted(np.arange(3), np.full(3, 3), np.full(3, k, np.uint64))) for k in range(99)
    }
    assert len(orders) == 6


def test_each_pass_has_its_own_order():
    counters = np.arange(200)
    seen = shuffled(counters, np.full(200, 100), np.full(200, 7, np.uint64)).reshape(2, 100)
    np.testing.assert_array_equal(np.sort(seen, axis=1), [np.arange(100)] * 2)
    assert (seen[0] != seen[1]).mean() > 0.9


def test_hashes_are_fixed_for_ever():
    # A change here would change every run's data: resumed runs would no longer be exact.
    assert name_key("rte") == 12003748540938747928
    assert mix(1, 2).tolist() == [13608149317741381227]
    order = permuted(np.arange(8), np.full(8, 8), np.full(8, 3, np.uint64))
    assert order.tolist() == [1, 0, 7, 6, 3, 2, 5, 4]


def test_even_sequences_are_even_and_unlike():
    steps = np.arange(10_000)
    golden, silver = even_sequence(0.3, steps, GOLDEN), even_sequence(0.9, steps, SILVER)
    for sequence in (golden, silver):
        assert np.abs(np.histogram(sequence, 20, (0, 1))[0] - 500).max() <= 5
    assert np.abs(np.histogram2d(golden, silver, 10, [[0, 1]] * 2)[0] - 100).max() < 25
