"""The four single targets of the paper: WinoGrande, Yelp polarity, SciTail, PAWS-Wiki.

"t5" is T5's manner applied to sets that T5 was not trained on: the keys in alphabetical order, and
labels in words.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.tasks.data_set import (
    DataSet, Layout, Located, Place, Record, Stored, Text, TextFormat,
)  # fmt: skip
from mpt_jax.tasks.readers import json_lines, parse_table, text_lines
from mpt_jax.tasks.text_formats import classification, digits, labelled

# --- WinoGrande -------------------------------------------------------------------------------------

WINOGRANDE_LABELS = ("1", "2")


def parse_json_rows(
    paths: tuple[str, ...], split: str, *, names: Mapping[str, str]
) -> Iterator[Located]:
    """Records of files with one JSON object a line.

    Args:
        names: field -> its name in the file.

    Raises:
        UserError: a line that lacks one of them.
    """
    del split
    for path in paths:
        for place, line in json_lines(path):
            if missing := set(names.values()) - set(line):
                raise UserError(
                    f"{place}: there is no {', '.join(map(repr, sorted(missing)))}, only "
                    f"{', '.join(map(repr, line)) or 'nothing'}."
                )
            yield place, {field: line[name] for field, name in names.items()}


def renamed(
    records: Iterator[Located], split: str, *, names: Mapping[str, str]
) -> Iterator[Located]:
    """Records with some fields under other names: field -> its name in the source."""
    del split
    for place, record in records:
        yield place, {**record, **{field: record[name] for field, name in names.items()}}


def write_options(record: Record, *, doubled: bool) -> Iterator[Text]:
    """ATTEMPT's form; `doubled` with its fault, the first option in both places."""
    second = record["option1" if doubled else "option2"]
    options = f"option0: {record['option1']} option1: {second}"
    yield Text(f"winogrande sentence: {record['sentence']} {options}", str(record["label"]))


def _winogrande_format(*, doubled: bool) -> TextFormat:
    return TextFormat(
        functools.partial(write_options, doubled=doubled), labels=digits(WINOGRANDE_LABELS)
    )


WINOGRANDE = DataSet(
    task="winogrande",
    title="WinoGrande XL",
    fields={
        "sentence": "text",
        "option1": "text",
        "option2": "text",
        "label": WINOGRANDE_LABELS,
    },
    sizes={"train": 40_398, "validation": 1_267},
    layouts=(
        Layout(
            folders=("winogrande_1.1", "winogrande", ""),
            files={"train": ("train_xl.jsonl",), "validation": ("dev.jsonl",)},
            parse=functools.partial(
                parse_json_rows,
                names={
                    "sentence": "sentence",
                    "option1": "option1",
                    "option2": "option2",
                    "label": "answer",
                },
            ),
        ),
    ),
    tfds="winogrande",
    hub="allenai/winogrande/winogrande_xl",
    stored={
        "tfds": Stored(splits={"train": "train_xl"}),
        "datasets": Stored(conform=functools.partial(renamed, names={"label": "answer"})),
    },
    formats={
        "attempt": _winogrande_format(doubled=False),
        "t5": labelled(
            "winogrande", ("option1", "option2", "sentence"), labels=("option1", "option2")
        ),
    },
    metrics=("accuracy",),
    postprocess="label_index",
    split_rule="held_out_train",
    licence="CC BY 4.0",
    citation="""@inproceedings{sakaguchi2020winogrande,
  title = {{WinoGrande}: An Adversarial {Winograd} Schema Challenge at Scale},
  author = {Sakaguchi, Keisuke and Le Bras, Ronan and Bhagavatula, Chandra and Choi, Yejin},
  booktitle = {Proceedings of AAAI},
  year = {2020},
  url = {https://arxiv.org/abs/1907.10641}
}""",
    homepage="https://winogrande.allenai.org/",
)

# --- Yelp polarity ----------------------------------------------------------------------------------

YELP_LABELS = ("negative", "positive")
