"""What tells one backbone from another: a hash over its weights."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Num

from mpt_jax.models.layer_stacking import unrolled_path

ROWS_AT_ONCE = 1 << 20  # bytes; a weight is hashed piece by piece, so that no second copy is made


class Fingerprint:
    """The hash over names, shapes and values as float32, fed weight by weight.

    Weights come in the sorted order of their paths in the unrolled tree, so that the unrolled and the
    scanned form, and every file format, give the same digits.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._last = ""

    def add(self, path: str, values: Num[np.ndarray, "..."]) -> None:
        if path <= self._last:
            raise ValueError(
                f"weights have to come in sorted order; got {path} after {self._last}."
            )
        self._last = path
        self._digest.update(f"{path} {values.shape}\n".encode())
        rows = values if values.ndim else values[None]
        step = max(1, ROWS_AT_ONCE * len(rows) // max(1, values.size * 4))
        for start in range(0, len(rows), step):
            piece = np.ascontiguousarray(rows[start : start + step], dtype="<f4")
            self._digest.update(piece.data)

    def hexdigest(self) -> str:
        """16 hex digits."""
        return self._digest.hexdigest()[:16]


def fingerprint(params: Any, fetch: Callable[[Any], np.ndarray] = np.asarray) -> str:
    """The fingerprint of a whole tree, unrolled or scanned; one weight at a time is on the host.

    Args:
        params: the weights.
        fetch: brings one array to the host; `partitioning.fetch` for arrays of several processes.
    """
    flat = flatten_dict(params, sep="/")
    leaves: dict[str, tuple[str, int | None]] = {}
    for path, leaf in flat.items():
        layers = leaf.shape[0] if "/layers/" in path else None
        for layer in [None] if layers is None else range(layers):
            leaves[unrolled_path(path, layer)] = (path, layer)
    hashed = Fingerprint()
    for unrolled, (path, layer) in sorted(leaves.items()):
        leaf = flat[path] if layer is None else flat[path][layer]
        hashed.add(unrolled, fetch(leaf))
    return hashed.hexdigest()
