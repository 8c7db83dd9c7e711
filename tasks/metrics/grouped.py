"""A target that belongs to a question with several examples."""

from typing import Any, NamedTuple


class Grouped(NamedTuple):
    """A target, and the question that it is of.

    Attributes:
        group: tells the question; examples of one question have the same.
        value: a class number (MultiRC) or the list of right answers (ReCoRD).
    """

    group: str
    value: Any
