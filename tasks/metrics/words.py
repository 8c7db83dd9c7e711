"""Words and n-grams of generated text."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any


def lower_case_words(text: str) -> list[str]:
    """Tokens of mteval-v13a's rules, as sacrebleu has them, in lower case."""
    return _tokenizer()(text.lower()).split()


def without_punctuation(words: Sequence[str]) -> list[str]:
    """The tokens that are more than punctuation."""
    return [word for word in words if word.strip(string.punctuation)]


def n_grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of n words, in order."""
    return zip(*(words[i:] for i in range(n)), strict=False)


@cache
def _tokenizer() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()
