"""The best parameters of each member of a fleet, and whether parameters are finite. M members.

The trainable tree is {part: a tree of arrays [members of the part, ...]}, and `parts` says how many
members each part has, in the order of the fleet's member numbers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

Parts = tuple[tuple[str, int], ...]


class Best(NamedTuple):
    """The best parameters so far, for each member on its own.

    Attributes:
      score: [M] float32, -inf before the first evaluation.
      step: [M] int32, the step that the score belongs to.
      params: the trainable tree.
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


@functools.partial(jax.jit, static_argnames="parts")
def better(best: Best, score: Any, step: Any, params: Any, *, parts: Parts) -> Best:
    """`best`, with the members replaced whose `score` [M] is higher than before."""
    improved = score > best.score
    chosen, start = {}, 0
    for name, count in parts:
        choose = functools.partial(_choose, improved[start : start + count])
        chosen[name] = jax.tree.map(choose, params[name], best.params[name])
        start += count
    steps = jnp.where(improved, jnp.asarray(step, jnp.int32), best.step)
    return Best(jnp.where(improved, score, best.score), steps, chosen)


@functools.partial(jax.jit, static_argnames="parts")
def finite_members(params: Any, *, parts: Parts) -> Bool[Array, "M"]:
    """Whether all parameters of a member are finite."""
    found = []
    for name, count in parts:
        leaves = jax.tree.leaves(params[name])
        finite = [jnp.isfinite(leaf).reshape(count, -1).all(axis=1) for leaf in leaves]
        found.append(jnp.stack(finite).all(axis=0))
    return jnp.concatenate(found)


def _choose(improved: Bool[Array, "m"], new: Array, old: Array) -> Array:
    return jnp.where(improved.reshape(-1, *[1] * (new.ndim - 1)), new, old)
