"""What `mpt plan --auto` orders settings by."""

import dataclasses

import pytest

from mpt_jax.models.t5_sizes import size_named
from mpt_jax.planning.chips import CHIPS, Chip
from mpt_jax.planning.costs import Work, step_seconds, weight_bytes
from mpt_jax.planning.matmul_flops import Shape

V5E = CHIPS["TPU v5 lite"]
XL = dataclasses.replace(size_named("t5-v1_1-xl"), dtype="bfloat16", scan_layers=True)
DISTILL = Work(XL, Shape(rows=128, inputs=356, targets=16), teacher=True, of_weights=False)


def test_known_figures():
    """Of XL: 2.85 G numbers, and 25.15 TFLOP a device in a distillation step of 8 rows on each."""
    assert weight_bytes(XL) == pytest.approx(5.70e9, rel=0.01)
    assert DISTILL.useful / 16 == pytest.approx(25.15e12, rel=0.01)


def rematerialised(policy):
    return dataclasses.replace(DISTILL, config=dataclasses.replace(XL, remat=policy))


def test_order():
    seconds = [step_seconds(rematerialised(p), V5E, 16, 1, 1) for p in ("none", "dots", "full")]
    assert seconds == sorted(set(seconds))
    assert seconds[2] / seconds[0] == pytest.approx(4 / 3, rel=0.02)
    # Splitting the model costs all-reduces, small parts of a batch the reading of the weights.
    assert step_seconds(DISTILL, V5E, 8, 2, 1) > seconds[0]
    assert step_seconds(DISTILL, V5E, 16, 1, 64) > step_seconds(DISTILL, V5E, 16, 1, 2)


def test_unknown_figures_count_as_infinite_speed():
    assert step_seconds(DISTILL, Chip("any", 1e9), 8, 2, 1) == 0
