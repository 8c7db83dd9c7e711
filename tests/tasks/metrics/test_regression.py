"""Correlations against SciPy, on random and on hostile cases."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.tasks.metrics import METRICS

pearson, spearman = METRICS["pearson"], METRICS["spearman"]
SCORES = st.integers(-5, 25).map(lambda n: n / 5)  # STS-B's grid, with many ties


def pairs(numbers):
    rows = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40)
    return rows.map(lambda r: tuple(map(list, zip(*r, strict=True))))


@settings(deadline=None, max_examples=200)
@given(pairs(SCORES))
def test_as_scipy(case):
    targets, predictions = case
    if len(set(targets)) == 1 or len(set(predictions)) == 1:
        expected = (0.0, 0.0)
    else:
        expected = (
            scipy.stats.pearsonr(targets, predictions).statistic,
            scipy.stats.spearmanr(targets, predictions).statistic,
        )
    assert pearson(targets, predictions)["pearson"] == pytest.approx(expected[0], abs=1e-12)
    assert spearman(targets, predictions)["spearman"] == pytest.approx(expected[1], abs=1e-12)


@settings(deadline=None, max_examples=300)
@given(pairs(st.floats(allow_nan=False, allow_infinity=False)))
def test_any_finite_numbers_have_a_finite_correlation(case):
    for metric in (pearson, spearman):
        (value,) = metric(*case).values()
        assert math.isfinite(value) and -1 <= value <= 1


def test_a_wild_guess_is_an_outlier_and_no_overflow():
    targets, predictions = [0.0, 1.0, 2.0, 5.0], [0.0, 1.0, 1e300, 5.0]

    def exact(x, y):
        x, y = [[Fraction(v) for v in values] for values in (x, y)]
        dx, dy = [[v - sum(values) / len(values) for v in values] for values in (x, y)]
        product = sum(a * b for a, b in zip(dx, dy, strict=True))
        return float(product**2 / (sum(a * a for a in dx) * sum(b * b for b in dy))) ** 0.5

    assert pearson(targets, predictions)["pearson"] == pytest.approx(exact(targets, predictions))


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_undefined_correlations_are_zero(metric):
    for targets, predictions in [([], []), ([1.0], [2.0]), ([1.0, 2.0], [3.0, 3.0]),
                                 ([0.1] * 3, [1.0, 2.0, 3.0]), ([0.0, 0.0], [0.0, 1.0])]:  # fmt: skip
        (value,) = metric(targets, predictions).values()
        assert value == 0.0


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_what_is_refused(metric):
    with pytest.raises(ValueError, match="1 targets, but 2 predictions"):
        metric([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        metric([1.0, 2.0], [1.0, np.nan])
