import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt_jax.data.examples import Description, Example
from mpt_jax.data.splits import RULES, examples_for, part_of
from mpt_jax.data.store import write_store
from mpt_jax.errors import UserError


def indices(rule, role, size):
    return part_of(rule, role).select(size)


# Wang et al. 2023's sizes, as printed by Wu et al. 2025, table 4.
@pytest.mark.parametrize(("size", "validation", "test"), [(277, 138, 139), (1043, 521, 522)])
def test_halved_validation_has_the_papers_sizes(size, validation, test):
    assert len(indices("halved_validation", "validation", size)) == validation
    assert len(indices("halved_validation", "test", size)) == test


@given(st.integers(2, 3000))
def test_the_halves_share_nothing_and_lose_nothing(size):
    both = [indices("halved_validation", role, size) for role in ("validation", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(both)), np.arange(size))


@given(st.integers(1001, 5000))
def test_a_thousand_of_train_validate_and_the_rest_trains(size):
    held, rest = (indices("held_out_train", role, size) for role in ("validation", "train"))
    assert len(held) == 1000
    np.testing.assert_array_equal(np.sort(np.concatenate([held, rest])), np.arange(size))


def test_the_permutation_is_fixed_for_ever():
    # Written down so that no release of NumPy can silently move examples between the sets.
    np.testing.assert_array_equal(indices("halved_validation", "validation", 8), [1, 5, 0, 7])


def test_too_small_a_train_set_names_the_other_rule():
    with pytest.raises(UserError, match=r"only 1000. Use 'halved_validation'"):
        indices("held_out_train", "train", 1000)


def test_mnli_takes_both_its_validation_sets():
    assert RULES["mnli"]["validation"].split == "validation_mismatched"
    assert RULES["mnli"]["test"].split == "validation_matched"


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match="did you mean 'halved_validation'"):
        part_of("halve_validation", "test")
    with pytest.raises(UserError, match="did you mean 'validation'"):
        part_of("official", "validate")


def test_a_rule_applied_to_stores(tmp_path):
    def open_split(split):
        rows = [
            Example(np.array([i, 1], np.int32), np.array([1], np.int32), f"{split} {i}", "")
            for i in range(4)
        ]
        lengths = {"inputs": 4, "targets": 4}
        return write_store(tmp_path / split, rows, Description("t", split, lengths, "v"))

    parts = {
        role: examples_for("halved_validation", role, open_split) for role in RULES["official"]
    }
    assert len(parts["train"]) == 4
    texts = [e.inputs_text for role in ("validation", "test") for e in parts[role].read(range(2))]
    assert sorted(texts) == [f"validation {i}" for i in range(4)]


def test_yelp_trains_on_a_hundred_thousand_after_those_that_validate():
    size = 560_000
    held, cut, whole = (
        indices("yelp", "validation", size),
        indices("yelp", "train", size),
        indices("yelp_whole", "train", size),
    )
    assert (len(held), len(cut), len(whole)) == (1000, 100_000, 559_000)
    np.testing.assert_array_equal(cut, whole[:100_000])
    assert not set(held) & set(whole)
    assert len(indices("yelp", "train", 5000)) == 4000
    assert part_of("yelp", "test").split == part_of("yelp_whole", "test").split == "test"


def test_web_nlg_tests_on_one_kind_of_categories():
    assert part_of("web_nlg_seen", "test").split == "test_seen"
    assert part_of("web_nlg_unseen", "test").split == "test_unseen"
