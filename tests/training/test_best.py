import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.training.best import better, finite_members, no_best
from mpt_jax.training.loop import Fleet

PARTS = (("z", 2), ("a", 1))  # not in the order in which JAX sorts the keys of a dict


def params(value):
    return {
        "a": {"u": jnp.full((1, 2), value, jnp.float32)},
        "z": {"p": jnp.full((2, 3), value, jnp.float32), "q": jnp.full((2,), value, jnp.float32)},
    }


def test_each_member_of_each_part_is_chosen_on_its_own():
    best = no_best(params(0), members=3)
    best = better(best, np.asarray([1, 1, 1], np.float32), 5, params(1), parts=PARTS)
    best = better(best, np.asarray([0, 2, 3], np.float32), 9, params(2), parts=PARTS)
    assert np.asarray(best.step).tolist() == [5, 9, 9]
    assert np.asarray(best.score).tolist() == [1, 2, 3]
    assert np.asarray(best.params["z"]["p"]).tolist() == [[1] * 3, [2] * 3]
    assert np.asarray(best.params["z"]["q"]).tolist() == [1, 2]
    assert np.asarray(best.params["a"]["u"]).tolist() == [[2] * 2]


def test_finite_members_in_their_order():
    tree = params(1)
    assert np.asarray(finite_members(tree, parts=PARTS)).tolist() == [True] * 3
    tree["z"]["q"] = jnp.asarray([1, jnp.nan], jnp.float32)
    assert np.asarray(finite_members(tree, parts=PARTS)).tolist() == [True, False, True]
    tree["a"]["u"] = jnp.asarray([[jnp.inf, 0]], jnp.float32)
    assert np.asarray(finite_members(tree, parts=PARTS)).tolist() == [True, False, False]


def test_a_fleet_whose_parts_do_not_add_up():
    with pytest.raises(ValueError, match="2 members, 2 lists of tasks, and parts of 3"):
        Fleet(["a", "b"], [["t"], ["t"]], {"mpt": 3})
