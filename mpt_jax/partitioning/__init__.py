"""The device mesh and the rules from logical axes to mesh axes.

The mesh has two axes: `data` (rows of the batch) and `model` (the backbone's width). One device is
a mesh too, so nothing else in the program asks how many devices there are.
"""

from mpt_jax.partitioning.mesh import (
    DATA,
    MODEL,
    batch_sharding,
    fetch,
    make_mesh,
    process_data_shard,
    replicated,
    shard_batch,
)
from mpt_jax.partitioning.rules import STANDARD_RULES, place, tree_shardings

__all__ = [
    "DATA",
    "MODEL",
    "STANDARD_RULES",
    "batch_sharding",
    "fetch",
    "make_mesh",
    "place",
    "process_data_shard",
    "replicated",
    "shard_batch",
    "tree_shardings",
]
