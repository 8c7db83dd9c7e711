import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.errors import UserError
from mpt_jax.tasks.table_splits import (
    TableExample,
    UnseenLabelWarning,
    check_apart,
    divide,
    warn_of_unseen_labels,
)

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def rows(count, targets="ab"):
    return [TableExample(f"text {i}", targets[i % len(targets)], f"line {i}") for i in range(count)]


def split(*pairs, name="f.csv"):
    return [
        TableExample(text, target, f"{name}, line {n}") for n, (text, target) in enumerate(pairs)
    ]


def test_shares_are_met():
    divided = divide(rows(100), SHARES, seed=0, stratify=False)
    assert {name: len(found) for name, found in divided.items()} == {
        "train": 80, "validation": 10, "test": 10,
    }  # fmt: skip


def test_at_random_by_the_seed_alone():
    examples = rows(60)
    first, second = (divide(examples, SHARES, seed, False) for seed in (0, 1))
    assert first == divide(examples, SHARES, 0, False)
    assert first["test"] != second["test"]
    # A fixed value, so that nobody changes users' splits without noticing.
    assert [int(e.inputs[5:]) for e in first["test"]] == [11, 16, 25, 35, 40, 53]


def test_the_order_of_the_file_stays_and_decides_nothing():
    examples = rows(60)
    shuffled = [examples[i] for i in np.random.RandomState(0).permutation(60)]
    a, b = divide(examples, SHARES, 0, True), divide(shuffled, SHARES, 0, True)
    for name in SHARES:
        assert a[name] == sorted(a[name], key=examples.index)
        assert b[name] == sorted(b[name], key=shuffled.index)
        assert sorted(a[name]) == sorted(b[name])


def test_each_label_in_the_shares():
    examples = rows(200, "aaaaaaaaab")  # 180 and 20
    divided = divide(examples, SHARES, 3, stratify=True)
    counts = {name: Counter(e.targets for e in found) for name, found in divided.items()}
    assert counts["train"] == {"a": 144, "b": 16}
    assert counts["validation"] == counts["test"] == {"a": 18, "b": 2}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=80),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (1 / 3, 1 / 3, 1 / 3), (0.9, 0.1)]),
    st.booleans(),
    st.integers(0, 5),
)
def test_every_row_once_and_equal_inputs_together(pairs, fractions, stratify, seed):
    examples = [TableExample(str(a), str(b), f"line {i}") for i, (a, b) in enumerate(pairs)]
    shares = dict(zip(SHARES, fractions, strict=False))
    divided = divide(examples, shares, seed, stratify)
    assert sorted(e for found in divided.values() for e in found) == sorted(examples)
    check_apart(divided)
    largest = max(Counter(e.inputs for e in examples).values())
    for name, share in shares.items():
        assert abs(len(divided[name]) - share * len(examples)) <= 2 * largest


def test_an_input_in_two_splits_is_named_with_both_places():
    train = split(("good", "1"), ("bad", "0"), ("good", "0"))
    check_apart({"train": train, "test": split(("Good", "1"))})
    test = split(("fine", "1"), ("bad", "1"), *[("good", "1")] * 4, name="g.csv")
    with pytest.raises(UserError) as error:
        check_apart({"train": train, "test": test})
    message = str(error.value)
    assert "f.csv, line 1 and g.csv, line 1: 'bad'" in message
    assert "f.csv, line 0 and g.csv, line 2: 'good'" in message and "and 2 more" in message


def test_labels_that_training_never_sees():
    train = split(*[(str(i), "ab"[i % 2]) for i in range(8)])
    test = split(("x", "a"), ("y", "c"), ("z", "c"), name="g.csv")
    with pytest.warns(
        UnseenLabelWarning, match=r"t: .* in test but not in train.*'c' \(g.csv, line 1\)$"
    ):
        warn_of_unseen_labels("t", {"train": train, "test": test})


def test_free_text_is_never_seen_before():
    train, test = split(*[(str(i), f"answer {i}") for i in range(8)]), split(("x", "new"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unseen_labels("t", {"train": train, "test": test})
        warn_of_unseen_labels("t", {"train": split(*[("x", "a")] * 4), "test": split(("y", "a"))})
