"""The step that is compiled ahead: once for each shape, the same numbers, and its memory."""

import jax
import jax.numpy as jnp
import numpy as np

from mpt_jax.training.compiled_step import CompiledStep
from mpt_jax.training.step import TrainState


def step_of(traced):
    def step(state, frozen, batch):
        traced.append(batch["x"].shape)
        product = batch["x"] @ frozen
        params = state.params + product.sum(axis=0)
        return state._replace(params=params), {"loss": jnp.square(product).mean()}

    return jax.jit(step, donate_argnums=0)


def start():
    return TrainState(jnp.zeros((), jnp.int32), jnp.zeros(16, jnp.float32), {})


def batch(rows):
    return {"x": jnp.arange(rows * 16, dtype=jnp.float32).reshape(rows, 16) / 100}


def test_each_shape_is_traced_once_and_gives_what_jit_gives():
    frozen = jnp.ones((16, 16), jnp.float32)
    traced = []
    ahead, plain = CompiledStep(step_of(traced)), step_of([])
    state, other = start(), start()
    for rows in (4, 8, 4, 4, 8):
        state, metrics = ahead(state, frozen, batch(rows))
        other, expected = plain(other, frozen, batch(rows))
        np.testing.assert_array_equal(state.params, other.params)
        np.testing.assert_array_equal(metrics["loss"], expected["loss"])
    assert traced == [(4, 16), (8, 16)]


def test_a_prepared_shape_is_not_traced_again_and_preparing_runs_nothing():
    frozen = jnp.ones((16, 16), jnp.float32)
    traced, state = [], start()
    ahead = CompiledStep(step_of(traced))
    ahead.prepare(state, frozen, batch(4))
    np.testing.assert_array_equal(state.params, np.zeros(16))  # still there: not donated
    ahead(state, frozen, batch(4))
    assert traced == [(4, 16)]


def test_memory_is_of_the_largest_shape_and_counts_donated_buffers_once():
    frozen = jnp.ones((16, 16), jnp.float32)
    ahead = CompiledStep(step_of([]))
    assert ahead.peak_bytes is None
    state, _ = ahead(start(), frozen, batch(4))
    small = ahead.peak_bytes
    arguments = 4 * (16 + 16 * 16 + 4 * 16)
    assert arguments <= small < arguments + 4 * (16 * 4) * 4 + 512
    ahead(state, frozen, batch(64))
    assert ahead.peak_bytes >= small + 4 * 60 * 16
