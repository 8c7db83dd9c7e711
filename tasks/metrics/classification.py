"""Metrics of class numbers: 0 upward, and -1 for a prediction that is none of the labels.

All lie between 0 and 1, but for Matthews' coefficient, which begins at -1. None is ever NaN: where a
formula divides by zero, and without any example, the value is 0.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics.grouped import Grouped


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Share of predictions that equal the target."""
    return {"accuracy": _share_equal(targets, predictions)}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """F1 of class 1 against class 0.

    A prediction that is neither counts as the wrong one of the two, as in T5's and ATTEMPT's scores:
    it costs precision where the target is 0 and recall where it is 1.

    Raises:
        UserError: a target is neither 0 nor 1.
    """
    return {"f1": _binary_f1("f1", targets, predictions)}


def f1_macro(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Mean of the F1 of each class that occurs among the targets.

    Predictions of other classes, or of none, count as misses. Where every class has an example this
    is T5's score for CB, which puts 0 for a class without any.
    """
    pairs = list(zip(targets, predictions, strict=True))
    scores = []
    for label in sorted(set(targets)):
        both = sum(t == label == p for t, p in pairs)
        scores.append(_ratio(2 * both, sum((t == label) + (p == label) for t, p in pairs)))
    return {"f1_macro": _ratio(sum(scores), len(scores))}


def multirc_f1a(targets: Sequence[Grouped], predictions: Sequence[int]) -> dict[str, float]:
    """MultiRC's F1a: `f1` over the answers of all questions.

    Raises:
        UserError: a target is neither 0 nor 1.
    """
    labels = [target.value for target in targets]
    return {"multirc_f1a": _binary_f1("multirc_f1a", labels, predictions)}


def multirc_em(targets: Sequence[Grouped], predictions: Sequence[int]) -> dict[str, float]:
    """MultiRC's exact match: the share of questions of which every answer is judged rightly.

    A question of which only some answers are among the examples (a halved split) counts by those.
    """
    right: dict[str, bool] = defaultdict(lambda: True)
    for target, prediction in zip(targets, predictions, strict=True):
        right[target.group] &= target.value == prediction
    return {"multirc_em": _ratio(sum(right.values()), len(right))}


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Matthews' correlation coefficient, for any number of classes (R_K; Gorodkin 2004), -1 to 1.

    A prediction that is none of the labels is of a class of its own. 0 where the targets or the
    predictions are all alike.
    """
    classes, codes = np.unique([*targets, *predictions], return_inverse=True)
    t, p = codes[: len(targets)], codes[len(targets) :]
    if len(t) != len(p):
        raise ValueError(f"{len(t)} targets, but {len(p)} predictions")
    # Python's integers, since products of counts of large sets leave int64.
    of_t = [int(n) for n in np.bincount(t, minlength=len(classes))]
    of_p = [int(n) for n in np.bincount(p, minlength=len(classes))]
    n, equal = len(t), int(np.sum(t == p))
    covariance = n * equal - sum(a * b for a, b in zip(of_t, of_p, strict=True))
    variances = [n * n - sum(a * a for a in counts) for counts in (of_t, of_p)]
    return {"matthews": _ratio(covariance, (variances[0] * variances[1]) ** 0.5)}


def _binary_f1(name: str, targets: Sequence[int], predictions: Sequence[int]) -> float:
    if strange := set(targets) - {0, 1}:
        raise UserError(
            f"{name} is of two classes, 0 and 1; the targets hold {sorted(strange)[:3]}. "
            "Take f1_macro or accuracy for more than two labels."
        )
    judged = [(t, p if p in (0, 1) else 1 - t) for t, p in zip(targets, predictions, strict=True)]
    both = sum(t == p == 1 for t, p in judged)
    return _ratio(2 * both, sum(t + p for t, p in judged))


def _share_equal(targets: Sequence[Any], predictions: Sequence[Any]) -> float:
    equal = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return _ratio(equal, len(targets))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
