"""Generation with several references: trained on each of them, scored once against all.

A train split has one example for each reference text, as distributed. In any other split an input is
there once: its target is the first reference, and all of them are in the field `references`, which
postprocessing hands to the metrics. So an input is decoded once, and no prediction counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator

from mpt_jax.errors import UserError
from mpt_jax.tasks.data_set import Located, Record

EXTRAS = {"references": "texts"}


def one_or_each(
    records: Iterable[Located], split: str, *, key: Callable[[Record], Hashable]
) -> Iterator[Located]:
    """Records with "references" as the split wants them, in the order in which inputs first appear.

    Args:
        key: what makes two records the same input.

    Yields:
        The records with "target", one text, and "references", texts, each once.

    Raises:
        UserError: a record without a reference, or with a blank one.
    """
    if split == "train":
        for place, record in records:
            for text in _references(place, record):
                yield place, {**record, "target": text, "references": [text]}
        return
    first: dict[Hashable, Located] = {}
    found: dict[Hashable, dict[str, None]] = {}
    for place, record in records:
        same = key(record)
        first.setdefault(same, (place, record))
        found.setdefault(same, {}).update(dict.fromkeys(_references(place, record)))
    for same, (place, record) in first.items():
        texts = list(found[same])
        yield place, {**record, "target": texts[0], "references": texts}


def _references(place: object, record: Record) -> list[str]:
    texts = list(record["references"])
    if not texts or not all(text.strip() for text in texts):
        raise UserError(f"{place}: the references are {texts!r}; expected at least one, none blank.")
    return texts
