"""What a data set of the benchmark is: where its examples come from, their text, their metrics.

A *record* is one example as a plain dict in the data set's canonical schema, which is TFDS's: the same
fields and label numbers, whichever source it was read from. A *text format* turns a record into texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mpt_jax.errors import UserError

Record = Mapping[str, Any]

#: One field of a schema: "text", "texts" (a list of them), "integer", "integers" (a dict of them),
#: "number", "similarity" (a number from 0 to 5), or the label names in the order of their numbers.
Field = str | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a record was read, for messages: a file or data set, and its line or row there."""

    source: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.source}, {self.unit} {self.number}"


Located = tuple[Place, Record]

#: From the paths of a split's files and the split's name to its records.
Parser = Callable[[tuple[str, ...], str], Iterator[Located]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One form in which a data set is distributed as files.

    Attributes:
        folders: below the data folder, any of which may hold the files; "" is the data folder itself.
        files: split -> its files' names inside such a folder; one with a star stands for all that fit,
            in the order of their names.
        parse: reads a split's files, record by record, in their order.
    """

    folders: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    parse: Parser


#: From a split's records in TFDS or on the hub, and the split's name here, to records in the canonical
#: schema.
Conform = Callable[[Iterator[Located], str], Iterator[Located]]


@dataclasses.dataclass(frozen=True)
class Stored:
    """How TFDS or the hub keeps a data set, where that is not the canonical schema.

    Attributes:
        splits: split -> its name there, where that is another.
        conform: makes the records canonical; None where they are.
    """

    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    conform: Conform | None = None


@dataclasses.dataclass(frozen=True)
class Text:
    """What the model sees of a record, and what metrics need beside it (the data set's `extras`)."""

    inputs: str
    targets: str
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)


#: From a record to its examples: one, or several (one for each right answer).
Write = Callable[[Record], Iterator[Text]]


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """How records are written.

    Attributes:
        write: writes a record.
        labels: what is written for each label number; empty where the target is no label.
    """

    write: Write
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One data set of the benchmark.

    Attributes:
        task: name of its seqio task.
        title: its name in prose.
        fields: the canonical schema: what every record must have. More is dropped.
        sizes: split -> examples in the published data set; only splits with public labels.
        layouts: the forms in which it is distributed as files, tried in turn.
        tfds: name in TFDS, with its configuration.
        hub: name on the Hugging Face hub, with its configuration; its last parts name the folder below
            the data folder.
        stored: "tfds" and "datasets" -> how they keep it, where that is not the canonical schema.
        formats: "attempt" and "t5".
        extras: fields that texts have beside inputs and targets, for the postprocessor: name -> "text"
            or "texts".
        metrics: names in `mpt_jax.tasks.metrics.METRICS`; the paper's comes first.
        postprocess: name of the function in `mpt_jax.tasks.metrics.postprocessors`.
        split_rule: how train, validation and test come from the splits, see `mpt_jax.data.splits`.
        licence: under what terms it is published, as far as its publishers say.
        citation: BibTeX.
        homepage: where it is published.
    """

    task: str
    title: str
    fields: Mapping[str, Field]
    sizes: Mapping[str, int]
    layouts: tuple[Layout, ...]
    tfds: str
    hub: str
    formats: Mapping[str, TextFormat]
    metrics: tuple[str, ...]
    postprocess: str
    split_rule: str
    licence: str
    citation: str
    homepage: str
    extras: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stored: Mapping[str, Stored] = dataclasses.field(default_factory=dict)


def checked(place: Place, record: Record, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of `record` that the schema names, each of its type.

    Raises:
        UserError: a field is missing, or its value is not what the schema says; with the place.
    """
    found = {}
    for name, field in fields.items():
        if name not in record:
            raise UserError(
                f"{place}: there is no field {name!r}, only {', '.join(map(repr, record)) or 'none'}; "
                f"expected {', '.join(map(repr, fields))}."
            )
        try:
            found[name] = _value(record[name], field)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{place}: {name!r} is {record[name]!r}; expected {_expected(field)}."
            ) from error
    return found


def _value(value: Any, field: Field) -> Any:
    if isinstance(field, tuple):
        return _label(value, field)
    return _READ[field](value)


def _label(value: Any, names: tuple[str, ...]) -> int:
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    number = int(value)
    if not 0 <= number < len(names):
        raise ValueError(number)
    return number


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, str):
        raise TypeError(value)
    value.encode("utf-8")  # halves of surrogate pairs, which JSON can have, cannot be
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str | bytes):
        raise TypeError(value)
    return [_text(item) for item in value]


def _integer(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return int(value)


def _integers(value: Any) -> dict[str, int]:
    return {str(name): _integer(number) for name, number in dict(value).items()}


def _number(value: Any) -> float:
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(number)
    return number


def _similarity(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 5:
        raise ValueError(number)
    return number


_READ: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "texts": _texts,
    "integer": _integer,
    "integers": _integers,
    "number": _number,
    "similarity": _similarity,
}


def _expected(field: Field) -> str:
    if isinstance(field, tuple):
        numbered = ", ".join(f"{number} ({name})" for number, name in enumerate(field))
        return f"one of the labels {numbered}"
    return {
        "text": "a text",
        "texts": "a list of texts",
        "integer": "a whole number",
        "integers": "whole numbers by name",
        "number": "a finite number",
        "similarity": "a number from 0 to 5",
    }[field]
