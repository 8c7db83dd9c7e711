"""Text generation with several references: trained on each of them, scored once against all.

Neither ATTEMPT nor T5 has a form for E2E and WebNLG, so theirs are ours: "attempt" writes the input as
distributed behind a key, as ATTEMPT does with all sets; "t5" writes it out as `key: value` pairs.

A train split has one example for each reference text, as distributed. In any other split an input is
there once: its target is the first reference, and all of them reach the metrics through the
postprocessor. So an input is decoded once, and no prediction counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.tasks.data_set import Located, Place, Record, Text

METRICS = ("bleu", "nist", "rougeL", "cider")  # the paper's but METEOR, see metrics/meteor.py
EXTRAS = {"answers": "texts"}  # the name that the postprocessor `answers` looks for
POSTPROCESS = "answers"


def one_or_each(
    records: Iterable[Located], split: str, *, key: Callable[[Record], Hashable]
) -> Iterator[Located]:
    """Records with "references" as the split wants them, in the order in which inputs first appear.

    Args:
        key: what makes two records the same input.

    Yields:
        The records with "target", one text, and "references", texts.

    Raises:
        UserError: a record without a reference, or with a blank one.
    """
    if split == "train":
        for place, record in records:
            for text in _references(place, record):
                yield place, {**record, "target": text, "references": [text]}
        return
    first: dict[Hashable, Located] = {}
    found: dict[Hashable, list[str]] = {}
    for place, record in records:
        same = key(record)
        first.setdefault(same, (place, record))
        # Twice the same text stays twice, since CIDEr is a mean over references.
        found.setdefault(same, []).extend(_references(place, record))
    for same, (place, record) in first.items():
        yield place, {**record, "target": found[same][0], "references": found[same]}


def _references(place: Place, record: Record) -> list[str]:
    texts = list(record["references"])
    if not texts or not all(text.strip() for text in texts):
        raise UserError(
            f"{place}: the references are {texts!r}; expected at least one, none blank."
        )
    return texts


def text_of(inputs: str, record: Record) -> Text:
    """The example of a record that `one_or_each` gave."""
    return Text(inputs, record["target"], {"answers": record["references"]})


def decoded(value: Any) -> str:
    """A text of TFDS, which has bytes, or of the hub."""
    return value.decode("utf-8") if isinstance(value, bytes) else value
