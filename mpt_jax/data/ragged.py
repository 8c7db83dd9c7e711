"""Positions of runs of different lengths in a flat array, for filling batches in one go."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def positions(
    starts: Int[np.ndarray, " E"], lengths: Int[np.ndarray, " E"]
) -> Int[np.ndarray, " N"]:
    """Of every run its positions start ... start + length - 1, run after run.

    >>> positions(np.array([10, 3]), np.array([2, 3])).tolist()
    [10, 11, 3, 4, 5]
    """
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
