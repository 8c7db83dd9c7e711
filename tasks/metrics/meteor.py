"""METEOR (Lavie and Agarwal 2007) by NLTK, with the WordNet that the user has on disk.

Nothing is downloaded: WordNet is looked for in `corpora/wordnet` or `corpora/wordnet.zip` of the folders
that NLTK_DATA names and of NLTK's own. Words that are equal, have one stem, or are synonyms match. The
numbers are not those of papers on generation, whose METEOR 1.5 is a Java program with other weights, other
stages and paraphrases; and NLTK looks for synonyms of what its stemmer leaves of a word, so that it misses
those of words like "large" ("larg").
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics.generation import check_references
from mpt_jax.tasks.metrics.words import lower_case_words

_PLACES = ("corpora/wordnet", "corpora/wordnet.zip/wordnet/")


def meteor(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Mean over examples of the best reference's score, in lower case and mteval's 13a tokens.

    Args:
        targets: the references of each example.

    Raises:
        UserError: an example has no reference, or there is no WordNet.
    """
    check_references(targets)
    if not targets:
        return {"meteor": 0.0}
    from nltk.translate.meteor_score import meteor_score

    words = find_wordnet()
    scores = [
        meteor_score(
            [lower_case_words(text) for text in references], lower_case_words(prediction), wordnet=words
        )
        for references, prediction in zip(targets, predictions, strict=True)
    ]  # fmt: skip
    return {"meteor": float(sum(scores) / len(scores))}


def find_wordnet() -> Any:
    """NLTK's reader of the user's WordNet.

    Raises:
        UserError: there is none.
    """
    from nltk import data

    for place in _PLACES:
        try:
            return _reader(data.find(place))
        except LookupError:
            continue
    raise UserError(
        "The metric 'meteor' needs WordNet, which mpt never downloads: there is no corpora/wordnet or "
        f"corpora/wordnet.zip in {', '.join(data.path)}. Get it with `python -m nltk.downloader -d FOLDER "
        "wordnet`, and set NLTK_DATA=FOLDER."
    )


@functools.cache
def _reader(root: Any) -> Any:
    from nltk.corpus.reader import WordNetCorpusReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no other languages
        return WordNetCorpusReader(root, omw_reader=None)
