"""The paper's group "Others": WinoGrande, Yelp polarity, SciTail, PAWS-Wiki.

Yelp's train set is cut to 100,000 examples, as MPT's loader does, by its split rule; the rule
`yelp_whole` trains on all of it: `data.Data.split_rules = {"yelp_polarity": "yelp_whole"}`.

As files: `winogrande_1.1/train_xl.jsonl` and `dev.jsonl`; `yelp_review_polarity_csv/train.csv` and
`test.csv`; `SciTailV1.1/snli_format/scitail_1.0_*.txt`; PAWS's `final/train.tsv`, `dev.tsv`, `test.tsv`.

"t5" is T5's manner applied to sets that T5 was not trained on: the keys in alphabetical order, and
labels in words.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.tasks.csv_files import csv_rows
from mpt_jax.tasks.data_set import (
    DataSet,
    Layout,
    Located,
    Record,
    Stored,
    Text,
    TextFormat,
)
from mpt_jax.tasks.readers import parse_table
from mpt_jax.tasks.super_glue_files import parse_objects
from mpt_jax.tasks.text_formats import classification, digits, labelled

WINOGRANDE_LABELS = ("1", "2")
_WINOGRANDE_NAMES = {"label": "answer"}


def renamed(record: Record, *, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The record, with the canonical fields under their names.

    Args:
        names: field -> its name in the source.
    """
    return [{**record, **{field: record[name] for field, name in names.items()}}]


def stored_renamed(
    records: Iterator[Located], split: str, *, names: Mapping[str, str]
) -> Iterator[Located]:
    """Records of the hub, with the canonical fields under their names."""
    del split
    for place, record in records:
        yield place, renamed(record, names=names)[0]


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
            folders=("winogrande_1.1", "winogrande"),
            files={"train": ("train_xl.jsonl",), "validation": ("dev.jsonl",)},
            parse=functools.partial(
                parse_objects, unfold=functools.partial(renamed, names=_WINOGRANDE_NAMES)
            ),
        ),
    ),
    tfds="winogrande",
    hub="allenai/winogrande/winogrande_xl",
    stored={
        "tfds": Stored(splits={"train": "train_xl"}),
        "datasets": Stored(conform=functools.partial(stored_renamed, names=_WINOGRANDE_NAMES)),
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

#: As ATTEMPT and those that took over its loader read it; only to compare with their numbers.
FAULTY_WINOGRANDE = dataclasses.replace(
    WINOGRANDE,
    title="WinoGrande XL, the first option in both places",
    formats={**WINOGRANDE.formats, "attempt": _winogrande_format(doubled=True)},
)

YELP_LABELS = ("negative", "positive")
_YELP_NUMBERS = {"1": 0, "2": 1}


def parse_yelp(paths: tuple[str, ...], split: str) -> Iterator[Located]:
    r"""Records of the CSV, which has no header: "1" (negative) or "2", and the text.

    A line feed of a review is written as the two characters `\n`, which stay, as in MPT's loader.

    Raises:
        UserError: a row that is not a label and a text.
    """
    del split
    for path in paths:
        for place, row in csv_rows(path):
            if len(row) != 2 or row[0] not in _YELP_NUMBERS:
                raise UserError(
                    f"{place}: {len(row)} columns, the first {row[0][:40]!r}; expected two: 1 "
                    "(negative) or 2 (positive), and the text."
                )
            yield place, {"text": row[1].strip(), "label": _YELP_NUMBERS[row[0]]}


def write_review(record: Record, *, labels: tuple[str, ...]) -> Iterator[Text]:
    yield Text(f"yelp_polarity sentence: {record['text']}", labels[record["label"]])


def without_doubled_quotes(records: Iterator[Located], split: str) -> Iterator[Located]:
    """TFDS and the hub cut the CSV at fixed places and leave the quotes in its texts doubled."""
    del split
    for place, record in records:
        text = record["text"]
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        yield place, {**record, "text": text.replace('""', '"')}


YELP = DataSet(
    task="yelp_polarity",
    title="Yelp polarity",
    fields={"text": "text", "label": YELP_LABELS},
    sizes={"train": 560_000, "test": 38_000},
    layouts=(
        Layout(
            folders=("yelp_review_polarity_csv", "yelp_polarity"),
            files={"train": ("train.csv",), "test": ("test.csv",)},
            parse=parse_yelp,
        ),
    ),
    tfds="yelp_polarity_reviews",
    hub="fancyzhx/yelp_polarity/plain_text",
    stored={
        "tfds": Stored(conform=without_doubled_quotes),
        "datasets": Stored(conform=without_doubled_quotes),
    },
    formats={
        "attempt": TextFormat(
            functools.partial(write_review, labels=digits(YELP_LABELS)), digits(YELP_LABELS)
        ),
        "t5": TextFormat(functools.partial(write_review, labels=YELP_LABELS), YELP_LABELS),
    },
    metrics=("accuracy",),
    postprocess="label_index",
    split_rule="yelp",
    licence="Yelp's terms for its dataset challenge; for research",
    citation="""@inproceedings{zhang2015character,
  title = {Character-level Convolutional Networks for Text Classification},
  author = {Zhang, Xiang and Zhao, Junbo and LeCun, Yann},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2015},
  url = {https://arxiv.org/abs/1509.01626}
}""",
    homepage="https://www.yelp.com/dataset",
)

SCITAIL_LABELS = ("entailment", "neutral")
_SCITAIL_NAMES = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}


