"""CIDEr-D of generated text (Vedantam et al. 2015): n-grams weighted by how few examples have them.

0 to 10, as tables print it (E2E: about 2). Its usual program, pycocoevalcap, is a hundred megabytes and
needs Java to split text into words. Here words are mteval's 13a tokens without punctuation, which may
differ from Stanford's in clitics and hyphens.
"""

import math
from collections import Counter
from collections.abc import Sequence

from mpt_jax.tasks.metrics.generation import check_references
from mpt_jax.tasks.metrics.words import lower_case_words, n_grams, without_punctuation

_ORDERS = range(1, 5)
_LENGTH_SPREAD = 6.0  # sigma, in words


def cider(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """CIDEr-D, in lower case.

    Each n-gram's weight comes from the references of the given examples, so scores on a few examples
    do not compare with those on many; on a single one the score is 0.

    Args:
        targets: the references of each example.

    Raises:
        UserError: an example has no reference.
    """
    check_references(targets)
    references = [[_words(text) for text in texts] for texts in targets]
    return {"cider": cider_of_words(references, [_words(text) for text in predictions])}


def cider_of_words(
    references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]]
) -> float:
    """The score of texts that are split into words."""
    examples_with: Counter[tuple[str, ...]] = Counter()
    for texts in references:
        examples_with.update({g for words in texts for n in _ORDERS for g in n_grams(words, n)})

    def vector(words: Sequence[str], n: int) -> dict[tuple[str, ...], float]:
        return {
            n_gram: count * math.log(len(references) / max(1, examples_with[n_gram]))
            for n_gram, count in Counter(n_grams(words, n)).items()
        }

    total = 0.0
    for texts, hypothesis in zip(references, hypotheses, strict=True):
        own = {n: vector(hypothesis, n) for n in _ORDERS}
        for words in texts:
            difference = len(hypothesis) - len(words)
            like_length = math.exp(-(difference**2) / (2 * _LENGTH_SPREAD**2))
            alike = sum(_clipped_cosine(own[n], vector(words, n)) for n in _ORDERS)
            total += like_length * alike / (len(_ORDERS) * len(texts))
    return 10 * total / len(references) if references else 0.0


def _words(text: str) -> list[str]:
    return without_punctuation(lower_case_words(text))


def _clipped_cosine(
    own: dict[tuple[str, ...], float], other: dict[tuple[str, ...], float]
) -> float:
    """Cosine in which saying an n-gram more often than the reference gains nothing."""
    lengths = math.hypot(*own.values()) * math.hypot(*other.values())
    product = sum(min(x, other[g]) * other[g] for g, x in own.items() if g in other)
    return product / lengths if lengths else 0.0
