"""SQuAD 1.1, and the text of all extractive question answering.

The forms are T5's (Raffel et al. 2020) and ATTEMPT's, which differ by the task's name in front:

    squad question: Who wrote Emma ? context: Emma ( 1815 ) is a novel by Jane Austen .

An example has the first right answer as target and all of them in `answers`, so that evaluation asks a
question once and takes the best match. Answers have spaces round their punctuation as the context does,
since the model copies them from there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from mpt_jax.errors import UserError
from mpt_jax.tasks.data_set import (
    DataSet,
    Layout,
    Located,
    Place,
    Record,
    Stored,
    Text,
    TextFormat,
)
from mpt_jax.tasks.json_files import json_document
from mpt_jax.tasks.punctuation import pad_punctuation

EXTRAS = {"answers": "texts"}
METRICS = ("squad_f1", "squad_em")
POSTPROCESS = "answers"


def write_question(record: Record, *, prefix: str) -> Iterator[Text]:
    """A record with "question", "context" and "answers" as one example."""
    parts = [prefix, "question:", pad_punctuation(record["question"])]
    parts += ["context:", pad_punctuation(record["context"])]
    answers = [pad_punctuation(answer) for answer in record["answers"]]
    yield Text(" ".join(filter(None, parts)), answers[0], {"answers": answers})


def question_answering(name: str) -> dict[str, TextFormat]:
    """Both formats; `name` is what "attempt" writes in front."""
    return {
        "attempt": TextFormat(functools.partial(write_question, prefix=name)),
        "t5": TextFormat(functools.partial(write_question, prefix="")),
    }


def right_answers(place: Place, answers: Any) -> list[str]:
    """The answers that are not blank; `answers` holds texts, or their bytes as TFDS does.

    Raises:
        UserError: there is none, or they are no list of texts.
    """
    items = answers.tolist() if isinstance(answers, np.ndarray) else answers
    if not isinstance(items, list) or not all(isinstance(item, str | bytes) for item in items):
        raise UserError(f"{place}: the answers are {answers!r}; expected a list of texts.")
    texts = [item.decode("utf-8") if isinstance(item, bytes) else item for item in items]
    found = [text for text in texts if text.strip()]
    if not found:
        raise UserError(f"{place}: the question has no answer; expected at least one.")
    return found


def parse_squad(paths: tuple[str, ...], split: str) -> Iterator[Located]:
    """The questions of SQuAD's JSON: articles of paragraphs of questions.

    Raises:
        UserError: not JSON, of another structure, SQuAD 2.0, or a question without an answer; with the
            file and the number of the question in it.
    """
    del split
    for path in paths:
        number = 0
        for article in _items(path, json_document(path), "data", number):
            for paragraph in _items(path, article, "paragraphs", number):
                for question in _items(path, paragraph, "qas", number):
                    number += 1
                    place = Place(path, number, "question")
                    if "is_impossible" in question:
                        raise UserError(f"{place}: this is SQuAD 2.0; expected version 1.1.")
                    answers = [a.get("text") for a in _items(path, question, "answers", number)]
                    record = {**article, **paragraph, **question}
                    yield place, {**record, "answers": right_answers(place, answers)}


def _items(path: str, parent: Any, key: str, number: int) -> list[dict[str, Any]]:
    items = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        where = f" near question {number}" if number else ""
        raise UserError(
            f"{path}{where}: there is no list {key!r} of objects; expected SQuAD's "
            "{'data': [{'paragraphs': [{'context': ..., 'qas': [{'question': ..., 'answers': ...}]}]}]}."
        )
    return items


def unnested_answers(records: Iterator[Located], split: str) -> Iterator[Located]:
    """Records of TFDS and the hub, where the answers are {"text": [...], "answer_start": [...]}."""
    del split
    for place, record in records:
        answers = right_answers(place, record["answers"]["text"])
        yield place, {**record, "answers": answers}


SQUAD = DataSet(
    task="squad",
    title="SQuAD 1.1",
    fields={
        "id": "text",
        "title": "text",
        "context": "text",
        "question": "text",
        "answers": "texts",
    },
    sizes={"train": 87_599, "validation": 10_570},
    layouts=(
        Layout(
            folders=("squad", "SQuAD", ""),
            files={"train": ("train-v1.1.json",), "validation": ("dev-v1.1.json",)},
            parse=parse_squad,
        ),
    ),
    tfds="squad/v1.1",
    hub="rajpurkar/squad/plain_text",
    stored={
        "tfds": Stored(conform=unnested_answers),
        "datasets": Stored(conform=unnested_answers),
    },
    formats=question_answering("squad"),
    extras=EXTRAS,
    metrics=METRICS,
    postprocess=POSTPROCESS,
    split_rule="held_out_train",
    licence="CC BY-SA 4.0",
    citation="""@inproceedings{rajpurkar2016squad,
  title = {{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
  author = {Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
  booktitle = {Proceedings of EMNLP},
  year = {2016},
  url = {https://aclanthology.org/D16-1264}
}""",
    homepage="https://rajpurkar.github.io/SQuAD-explorer/",
)
