"""Spaces round punctuation, as T5 and ATTEMPT write questions, contexts and answers."""

import re
import unicodedata

_NEITHER_WORD_NOR_SPACE = re.compile(r"[^\w\s]")
_KEPT = "LNM"  # Unicode's letters, numbers and accents


def pad_punctuation(text: str) -> str:
    """`text` with a space on either side of each sign, single spaces, and none at the ends.

    Signs are all but letters, numbers, accents, underscores and white space (Raffel et al. 2020;
    Asai et al. 2022).

    >>> pad_punctuation("Who wrote 'Emma' (1815)?")
    "Who wrote ' Emma ' ( 1815 ) ?"
    """
    return " ".join(_NEITHER_WORD_NOR_SPACE.sub(_padded, text).split())


def _padded(sign: re.Match[str]) -> str:
    return sign[0] if unicodedata.category(sign[0])[0] in _KEPT else f" {sign[0]} "
