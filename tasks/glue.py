"""GLUE (Wang et al. 2019): the eight tasks of the paper's table, and WNLI.

As files: the folders of GLUE's zip archives (`CoLA/train.tsv`, ...), below the data folder or below its
folder `glue`, `GLUE` or `glue_data`. The published test sets have no labels; they are not read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mpt_jax.tasks import citations
from mpt_jax.tasks.data_set import DataSet, Field, Layout, Located, Record, Text, TextFormat
from mpt_jax.tasks.readers import parse_table
from mpt_jax.tasks.text_formats import classification, keyed

_PLACES = ("", "glue", "GLUE", "glue_data")


def _layout(folder: str, *, files: dict[str, tuple[str, ...]] | None = None, **table) -> Layout:
    return Layout(
        folders=tuple(str(Path(place, folder)) for place in _PLACES),
        files=files or {"train": ("train.tsv",), "validation": ("dev.tsv",)},
        parse=functools.partial(parse_table, **table),
    )


def _columns(*names: str, label: str = "label", **others: str) -> dict[str, str]:
    return {**{name: name for name in names}, **others, "label": label}


def parse_paraphrases(paths: tuple[str, ...], split: str) -> Iterator[Located]:
    """MRPC as Microsoft distributes it: GLUE's list of ids says which of the train pairs validate."""
    ids, pairs = paths
    read_ids = parse_table((ids,), split, columns={"1": "1", "2": "2"}, header=("1", "2"))
    validation = {(row["1"], row["2"]) for _, row in read_ids}
    columns = _columns(
        sentence1="#1 String", sentence2="#2 String", label="Quality", id1="#1 ID", id2="#2 ID"
    )
    for place, record in parse_table((pairs,), split, columns=columns):
        if ((record["id1"], record["id2"]) in validation) == (split == "validation"):
            yield place, record


def similarity_score(label: float) -> str:
    """STS-B's score as ATTEMPT writes it: (label * 5) / 5 to one decimal, so the nearest 0.1.

    >>> similarity_score(3.25), similarity_score(5.0)
    ('3.2', '5.0')
    """
    return str(np.round(float(np.float32(label)) * 5 / 5, decimals=1))


def similarity_step(label: float) -> str:
    """STS-B's score as T5 writes it: the nearest 0.2.

    >>> similarity_step(3.25), similarity_step(3.0)
    ('3.2', '3.0')
    """
    return f"{np.round(np.float32(label) * np.float32(5)) / np.float32(5):.1f}"


def write_attempt_similarity(record: Record) -> Iterator[Text]:
    yield Text(keyed("stsb", _SENTENCES, record), similarity_score(record["label"]))


def write_t5_similarity(record: Record) -> Iterator[Text]:
    yield Text(keyed("stsb", _SENTENCES, record), similarity_step(record["label"]))


_SENTENCES = ("sentence1", "sentence2")


def _classified(
    name: str,
    keys: tuple[str, ...],
    labels: tuple[str, ...],
    *,
    layouts: tuple[Layout, ...],
    title: str,
    sizes: dict[str, int],
    split_rule: str,
    metrics: tuple[str, ...] = ("accuracy",),
) -> DataSet:
    fields: dict[str, Field] = {**{key: "text" for key in keys}, "label": labels}
    return DataSet(
        task=f"glue_{name}",
        title=title,
        fields=fields,
        sizes=sizes,
        layouts=layouts,
        tfds=f"glue/{name}",
        hub=f"nyu-mll/glue/{name}",
        formats=classification(name, keys, labels),
        metrics=metrics,
        postprocess="label_index",
        split_rule=split_rule,
        **citations.ABOUT[f"glue_{name}"],
    )


_NLI = ("entailment", "not_entailment")

