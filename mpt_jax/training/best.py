"""The best parameters of each member of a fleet, and whether parameters are finite. M members."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


class Best(NamedTuple):
    """The best parameters so far, for each member on its own.

    Attributes:
      score: [M] float32, -inf before the first evaluation.
      step: [M] int32, the step that the score belongs to.
      params: the trainable tree; every leaf has the leading axis M.
    """

    score: Any
    step: Any
    params: Any


def no_best(params: Any, members: int) -> Best:
    """The best before any evaluation. Holds copies, for the step may reuse the buffers of `params`."""
    return _no_best(params, members)


# Jitted, so that on a mesh of several processes all of it lies on the devices of `params`.
@functools.partial(jax.jit, static_argnums=1)
def _no_best(params: Any, members: int) -> Best:
    return Best(
        jnp.full((members,), -jnp.inf, jnp.float32),
        jnp.zeros((members,), jnp.int32),
        jax.tree.map(jnp.copy, params),
    )


@jax.jit
def better(best: Best, score: Any, step: Any, params: Any) -> Best:
    """`best`, with the members replaced whose `score` [M] is higher than before."""
    improved = score > best.score

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(improved.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    steps = jnp.full_like(best.step, step)
    return Best(*jax.tree.map(choose, (score, steps, params), tuple(best)))


@jax.jit
def finite_members(params: Any) -> Bool[Array, " M"]:
    """Whether all parameters of a member are finite."""
    leaves = [
        jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1)
        for leaf in jax.tree.leaves(params)
    ]
    return jnp.stack(leaves).all(axis=0)
