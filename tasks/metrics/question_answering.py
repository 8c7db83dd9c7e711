"""Exact match and F1 of answers in words, 0 to 1; without any example 0.

A target is the list of right answers, of which the best match counts. Where a question has none, the
empty answer is right (SQuAD 2.0's rule).

Source: the evaluation of SQuAD (Rajpurkar et al. 2016), which MRQA 2019 and ReCoRD (Zhang et al. 2018)
use as well.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mpt_jax.tasks.metrics.grouped import Grouped

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_em(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions that equal a right answer, both normalised."""
    return {"squad_em": _mean_of_best(_equal, targets, predictions)}


def squad_f1(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Mean F1 of the words that prediction and right answer share, both normalised.

    An answer of which normalisation leaves nothing ("The") has F1 1 with another such, as in SQuAD
    2.0's evaluation; 1.1's says 0 there, below its exact match.
    """
    return {"squad_f1": _mean_of_best(_token_f1, targets, predictions)}


def record_em(targets: Sequence[Grouped], predictions: Sequence[str]) -> dict[str, float]:
    """ReCoRD's exact match; see `_one_of_each_query`."""
    return {"record_em": _mean_of_best(_equal, *_one_of_each_query(targets, predictions))}


def record_f1(targets: Sequence[Grouped], predictions: Sequence[str]) -> dict[str, float]:
    """ReCoRD's F1; see `_one_of_each_query`."""
    return {"record_f1": _mean_of_best(_token_f1, *_one_of_each_query(targets, predictions))}


def exact_match(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions that equal a right answer to the letter."""
    return {"exact_match": _mean(float(p in t) for t, p in zip(targets, predictions, strict=True))}


def normalized(answer: str) -> str:
    """`answer` in lower case, without punctuation (ASCII's) and articles, single spaces between words.

    >>> normalized("The  U.S. Army")
    'us army'
    """
    bare = answer.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _one_of_each_query(
    targets: Sequence[Grouped], predictions: Sequence[str]
) -> tuple[list[Sequence[str]], list[str]]:
    """The first example of each query.

    Training examples are made one for each right answer; a validation split that is cut from them
    has a query several times, with the same inputs and so the same prediction.
    """
    first: dict[str, tuple[Sequence[str], str]] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        first.setdefault(target.group, (target.value, prediction))
    return [answers for answers, _ in first.values()], [p for _, p in first.values()]


def _mean_of_best(
    score: Callable[[str, str], float],
    targets: Sequence[Sequence[str]],
    predictions: Sequence[str],
) -> float:
    return _mean(
        max(score(normalized(answer), normalized(prediction)) for answer in (answers or [""]))
        for answers, prediction in zip(targets, predictions, strict=True)
    )


def _equal(answer: str, prediction: str) -> float:
    return float(answer == prediction)


def _token_f1(answer: str, prediction: str) -> float:
    of_answer, of_prediction = answer.split(), prediction.split()
    if not of_answer or not of_prediction:
        return float(of_answer == of_prediction)
    common = (Counter(of_answer) & Counter(of_prediction)).total()
    return 2 * common / (len(of_answer) + len(of_prediction))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
