"""Where a backbone's weights lie on a mesh, from its shape alone."""

from typing import Any

import jax
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.layer_stacking import stack_layers
from mpt_jax.models.t5 import T5Config, logical_axes
from mpt_jax.models.weight_precision import kept_dtype
from mpt_jax.partitioning import tree_shardings


def placed_shapes(config: T5Config, mesh: Mesh) -> Any:
    """The parameter tree as it lies on the mesh, of `jax.ShapeDtypeStruct` with shardings.

    Args:
        config: says whether layers are stacked, and how the weights are kept.
        mesh: every device gets its part of each weight, by the standard axis rules.

    Raises:
        UserError: a dimension does not divide over the mesh.
    """
    flat = {
        path: jax.ShapeDtypeStruct(shape, kept_dtype(path, config))
        for path, shape in parameter_shapes(config).items()
    }
    tree = unflatten_dict(flat, sep="/")
    if config.scan_layers:
        tree = jax.eval_shape(stack_layers, tree)
    shardings = tree_shardings(mesh, logical_axes(config), tree)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
