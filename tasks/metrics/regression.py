"""Correlations of predicted numbers with true ones, -1 to 1.

The formulas are undefined where all targets or all predictions are alike, and for fewer than two
examples. The value is 0 there, never NaN, as in T5's and ATTEMPT's scores.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation coefficient of finite numbers."""
    return {"pearson": _correlation(*_finite(targets, predictions))}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Spearman's: Pearson's of the ranks, where equal numbers share the mean of their ranks."""
    t, p = _finite(targets, predictions)
    return {"spearman": _correlation(_ranks(t), _ranks(p))}


def _finite(
    targets: Sequence[float], predictions: Sequence[float]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    t, p = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    if t.shape != p.shape:
        raise ValueError(f"{len(t)} targets, but {len(p)} predictions")
    if not (np.isfinite(t).all() and np.isfinite(p).all()):
        raise ValueError("Correlations are of finite numbers; postprocess texts by `number`.")
    return t, p


def _correlation(t: Float[np.ndarray, " N"], p: Float[np.ndarray, " N"]) -> float:
    if len(t) < 2 or np.all(t == t[0]) or np.all(p == p[0]):
        return 0.0
    product = float(np.dot(_standard(t), _standard(p)))
    return min(1.0, max(-1.0, product))


def _standard(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Deviations from the mean, of length 1; scaled first, lest squares of a wild guess overflow."""
    x = x / np.max(np.abs(x))
    deviations = x - np.mean(x)
    deviations = deviations / np.max(np.abs(deviations))
    deviations = deviations - np.mean(deviations)  # what rounding left of the mean
    return deviations / np.linalg.norm(deviations)


def _ranks(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
