"""Postprocessors as seqio calls them, alone and in a registered task that is scored."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics import Grouped
from mpt_jax.tasks.metrics.postprocessors import (
    answers,
    grouped_answers,
    grouped_label_index,
    label_index,
    number,
    stripped,
)

NLI = ("entailment", "neutral", "contradiction")


def test_labels_become_their_places():
    assert label_index(" neutral ", labels=NLI, example={}, is_target=True) == 1
    assert label_index("contradiction", labels=NLI, example={}, is_target=False) == 2
    for wrong in ("", "neutral neutral", "Neutral", "1"):
        assert label_index(wrong, labels=NLI, example={}, is_target=False) == -1
    with pytest.raises(UserError, match="'maybe' is none of the task's labels .*'neutral'"):
        label_index("maybe", labels=NLI, example={}, is_target=True)


@pytest.mark.parametrize(
    "text", ["", "three", "nan", "-inf", "infinity", "1e999", "1.2.3", "3,8", "9" * 5000]
)
def test_what_is_no_finite_number(text):
    assert number(text, example={}, is_target=False) == -1.0
    with pytest.raises(UserError, match="is not a finite number"):
        number(text, example={}, is_target=True)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read(value):
    assert number(f" {value!r}\n", example={}, is_target=True) == value


def test_answers_are_the_examples_for_a_target_and_the_text_for_a_prediction():
    example = {"answers": np.array([b"Caf\xc3\xa9", b"the caf\xc3\xa9"], object), "one": b"x"}
    assert answers("Café", example=example, is_target=True) == ["Café", "the café"]
    assert answers(" Café ", example=example, is_target=False) == "Café"
    assert answers("", example=example, is_target=True, field="one") == ["x"]
    assert answers("", example={"answers": np.array([], object)}, is_target=True) == []
    with pytest.raises(UserError, match=r"wants a field 'answers' .* there are \['inputs'\]"):
        answers("", example={"inputs": 1}, is_target=True)


def test_groups_stand_beside_targets_only():
    example = {"group": b"2-7", "answers": np.array([b"x"], object), "id": np.int32(5)}
    yes_no = functools.partial(grouped_label_index, labels=("0", "1"))
    assert yes_no("1", example=example, is_target=True) == Grouped("2-7", 1)
    assert yes_no("what", example=example, is_target=False) == -1
    assert yes_no("1", example=example, is_target=True, group="id") == Grouped("5", 1)
    assert grouped_answers("x", example=example, is_target=True) == Grouped("2-7", ["x"])
    assert grouped_answers("y ", example=example, is_target=False) == "y"
    with pytest.raises(UserError, match="wants a field 'group'"):
        yes_no("1", example={}, is_target=True)


def test_stripped():
    assert stripped(" a b\n", example={}, is_target=False) == "a b"
