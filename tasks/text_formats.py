"""The two ways to write a record as text.

- "attempt": as ATTEMPT (Asai et al. 2022) and MPT (Wang et al. 2023) do: the task's name, `key: value`
  pairs, and the number of the label as target.
- "t5": as T5 was trained (Raffel et al. 2020, appendix D): the keys in the order of their names where
  the paper's are, and the label's name as target.

Data sets whose text is no row of `key: value` pairs bring a function of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from mpt_jax.tasks.data_set import Record, Text, TextFormat


def keyed(prefix: str, keys: tuple[str, ...], record: Record) -> str:
    """`prefix key: value key: value ...`; a key is also the field's name."""
    return " ".join([prefix, *(f"{key}: {record[key]}" for key in keys)])


def write_labelled(
    record: Record, *, prefix: str, keys: tuple[str, ...], labels: tuple[str, ...]
) -> Iterator[Text]:
    yield Text(keyed(prefix, keys, record), labels[record["label"]])


def labelled(prefix: str, keys: tuple[str, ...], labels: tuple[str, ...]) -> TextFormat:
    """A text format for records with a field "label": `key: value` pairs, then the label's text."""
    write = functools.partial(write_labelled, prefix=prefix, keys=keys, labels=labels)
    return TextFormat(write, labels)


def digits(labels: tuple[str, ...]) -> tuple[str, ...]:
    """What "attempt" writes for labels: their numbers."""
    return tuple(str(number) for number in range(len(labels)))


def classification(
    name: str,
    keys: tuple[str, ...],
    labels: tuple[str, ...],
    *,
    attempt: str | None = None,
    t5_labels: tuple[str, ...] | None = None,
) -> dict[str, TextFormat]:
    """Both formats of a data set with labels.

    Args:
        name: T5's of the task.
        keys: the fields in ATTEMPT's order; T5's is alphabetical.
        labels: the labels' names.
        attempt: ATTEMPT's name of the task, where it is another.
        t5_labels: what T5 writes, where it is not the names.
    """
    return {
        "attempt": labelled(attempt or name, keys, digits(labels)),
        "t5": labelled(name, tuple(sorted(keys)), t5_labels or labels),
    }
