import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.arithmetic import base_cancels, combine

RNG = np.random.default_rng(0)
A, B, C, BASE = (RNG.normal(size=(4, 6)).astype(np.float32) for _ in range(4))


def test_the_sum_around_a_base():
    found = combine([A, B, C], [0.5, 2, -1.25], BASE)
    expected = BASE + 0.5 * (A - BASE) + 2 * (B - BASE) - 1.25 * (C - BASE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # One whole vector is the prompt itself, none is the base.
    np.testing.assert_array_equal(combine([A], [1], BASE), A)
    np.testing.assert_array_equal(combine([A], [0], BASE), BASE)


def test_what_is_added_and_taken_away_again_is_gone():
    np.testing.assert_allclose(combine([A, B, A], [1, 1, -1]), B, rtol=1e-6)
    np.testing.assert_allclose(combine([A, B, A], [1, 1, -1], BASE), B, rtol=1e-6)


def test_the_base_cancels_where_the_weights_sum_to_1():
    thirds = [0.3333333, 0.3333333, 0.3333334]
    assert base_cancels(thirds) and not base_cancels([0.5, 0.51])
    plain = combine([A, B, C], thirds)
    np.testing.assert_allclose(plain, (A + B + C) / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(combine([A, B, C], thirds, BASE), plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("prompts", "weights", "base", "message"),
    [
        ([], [], None, "0 prompts"),
        ([A, B], [1], None, "2 prompts and 1 weights"),
        ([A, B], [1, 1], None, "sum to 2"),
        ([A, B], [1, float("nan")], BASE, "finite"),
        ([A, B[:2]], [0.5, 0.5], None, r"\(4, 6\), \(2, 6\)\]\."),
        ([A], [2], BASE[:, :3], "the last is the base's"),
        ([A], [1e39], BASE, "not finite in fp32"),
        ([np.full_like(A, np.nan)], [1], None, "not finite in fp32"),
    ],
)
def test_what_cannot_be_combined(prompts, weights, base, message):
    with pytest.raises(UserError, match=message):
        combine(prompts, weights, base)
