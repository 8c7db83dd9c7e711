"""NIST's score of generated text (Doddington 2002), as mteval-v13a has it with several references.

No scale: 0 where nothing matches, and higher the more telling the n-grams that match; tables print it
as it is. Written here since NLTK's takes another length and other counts with several references, and
fails on texts of few words.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from mpt_jax.tasks.metrics.generation import check_references
from mpt_jax.tasks.metrics.words import lower_case_words, n_grams

_ORDERS = range(1, 6)
# The factor for brevity is 1/2 for texts of 2/3 of the references' mean length.
_BETA = math.log(0.5) / math.log(1.5) ** 2


def nist(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """The score of the corpus, of n-grams to 5, in lower case and mteval's 13a tokens.

    Args:
        targets: the references of each example.

    Raises:
        UserError: an example has no reference.
    """
    check_references(targets)
    references = [[lower_case_words(text) for text in texts] for texts in targets]
    hypotheses = [lower_case_words(text) for text in predictions]
    return {"nist": nist_of_words(references, hypotheses)}


def nist_of_words(
    references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]]
) -> float:
    """The score of texts that are split into words."""
    counts = _counts(words for texts in references for words in texts)
    counts[()] = sum(len(words) for texts in references for words in texts)
    gained: defaultdict[int, float] = defaultdict(float)  # order -> information of what matches
    made: Counter[int] = Counter()  # order -> n-grams of the hypotheses
    for texts, hypothesis in zip(references, hypotheses, strict=True):
        most: Counter[tuple[str, ...]] = Counter()
        for words in texts:
            most |= _counts([words])
        for n_gram, count in _counts([hypothesis]).items():
            made[len(n_gram)] += count
            if matching := min(count, most[n_gram]):
                information = math.log2(counts[n_gram[:-1]] / counts[n_gram])
                gained[len(n_gram)] += matching * information
    length = sum(map(len, hypotheses))
    mean_reference = sum(sum(map(len, texts)) / len(texts) for texts in references)
    return _brevity(length, mean_reference) * sum(gained[n] / made[n] for n in made)


def _counts(texts: Iterable[Sequence[str]]) -> Counter[tuple[str, ...]]:
    """Counts of all n-grams."""
    counts: Counter[tuple[str, ...]] = Counter()
    for words in texts:
        for n in _ORDERS:
            counts.update(n_grams(words, n))
    return counts


def _brevity(length: int, reference: float) -> float:
    if not length:
        return 0.0
    return math.exp(_BETA * math.log(min(1.0, length / reference)) ** 2) if reference else 1.0
