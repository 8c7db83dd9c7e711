"""The settings of a sweep: what a space's parts mean, and what is refused."""

import dataclasses

import pytest

from mpt_jax.errors import UserError
from mpt_jax.stages.sweep_setup import Setup
from mpt_jax.stages.sweep_space import Range, Setting, Space, resolve

TASKS = ("a", "b", "c")
MIXTURES = {"ab": ("a", "b")}
BASE = Setting(prompt_length=3)


def expand(names):
    given = (names,) if isinstance(names, str) else names
    return tuple(task for name in given for task in MIXTURES.get(name, (name,)))


def settings(*parts, base=BASE, **families):
    return resolve(Space(base, parts, families), TASKS, expand)


def test_parts_are_grids_of_their_own_around_the_base():
    found = settings({"weight": (0.0, 0.9)}, {"rank": (2, 4), "temperature": (1.0, 2.0)}).grid()
    expected = [BASE, dataclasses.replace(BASE, weight=0.0)]
    expected += [
        dataclasses.replace(BASE, rank=r, temperature=t) for r in (2, 4) for t in (1.0, 2.0)
    ]
    assert found == expected  # the base is weight 0.9, and stands there once


def test_what_compiles_alike_stands_together():
    found = settings({"sampler": ("proportional",)}, {"prompt_length": (3, 5)}, {"rank": 2}).grid()
    assert [s.compiled for s in found] == [
        (3, "paper"), (3, "paper"), (3, "proportional"), (5, "paper"),
    ]  # fmt: skip


def test_source_mixtures_by_name():
    found = settings({"sources": ("leave_one_out", "families", "single")}, few="ab")
    assert {name: found.mixtures[name] for name in found.axes["sources"]} == {
        "all": TASKS, "without a": ("b", "c"), "without b": ("a", "c"), "without c": ("a", "b"),
        "few": ("a", "b"), "only a": ("a",), "only b": ("b",), "only c": ("c",),
    }  # fmt: skip
    assert len(found.grid()) == 8


def test_axes_hold_the_base_and_are_in_order():
    found = settings({"weight": (2.0, 0.0)}, {"weight": 0.5}, {"layers": "all"})
    assert found.axes == {"weight": (0.0, 0.5, 0.9, 2.0), "layers": ("last", "all")}


def test_a_setting_becomes_variants_of_both_stages():
    setting = dataclasses.replace(BASE, sources="without b", rank=2, target_learning_rate=0.7)
    distilled = setting.distilled("x", settings().mixtures)
    assert (distilled.sources, distilled.rank, distilled.weight) == (("a", "c"), 2, 0.9)
    adapted = setting.adapted("x")
    assert (adapted.source, adapted.options, adapted.learning_rate) == ("x", {"rank": 2}, 0.7)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"wieght": 1.0}, "did you mean 'weight'"),
        ({"sources": "without d"}, "did you mean 'without"),
        ({"sources": ()}, "no values"),
        ({"rank": 1.5}, "whole"),
        ({"rank": 0}, "more than 0"),
        ({"weight": -0.1}, "not below 0"),
        ({"weight": "0.9"}, "no number"),
        ({"temperature": (1.0, 0.0)}, "more than 0"),
        ({"layers": "first"}, "unknown layers"),
        ({"sampler": "papr"}, "did you mean 'paper'"),
        ({"weight": Range(1.0, 0.5)}, "no range"),
        ({"sources": Range(1, 2)}, "no range"),
    ],
)  # fmt: skip
def test_what_is_no_axis_or_value_is_refused(part, message):
    with pytest.raises(UserError, match=message):
        settings(part)


def test_a_range_has_no_grid_and_families_have_source_tasks():
    with pytest.raises(UserError, match="axis weight is a range"):
        settings({"weight": Range(0.1, 1.0)}).grid()
    with pytest.raises(UserError, match="source task of family few"):
        settings({"sources": "families"}, few="d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "tpe"}, "give TRIALS"),
        ({"sampler": "gird"}, "did you mean 'grid'"),
        ({"keep": 0.0}, "above 0"),
        ({"keep": 0.5, "num_seeds": 1}, "nothing to save"),
        ({"population": 0}, "at least 1"),
    ],
)
def test_a_sweep_that_is_none_is_refused(change, message):
    setup = Setup(Space(BASE, ()), "s", "t", 1, 1, 1, 1, 1, 1, 1, 1, 1)
    setup.check()
    with pytest.raises(UserError, match=message):
        dataclasses.replace(setup, **change).check()