SCITAIL = DataSet(
    task="scitail",
    title="SciTail",
    fields={"premise": "text", "hypothesis": "text", "label": SCITAIL_LABELS},
    sizes={"train": 23_596, "validation": 1_304, "test": 2_126},
    layouts=(
        Layout(
            folders=("SciTailV1.1/snli_format", "SciTailV1.1", "scitail/snli_format", "scitail"),
            files={
                "train": ("scitail_1.0_train.txt",),
                "validation": ("scitail_1.0_dev.txt",),
                "test": ("scitail_1.0_test.txt",),
            },
            parse=functools.partial(
                parse_objects, unfold=functools.partial(renamed, names=_SCITAIL_NAMES)
            ),
        ),
    ),
    tfds="sci_tail",
    hub="allenai/scitail/snli_format",
    stored={"datasets": Stored(conform=functools.partial(stored_renamed, names=_SCITAIL_NAMES))},
    formats=classification("scitail", ("premise", "hypothesis"), SCITAIL_LABELS),
    metrics=("accuracy",),
    postprocess="label_index",
    split_rule="halved_validation",
    licence="Apache 2.0",
    citation="""@inproceedings{khot2018scitail,
  title = {{SciTail}: A Textual Entailment Dataset from Science Question Answering},
  author = {Khot, Tushar and Sabharwal, Ashish and Clark, Peter},
  booktitle = {Proceedings of AAAI},
  year = {2018}
}""",
    homepage="https://allenai.org/data/scitail",
)

PAWS_LABELS = ("different_meaning", "paraphrase")

PAWS = DataSet(
    task="paws",
    title="PAWS-Wiki, labeled_final",
    fields={"sentence1": "text", "sentence2": "text", "label": PAWS_LABELS},
    sizes={"train": 49_401, "validation": 8_000, "test": 8_000},
    layouts=(
        Layout(
            folders=("paws/final", "paws", "final"),
            files={"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)},
            parse=functools.partial(
                parse_table,
                columns={"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"},
            ),
        ),
    ),
    tfds="paws_wiki/labeled_final_tokenized",
    hub="google-research-datasets/paws/labeled_final",
    formats=classification("paws", ("sentence1", "sentence2"), PAWS_LABELS),
    metrics=("accuracy",),
    postprocess="label_index",
    split_rule="official",
    licence="free for any purpose; acknowledgement of Google as the source is asked for",
    citation="""@inproceedings{zhang2019paws,
  title = {{PAWS}: Paraphrase Adversaries from Word Scrambling},
  author = {Zhang, Yuan and Baldridge, Jason and He, Luheng},
  booktitle = {Proceedings of NAACL},
  year = {2019},
  url = {https://aclanthology.org/N19-1131}
}""",
    homepage="https://github.com/google-research-datasets/paws",
)

DATA_SETS = (WINOGRANDE, YELP, SCITAIL, PAWS)
