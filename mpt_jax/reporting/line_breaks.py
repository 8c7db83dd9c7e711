"""Where the lines of a narrow column break: between words, else within names, else anywhere."""

import re
from collections.abc import Callable, Iterable

Parts = Callable[[Iterable[str]], list[str]]  # what is kept whole of each text
_PIECE = re.compile(r"(?<=\w[_/-])(?=[A-Za-z])")  # of a_b, a-b and a/b; not of 1e-05 or 3-4


def whole(texts: Iterable[str]) -> list[str]:
    return list(texts)


def words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.split()]


def pieces(texts: Iterable[str]) -> list[str]:
    return [piece for word in words(texts) for piece in _PIECE.split(word)]


def letters(texts: Iterable[str]) -> list[str]:
    return [letter for text in texts for letter in text]


def longest(texts: Iterable[str]) -> int:
    return max([1, *map(len, texts)])


def broken(text: str, width: int) -> str:
    """The text in lines of at most `width`."""
    lines = [""]
    for word in text.split():
        space = " " if lines[-1] else ""
        if len(lines[-1] + space + word) <= width:
            lines[-1] += space + word
            continue
        if lines[-1]:
            lines.append("")
        for piece in _PIECE.split(word):
            if lines[-1] and len(lines[-1] + piece) > width:
                lines.append("")
            while len(piece) > width:
                lines[-1:] = [piece[:width], ""]
                piece = piece[width:]
            lines[-1] += piece
    return "\n".join(lines)
