"""BLEU, chrF and ROUGE by the libraries that publish them, 0 to 1 (papers print 100 times that).

A target is the list of references of an example. Without any example the value is 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from mpt_jax.errors import UserError


def bleu(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """sacrebleu's corpus BLEU with its defaults: cased, mteval's 13a tokens, exponential smoothing.

    Raises:
        UserError: an example has no reference.
    """
    import sacrebleu

    # force: a hint on tokenised texts is not wanted for data sets that are distributed so.
    return {"bleu": _corpus_score(sacrebleu.BLEU(force=True), targets, predictions)}


def chrf(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """sacrebleu's chrF2: character n-grams to 6, recall of twice precision's weight.

    Raises:
        UserError: an example has no reference.
    """
    import sacrebleu

    return {"chrf": _corpus_score(sacrebleu.CHRF(), targets, predictions)}


def rouge1(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-1; see `_rouge`."""
    return _rouge("rouge1", targets, predictions)


def rouge2(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-2; see `_rouge`."""
    return _rouge("rouge2", targets, predictions)


def rougeL(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:  # noqa: N802
    """ROUGE-L; see `_rouge`."""
    return _rouge("rougeL", targets, predictions)


def check_references(targets: Sequence[Sequence[str]]) -> None:
    """Raises UserError if an example has no reference."""
    for i, references in enumerate(targets):
        if not references:
            raise UserError(
                f"Example {i} has no reference text; every example of a generating task needs one."
            )


def _corpus_score(
    metric: Any, targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> float:
    check_references(targets)
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets, but {len(predictions)} predictions")
    if not targets:
        return 0.0
    # sacrebleu wants the first references of all, then the second ones, ..., None where there is none.
    streams = [list(stream) for stream in itertools.zip_longest(*targets)]
    return metric.corpus_score(list(predictions), streams).score / 100


def _rouge(
    name: str, targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
    """Mean of rouge-score's F measure, without stemming; of several references the best counts.

    Raises:
        UserError: an example has no reference.
    """
    from rouge_score.rouge_scorer import RougeScorer

    check_references(targets)
    scorer = RougeScorer([name])
    scores = [
        scorer.score_multi(references, prediction)[name].fmeasure
        for references, prediction in zip(targets, predictions, strict=True)
    ]
    return {name: float(sum(scores) / len(scores)) if scores else 0.0}
