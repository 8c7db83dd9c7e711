"""From logical axis names of parameters to their place on the mesh."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mpt_jax.errors import UserError
from mpt_jax.partitioning.mesh import DATA, MODEL

# T5X's one-dimensional parameter rules. Frozen weights are not split over `data` as well (FSDP):
# gathering them anew each step costs far more time than the memory is worth.
STANDARD_RULES: Mapping[str, str | None] = {
    "batch": DATA,
    "vocab": MODEL,
    "mlp": MODEL,
    "heads": MODEL,
    "joined_kv": MODEL,
    "embed": None,
    "kv": None,
    "relpos_buckets": None,
    "layers": None,
    "length": None,
}


def tree_shardings(
    mesh: Mesh, axes: Any, shapes: Any, rules: Mapping[str, str | None] = STANDARD_RULES
) -> Any:
    """A NamedSharding for each parameter of a tree.

    Args:
        mesh: with axes (data, model).
        axes: tree of logical axis names, a tuple for each parameter, e.g. ("embed", "mlp").
        shapes: the parameters, or anything else with `.shape`, in a tree of the same form.
        rules: logical name -> mesh axis, or None for "whole on every device".

    Raises:
        UserError: a name without a rule, or a dimension that does not divide over its mesh axis.
    """

    def sharding(path, names, param):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        if len(names) != len(param.shape):
            raise ValueError(f"{where}: got axes {names} for the shape {tuple(param.shape)}.")
        spec = []
        for name, size in zip(names, param.shape, strict=True):
            if name not in rules:
                raise UserError(
                    f"{where}: logical axis {name!r} has no rule; known are {sorted(rules)}. "
                    "Add one to the axis rules (None keeps the axis whole)."
                )
            axis = rules[name]
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f"{where}: axis {name!r} of size {size} does not divide over the "
                    f"{mesh.shape[axis]} devices of mesh axis {axis!r}; choose a mesh shape that "
                    f"divides it, or map {name!r} to None in the axis rules."
                )
            spec.append(axis)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(
        sharding, axes, shapes, is_leaf=lambda node: isinstance(node, tuple)
    )


def place(tree: Any, shardings: Any) -> Any:
    """Put a tree of arrays onto the mesh. All processes must call it together.

    Args:
        tree: numpy or JAX arrays; those that lie in parts over several processes may stay there.
        shardings: one sharding for all, or a tree of them.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)

    def put(array, sharding):
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        if isinstance(array, jax.Array) and not (
            array.is_fully_addressable or array.is_fully_replicated
        ):
            # No process has all of it: the devices move it among themselves.
            return jax.jit(lambda x: x, out_shardings=sharding)(array)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, shardings)
