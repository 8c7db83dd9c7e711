"""The optimizer's table, on trees of T5X's kind."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.training.schedules import WarmupLinear

pytest.importorskip("t5x", reason="needs T5X from its repository (docs/t5x.md)")

import optax  # noqa: E402

from mpt_jax.t5x.optimizer import Rate, prompt_optimizer  # noqa: E402


def tree(value):
    prompt = {"shared": jnp.full((2, 3), value), "u": jnp.full((2, 2, 1), value)}
    return flax.core.freeze(
        {"encoder": {"prompt": prompt, "layers_0": {"kernel": jnp.full((3, 3), value)}}}
    )


def updated(definition, gradient, steps=1):
    optimizer = definition.create(tree(0.0))
    for _ in range(steps):
        optimizer = optimizer.apply_gradient(gradient, learning_rate=7.0)
    assert isinstance(optimizer.target, flax.core.FrozenDict)
    encoder = optimizer.target["encoder"]
    return {
        "shared": float(encoder["prompt"]["shared"][0, 0]),
        "u": float(encoder["prompt"]["u"][0, 0, 0]),
        "frozen": float(encoder["layers_0"]["kernel"][0, 0]),
    }


def test_one_speed_for_each_row_and_none_for_the_rest(t5x_side):
    table = [(".*/shared", optax.sgd(1.0)), (".*/[uv]", optax.sgd(2.0))]
    with t5x_side():
        moved = updated(prompt_optimizer(table), tree(1.0))
    assert moved == {"shared": -1.0, "u": -2.0, "frozen": 0.0}


def test_the_first_row_that_matches_counts(t5x_side):
    table = [(".*/shared", optax.sgd(1.0)), (".*", optax.sgd(2.0))]
    with t5x_side():
        assert updated(prompt_optimizer(table), tree(1.0))["shared"] == -1.0


def test_the_norm_that_is_clipped_is_the_prompts_own(t5x_side):
    table = [(".*", optax.sgd(1.0))]
    with t5x_side():
        moved = updated(prompt_optimizer(table, clip_norm=1.0), tree(5.0))
    assert moved["shared"] == pytest.approx(-1 / np.sqrt(10))  # ten numbers below encoder/prompt


def test_rates_follow_the_run_not_t5x_s_steps(t5x_side):
    rate = Rate(1.0, WarmupLinear(), steps=4)
    with t5x_side():
        moved = updated(prompt_optimizer([(".*", optax.sgd(rate))]), tree(1.0), steps=4)
    assert moved["shared"] == pytest.approx(-(1 + 0.75 + 0.5 + 0.25))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([".*/shared"], "'encoder/prompt/u' is covered by no row"),
        ([".*", ".*/w"], "\\['.*/w'\\] match no parameter"),
    ],
)
def test_tables_that_do_not_fit_are_refused(patterns, message):
    definition = prompt_optimizer([(pattern, optax.sgd(1.0)) for pattern in patterns])
    with pytest.raises(UserError, match=message):
        jax.eval_shape(definition.init_state, tree(0.0))