DATA_SETS: tuple[DataSet, ...] = (
    _classified(
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        title="MNLI",
        sizes={"train": 392_702, "validation_matched": 9_815, "validation_mismatched": 9_832},
        split_rule="mnli",
        layouts=(
            _layout(
                "MNLI",
                columns=_columns(premise="sentence1", hypothesis="sentence2", label="gold_label"),
                files={
                    "train": ("train.tsv",),
                    "validation_matched": ("dev_matched.tsv",),
                    "validation_mismatched": ("dev_mismatched.tsv",),
                },
            ),
        ),
    ),
    _classified(
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        title="QQP (Quora Question Pairs)",
        sizes={"train": 363_846, "validation": 40_430},
        split_rule="held_out_train",
        metrics=("accuracy", "f1"),
        layouts=(
            # A few rows of the published file are cut short. TFDS and `datasets` leave them out too.
            _layout(
                "QQP",
                columns=_columns("question1", "question2", label="is_duplicate"),
                drop_short_rows=True,
            ),
        ),
    ),
    _classified(
        "qnli",
        ("question", "sentence"),
        _NLI,
        title="QNLI",
        sizes={"train": 104_743, "validation": 5_463},
        split_rule="held_out_train",
        layouts=(_layout("QNLI", columns=_columns("question", "sentence")),),
    ),
    _classified(
        "sst2",
        ("sentence",),
        ("negative", "positive"),
        title="SST-2 (Stanford Sentiment Treebank)",
        sizes={"train": 67_349, "validation": 872},
        split_rule="held_out_train",
        layouts=(_layout("SST-2", columns=_columns("sentence")),),
    ),
    DataSet(
        task="glue_stsb",
        title="STS-B (Semantic Textual Similarity Benchmark)",
        fields={"sentence1": "text", "sentence2": "text", "label": "similarity"},
        sizes={"train": 5_749, "validation": 1_500},
        layouts=(_layout("STS-B", columns=_columns(*_SENTENCES, label="score")),),
        tfds="glue/stsb",
        hub="nyu-mll/glue/stsb",
        formats={
            "attempt": TextFormat(write_attempt_similarity),
            "t5": TextFormat(write_t5_similarity),
        },
        metrics=("pearson", "spearman"),
        postprocess="number",
        split_rule="halved_validation",
        **citations.ABOUT["glue_stsb"],
    ),
    _classified(
        "mrpc",
        _SENTENCES,
        ("not_equivalent", "equivalent"),
        title="MRPC (Microsoft Research Paraphrase Corpus)",
        sizes={"train": 3_668, "validation": 408},
        split_rule="halved_validation",
        metrics=("accuracy", "f1"),
        layouts=(
            _layout(
                "MRPC",
                columns=_columns(sentence1="#1 String", sentence2="#2 String", label="Quality"),
            ),
            Layout(
                folders=tuple(str(Path(place, "MRPC")) for place in _PLACES),
                files=dict.fromkeys(
                    ("train", "validation"), ("dev_ids.tsv", "msr_paraphrase_train.txt")
                ),
                parse=parse_paraphrases,
            ),
        ),
    ),
    _classified(
        "rte",
        _SENTENCES,
        _NLI,
        title="RTE",
        sizes={"train": 2_490, "validation": 277},
        split_rule="halved_validation",
        layouts=(_layout("RTE", columns=_columns(*_SENTENCES)),),
    ),
    _classified(
        "cola",
        ("sentence",),
        ("unacceptable", "acceptable"),
        title="CoLA (Corpus of Linguistic Acceptability)",
        sizes={"train": 8_551, "validation": 1_043},
        split_rule="halved_validation",
        metrics=("matthews", "accuracy"),
        layouts=(
            _layout(
                "CoLA",
                columns=_columns("sentence"),
                header=("source", "label", "original judgement", "sentence"),
            ),
        ),
    ),
    _classified(
        "wnli",
        _SENTENCES,
        ("not_entailment", "entailment"),
        title="WNLI (Winograd NLI)",
        sizes={"train": 635, "validation": 71},
        split_rule="halved_validation",
        layouts=(_layout("WNLI", columns=_columns(*_SENTENCES)),),
    ),
)
