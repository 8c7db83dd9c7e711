"""The best parameters of each member of a fleet, and whether parameters are finite. M members.

The trainable tree is {method name: {parameter: [members of the method, ...]}}, and `methods` says
how many members each method has, in the order of the fleet's member numbers. Without `methods`
the tree is one member's whole model and no array has an axis of members.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Methods = tuple[tuple[str, int], ...] | None


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


@functools.partial(jax.jit, static_argnames="methods")
def better(
    best: Best, score: Float[Array, "M"], step: Any, params: Any, methods: Methods
) -> Best:
    """`best`, with the members replaced whose `score` is higher than before."""
    improved = score > best.score
    chosen = {
        name: jax.tree.map(functools.partial(_choose, own), params[name], best.params[name])
        for name, own in _split(improved, methods).items()
    } if methods is not None else jax.tree.map(
        lambda new, old: jnp.where(improved[0], new, old), params, best.params
    )  # fmt: skip
    steps = jnp.where(improved, jnp.asarray(step, jnp.int32), best.step)
    return Best(jnp.where(improved, score, best.score), steps, chosen)


@functools.partial(jax.jit, static_argnames="methods")
def finite_members(params: Any, methods: Methods) -> Bool[Array, "M"]:
    """Whether all parameters of a member are finite."""
    if methods is None:
        return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()[None]
    found = []
    for name, count in methods:
        leaves = jax.tree.leaves(params[name])
        finite = [jnp.isfinite(leaf).reshape(count, -1).all(axis=1) for leaf in leaves]
        found.append(jnp.stack(finite).all(axis=0))
    return jnp.concatenate(found)


def _split(per_member: Bool[Array, "M"], methods: Methods) -> Mapping[str, Bool[Array, "m"]]:
    parts, start = {}, 0
    for name, count in methods or ():
        parts[name] = per_member[start : start + count]
        start += count
    return parts


def _choose(improved: Bool[Array, "m"], new: Array, old: Array) -> Array:
    return jnp.where(improved.reshape(-1, *[1] * (new.ndim - 1)), new, old)
