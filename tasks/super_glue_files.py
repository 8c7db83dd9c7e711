"""SuperGLUE's files as they are distributed: JSON lines, of which one may hold several examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.tasks.data_set import Layout, Located
from mpt_jax.tasks.readers import json_lines

_PLACES = ("", "super_glue", "superglue", "SuperGLUE")

Unfold = Callable[[Mapping[str, Any]], list[dict[str, Any]]]


def parse_objects(paths: tuple[str, ...], split: str, *, unfold: Unfold) -> Iterator[Located]:
    """The records that `unfold` makes of each line's object.

    Raises:
        UserError: a line that lacks something, with the line.
    """
    del split
    for path in paths:
        for place, value in json_lines(path):
            try:
                records = unfold(value)
            except (KeyError, TypeError, IndexError) as error:
                raise UserError(
                    f"{place}: not laid out as the data set's published files "
                    f"({type(error).__name__}: {error}); it has {', '.join(map(repr, value))}."
                ) from error
            for record in records:
                yield place, record


def as_it_is(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(value)]


def unfold_multirc(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record for each answer of each question of a paragraph."""
    passage = value["passage"]
    return [
        {
            "paragraph": passage["text"],
            "question": question["question"],
            "answer": answer["text"],
            "label": answer["label"],
            "idx": {
                "paragraph": value["idx"],
                "question": question["idx"],
                "answer": answer["idx"],
            },
        }
        for question in passage["questions"]
        for answer in question["answers"]
    ]


def unfold_record(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record for each query about a passage; entities and answers each once, sorted, as TFDS has them."""
    passage = value["passage"]
    text = passage["text"]
    entities = sorted({text[e["start"] : e["end"] + 1] for e in passage["entities"]})
    return [
        {
            "passage": text,
            "query": query["query"],
            "entities": entities,
            "answers": sorted({answer["text"] for answer in query["answers"]}),
            "idx": {"passage": value["idx"], "query": query["idx"]},
        }
        for query in value["qas"]
    ]


def unfold_wsc(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The spans beside the text, mended as in TFDS's `wsc.fixed`."""
    record = {**value, **value["target"]}
    for span in ("span1", "span2"):
        record[f"{span}_text"] = mended_span(
            record["text"], record[f"{span}_text"], record[f"{span}_index"]
        )
    return [record]


def mended_span(text: str, span: str, index: int) -> str:
    """A span as it stands in the text: some published ones differ in case, a full stop or a line break.

    One that is still no part of the text is returned as it is mended.
    """
    if span in text:
        return span
    first = text.split()[index]
    case = str.lower if first[:1].islower() else str.upper
    return (case(span[:1]) + span[1:]).rstrip(".").replace("\n", " ")


def layout_of(folder: str, unfold: Unfold = as_it_is) -> Layout:
    """The layout of a set in its folder, below any of the places where SuperGLUE may be unpacked."""
    return Layout(
        folders=tuple(str(Path(place, folder)) for place in _PLACES),
        files={"train": ("train.jsonl",), "validation": ("val.jsonl",)},
        parse=functools.partial(parse_objects, unfold=unfold),
    )
