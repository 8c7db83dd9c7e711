"""Adapters against what AdapterHub's `adapters` computed (record_adapters.py), and their options."""

from pathlib import Path

import jax
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.adapter import Adapter
from mpt_jax.models.t5_sizes import size_named

TOLERANCE = 3e-5  # of the largest value
CASES = ["houlsby_v1_0", "houlsby_v1_1", "pfeiffer_v1_0", "pfeiffer_v1_1"]


@pytest.mark.parametrize("case", CASES)
def test_loss_logits_and_gradients_are_adapterhubs(case, loss_of, draw, configs):
    placement, _, version = case.partition("_")
    method = Adapter(
        members=1, tasks=1, config=configs[version], placement=placement, reduction=4,
        activation={"houlsby": "gelu", "pfeiffer": "relu"}[placement], train_norms=False,
    )  # fmt: skip
    params = draw(method.shapes(), 7)
    (loss, logits), gradients = jax.jit(jax.value_and_grad(loss_of(method), has_aux=True))(params)
    with np.load(Path(__file__).parent / "reference" / f"adapters_{case}.npz") as file:
        reference = dict(file)
    assert_close(loss, reference.pop("loss"))
    assert_close(logits, reference.pop("logits"))
    assert {f"gradient {name}" for name in gradients} == set(reference)
    for name, gradient in gradients.items():
        assert_close(gradient, reference[f"gradient {name}"])


def assert_close(got, expected):
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(np.asarray(got) / scale, expected / scale, atol=TOLERANCE)


@pytest.mark.parametrize(
    "size, options, count",
    [
        ("t5-base", {}, 48 * 37_656 + 62 * 768),
        ("t5-base", {"train_norms": False}, 48 * 37_656),
        ("t5-large", {}, 6_517_760),
        ("t5-base", {"placement": "pfeiffer", "reduction": 16, "train_norms": False}, 24 * 74_544),
        ("t5-small", {"reduction": 1000}, 24 * (512 + 1 + 512 + 512) + 32 * 512),
    ],
)
def test_counts(size, options, count):
    assert Adapter(members=1, tasks=1, config=size_named(size), **options).count() == count


def test_attempts_start_is_near_the_backbone(configs, backbones, loss_of):
    config, backbone = configs["v1_1"], backbones("v1_1")
    exact = Adapter(members=1, tasks=1, config=config, reduction=4)
    near = Adapter(members=1, tasks=1, config=config, reduction=4, up_deviation=0.01)
    losses = [
        float(loss_of(m)(m.init_member(jax.random.key(0), backbone))[0]) for m in (exact, near)
    ]
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 1e-2 * losses[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"placement": "houlsbey"}, "did you mean 'houlsby'"),
        ({"activation": "gelu_new"}, "activation of adapters"),
        ({"reduction": 0}, "at least 1"),
        ({"up_deviation": -1.0}, "below 0"),
    ],
)
def test_wrong_options(configs, options, message):
    with pytest.raises((UserError, ValueError), match=message):
        Adapter(members=1, tasks=1, config=configs["v1_0"], **options)
