"""Metrics of class numbers against scikit-learn, on random cases, and by hand where it has none."""

import math

import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics import METRICS, Grouped

accuracy, f1, f1_macro, matthews, multirc_f1a, multirc_em = (
    METRICS[name]
    for name in ("accuracy", "f1", "f1_macro", "matthews", "multirc_f1a", "multirc_em")
)


def pairs(targets, predictions):
    """Lists of (target, prediction), as two lists of equal length, never empty."""
    one = st.tuples(st.integers(0, targets - 1), st.sampled_from(predictions))
    return st.lists(one, min_size=1, max_size=40).map(lambda rows: tuple(zip(*rows, strict=True)))


@settings(deadline=None)
@given(pairs(3, [-1, 0, 1, 2]))
def test_as_scikit_learn_with_three_classes(case):
    targets, predictions = case
    assert accuracy(targets, predictions) == {
        "accuracy": pytest.approx(sklearn.metrics.accuracy_score(targets, predictions))
    }
    present = sorted(set(targets))
    expected = sklearn.metrics.f1_score(
        targets, predictions, labels=present, average="macro", zero_division=0
    )
    assert f1_macro(targets, predictions) == {"f1_macro": pytest.approx(expected)}


@settings(deadline=None)
@given(pairs(3, [-1, 0, 1, 2]))
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_matthews_as_scikit_learn(case):
    targets, predictions = case
    expected = sklearn.metrics.matthews_corrcoef(targets, predictions)
    assert matthews(targets, predictions) == {"matthews": pytest.approx(expected)}


@settings(deadline=None)
@given(pairs(2, [0, 1]))
def test_binary_f1_as_scikit_learn(case):
    targets, predictions = case
    expected = sklearn.metrics.f1_score(targets, predictions, zero_division=0)
    assert f1(targets, predictions) == {"f1": pytest.approx(expected)}


def test_an_unparsable_prediction_is_the_wrong_label():
    assert f1([1, 1, 0], [1, -1, 0]) == f1([1, 1, 0], [1, 0, 0])
    assert f1([1, 1, 0], [1, 1, -1]) == f1([1, 1, 0], [1, 1, 1]) != f1([1, 1, 0], [1, 1, 0])
    targets = [Grouped("a", 1), Grouped("a", 0), Grouped("b", 0)]
    assert multirc_f1a(targets, [1, -1, 0]) == {"multirc_f1a": pytest.approx(2 / 3)}


def test_multirc_exact_match_wants_every_answer_of_a_question():
    targets = [Grouped("a", 1), Grouped("b", 1), Grouped("a", 0), Grouped("b", 0), Grouped("c", 0)]
    assert multirc_em(targets, [1, 1, 0, 1, 0]) == {"multirc_em": pytest.approx(2 / 3)}
    assert multirc_em(targets, [1, 1, -1, 1, -1]) == {"multirc_em": 0.0}
    # Answers of one question, apart, make one group; F1a counts all answers alike.
    assert multirc_f1a(targets, [1, 1, 0, 1, 0]) == {"multirc_f1a": pytest.approx(0.8)}


def test_three_classes_are_no_case_for_binary_f1():
    with pytest.raises(UserError, match=r"f1 is of two classes, 0 and 1; the targets hold \[2\]"):
        f1([0, 2], [0, 1])
    with pytest.raises(UserError, match="multirc_f1a"):
        multirc_f1a([Grouped("a", -1)], [0])


def test_a_class_without_predictions_or_examples_has_a_value():
    assert f1([0, 0], [0, 0]) == {"f1": 0.0}
    assert f1([1, 1], [0, 0]) == {"f1": 0.0}
    assert f1_macro([0, 0, 1], [0, 0, 2]) == {"f1_macro": 0.5}
    for constant in ([1, 1], [-1, -1]):
        assert matthews([0, 1], constant) == {"matthews": 0.0}
        assert matthews(constant, [0, 1]) == {"matthews": 0.0}


def test_matthews_of_many_examples_does_not_overflow():
    n = 200_000
    assert matthews([0, 1] * n, [0, 1] * n)["matthews"] == pytest.approx(1)
    assert matthews([0, 1] * n, [1, 0] * n)["matthews"] == pytest.approx(-1)


@pytest.mark.parametrize("metric", [accuracy, f1, f1_macro, matthews, multirc_f1a, multirc_em])
def test_no_examples_and_unequal_lists(metric):
    (value,) = metric([], []).values()
    assert value == 0.0 and not math.isnan(value)
    target = Grouped("a", 1) if "multirc" in metric.__name__ else 1
    with pytest.raises(ValueError):
        metric([target], [1, 0])
