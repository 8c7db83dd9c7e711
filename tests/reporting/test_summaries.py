"""Means, spreads and what counts as a difference."""

import math

import numpy as np
import pytest

from mpt_jax.reporting.results import MEAN_OF_TASKS, Curve
from mpt_jax.reporting.summaries import (
    clearly_best,
    curve_tasks,
    mean_curve,
    paired_difference,
    reported_split,
    seed_means,
    shared_tasks,
    spread,
)


def test_spread():
    s = spread([1.0, 2.0, 4.0])
    assert s.mean == pytest.approx(7 / 3)
    assert s.deviation == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert s.error == pytest.approx(s.deviation / math.sqrt(3))
    assert math.isnan(spread([1.0]).deviation) and math.isnan(spread([]).mean)


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({"a": [0.5, 0.52], "b": [0.3, 0.32], "c": [0.1, 0.12]}, "a"),
        ({"a": [0.5, 0.7], "b": [0.45, 0.65]}, None),  # ahead by less than its standard error
        ({"a": [0.5, 0.52], "b": [0.3, 0.32], "c": [0.0, 0.98]}, None),  # c may be as good
        ({"a": [0.9], "b": [0.1]}, None),  # one seed: the error is unknown
        ({"a": [0.9, 0.9]}, None),  # nothing to compare with
        ({"a": [0.9, math.nan], "b": [0.1, 0.2]}, None),
        ({"a": [0.5, 0.5], "b": [0.5, 0.5]}, None),
    ],
)
def test_clearly_best(values, best):
    assert clearly_best({name: spread(v) for name, v in values.items()}) == best


def test_pairs_are_of_one_task_k_and_seed(score):
    scores = [
        score("adapt", "a", "mpt", 0.5, k=16, seed=0), score("adapt", "a", "spot", 0.4, k=16, seed=0),
        score("adapt", "a", "mpt", 0.6, k=16, seed=1), score("adapt", "a", "spot", 0.6, k=64, seed=1),
        score("adapt", "b", "mpt", 0.1, k=16, seed=0), score("adapt", "b", "spot", 0.3, k=16, seed=0),
    ]  # fmt: skip
    d = paired_difference(scores, "mpt", "spot")
    assert d.mean == pytest.approx(-0.05)
    assert (d.pairs, d.won, d.lost) == (2, 1, 1)
    assert d.error == pytest.approx(np.std([0.1, -0.2], ddof=1) / math.sqrt(2))
    assert d.verdict == "within noise"
    assert paired_difference(scores, "mpt", "prompt_tuning") is None


def test_tasks_that_disagree_make_noise(score):
    """Ten seeds each of two tasks: sure of each task, yet unsure of tasks in general."""
    scores = []
    for task, gain in (("a", 0.2), ("b", 0.01)):
        for seed in range(10):
            noise = 0.002 * (seed % 2)
            scores.append(score("adapt", task, "mpt", 0.5 + gain + noise, k=16, seed=seed))
            scores.append(score("adapt", task, "spot", 0.5, k=16, seed=seed))
    d = paired_difference(scores, "mpt", "spot")
    assert d.mean > 2 * d.error and d.verdict == "within noise"
    alone = paired_difference([s for s in scores if s.task == "a"], "mpt", "spot")
    assert alone.verdict == "ahead" and alone.settled


def test_means_leave_out_incomplete_seeds_and_unshared_tasks(score):
    mpt = [score("adapt", t, "mpt", v, seed=i) for t, v, i in
           (("a", 0.2, 0), ("b", 0.4, 0), ("a", 0.9, 1))]  # fmt: skip
    assert seed_means(mpt, ["a", "b"]) == {0: pytest.approx(0.3)}
    spot = [score("adapt", "a", "spot", 0.5)]
    assert shared_tasks([mpt, spot]) == ["a"]


def test_mean_curve_is_over_common_steps():
    def curve(task, seed, steps, scores):
        return Curve(stage="adapt", task=task, method="mpt", k=16, seed=seed, split="validation",
                     steps=steps, scores=scores)  # fmt: skip

    steps, seeds = mean_curve(
        [curve("a", 0, [0, 5, 10], [0.0, 0.2, 0.4]), curve("b", 0, [0, 10], [0.2, 0.6]),
         curve("a", 1, [0, 10], [0.0, 1.0])],
        ["a", "b"],
    )  # fmt: skip
    assert steps == [0, 10]
    assert list(seeds) == [0] and seeds[0] == pytest.approx([0.1, 0.5])


def test_test_split_is_preferred(score):
    scores = [score("teach", "a", "mpt", 0.1, split=s) for s in ("test", "validation")]
    assert reported_split(scores) == "test"
    assert reported_split(scores[1:]) == "validation" and reported_split([]) is None


def test_a_member_of_all_tasks_stands_beside_the_means_of_the_others():
    def curve(task):
        return Curve(stage="adapt", task=task, method="m", k=16, seed=0, split="validation",
                     steps=[0, 5], scores=[0.0, 0.5])  # fmt: skip

    columns = {
        "single": [curve("a"), curve("b")], "fewer": [curve("b")], "multi": [curve(MEAN_OF_TASKS)]
    }  # fmt: skip
    assert curve_tasks(columns) == {"single": ["b"], "fewer": ["b"], "multi": [MEAN_OF_TASKS]}
    assert curve_tasks({"multi": columns["multi"]}) == {"multi": [MEAN_OF_TASKS]}
