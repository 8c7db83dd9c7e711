"""SuperGLUE (Wang et al. 2019): the five tasks of the paper's table, ReCoRD, COPA and RTE.

As files: the folders of SuperGLUE's zip archives (`BoolQ/train.jsonl`, ...), below the data folder or below
its folder `super_glue`, `superglue` or `SuperGLUE`. The published test sets have no labels; they are not
read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

from mpt_jax.tasks import citations
from mpt_jax.tasks.data_set import DataSet, Field, Layout, Record, Text, TextFormat
from mpt_jax.tasks.super_glue_files import (
    layout_of,
    unfold_multirc,
    unfold_record,
    unfold_wsc,
)
from mpt_jax.tasks.text_formats import classification, digits, keyed


def marked_spans(record: Record) -> str:
    """WSC's text with `* span *` round the noun and `# span #` round the pronoun.

    A span that does not stand at its place among the words (a few published ones) is not marked.

    >>> marked_spans({"text": "This is a test sentence .", "span1_text": "test", "span1_index": 3,
    ...               "span2_text": "This", "span2_index": 0})
    '# This # is a * test * sentence .'
    """
    text = _mark(record["text"], record["span1_text"], record["span1_index"], "*")
    two_more_words = 2 * (record["span1_index"] < record["span2_index"])
    return _mark(text, record["span2_text"], record["span2_index"] + two_more_words, "#")


def _mark(text: str, span: str, index: int, mark: str) -> str:
    before = re.match(rf"(?:\S+\s){{{index}}}", text)
    if before is None or not text.startswith(span, before.end()):
        return text
    rest = text[before.end() + len(span) :]
    return f"{before.group()}{mark} {span} {mark}{rest}"


def write_wsc(record: Record, *, prefix: str, labels: tuple[str, ...]) -> Iterator[Text]:
    yield Text(f"{prefix} text: {marked_spans(record)}", labels[record["label"]])


def without_tags(text: str) -> str:
    """MultiRC's text without its HTML: line breaks become spaces, marks of bold type go.

    >>> without_tags("<b>Sent 1: </b>He came.<br>")
    'Sent 1: He came. '
    """
    return re.sub(r"</?b>", "", text.replace("<br>", " "))


def write_multirc(record: Record, *, prefix: str, labels: tuple[str, ...]) -> Iterator[Text]:
    keys = ("question", "answer", "paragraph")
    plain = {key: without_tags(record[key]) for key in keys}
    yield Text(keyed(prefix, keys, plain), labels[record["label"]], {"group": group_of(record)})


def write_record(record: Record, *, prefix: str) -> Iterator[Text]:
    """One text for each right answer; all of a query have its answers and belong together."""
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", record["passage"])
    passage = passage.replace("\n@highlight\n", ". ")
    inputs = (
        f"{prefix} query: {record['query']} entities: {', '.join(record['entities'])} "
        f"passage: {passage}"
    )
    extras = {"answers": record["answers"], "group": group_of(record)}
    for answer in record["answers"] or ["<unk>"]:
        yield Text(inputs, answer, extras)


def group_of(record: Record) -> str:
    """Names the question that a record of MultiRC or ReCoRD is of."""
    index = record["idx"]
    outer, inner = ("paragraph", "question") if "question" in index else ("passage", "query")
    return f"{index[outer]}-{index[inner]}"


def _data_set(
    name: str,
    title: str,
    fields: dict[str, Field],
    formats: dict[str, TextFormat],
    *,
    layout: Layout,
    sizes: tuple[int, int],
    configuration: str | None = None,
    metrics: tuple[str, ...] = ("accuracy",),
    postprocess: str = "label_index",
    split_rule: str = "halved_validation",
    extras: dict[str, str] | None = None,
) -> DataSet:
    return DataSet(
        task=f"super_glue_{name}",
        title=title,
        fields=fields,
        sizes=dict(zip(("train", "validation"), sizes, strict=True)),
        layouts=(layout,),
        tfds=f"super_glue/{configuration or name}",
        hub=f"aps/super_glue/{configuration or name}",
        formats=formats,
        metrics=metrics,
        postprocess=postprocess,
        split_rule=split_rule,
        extras=extras or {},
        **citations.ABOUT[f"super_glue_{name}"],
    )


def _texts(*names: str, **others: Field) -> dict[str, Field]:
    return {**{name: "text" for name in names}, **others}


def _both(write: Callable[..., Iterator[Text]], name: str, attempt: str) -> dict[str, TextFormat]:
    """Both formats of a task whose text is written by a function of its own; labels False and True."""
    of = {"attempt": (attempt, digits(_YES_NO)), "t5": (name, _YES_NO)}
    return {
        key: TextFormat(functools.partial(write, prefix=prefix, labels=labels), labels)
        for key, (prefix, labels) in of.items()
    }


_YES_NO = ("False", "True")
_NLI = ("entailment", "not_entailment")
_CB = ("entailment", "contradiction", "neutral")
_WIC = ("sentence1", "sentence2", "word")

DATA_SETS: tuple[DataSet, ...] = (
    _data_set(
        "multirc",
        "MultiRC",
        _texts("paragraph", "question", "answer", label=_YES_NO, idx="integers"),
        _both(write_multirc, "multirc", "superglue-multirc"),
        layout=layout_of("MultiRC", unfold_multirc),
        sizes=(27_243, 4_848),
        metrics=("multirc_f1a", "multirc_em"),
        postprocess="grouped_label_index",
        extras={"group": "text"},
    ),
    _data_set(
        "boolq",
        "BoolQ",
        _texts("question", "passage", label=_YES_NO),
        classification("boolq", ("question", "passage"), _YES_NO, attempt="superglue-boolq"),
        layout=layout_of("BoolQ"),
        sizes=(9_427, 3_270),
    ),
    _data_set(
        "wic",
        "WiC (Words in Context)",
        _texts(*_WIC, label=_YES_NO),
        classification("wic", _WIC, _YES_NO, attempt="superglue-wic"),
        layout=layout_of("WiC"),
        sizes=(5_428, 638),
    ),
    _data_set(
        "wsc",
        "WSC (Winograd Schema Challenge)",
        _texts(
            "text",
            "span1_text",
            "span2_text",
            span1_index="integer",
            span2_index="integer",
            label=_YES_NO,
        ),
        _both(write_wsc, "wsc", "superglue-wsc.fixed"),
        layout=layout_of("WSC", unfold_wsc),
        sizes=(554, 104),
        configuration="wsc.fixed",
    ),
    _data_set(
        "cb",
        "CB (CommitmentBank)",
        _texts("premise", "hypothesis", label=_CB),
        classification("cb", ("premise", "hypothesis"), _CB, attempt="superglue-cb"),
        layout=layout_of("CB"),
        sizes=(250, 56),
        metrics=("accuracy", "f1_macro"),
    ),
    _data_set(
        "copa",
        "COPA (Choice of Plausible Alternatives)",
        _texts("premise", "choice1", "choice2", "question", label=("choice1", "choice2")),
        {
            "attempt": classification("superglue-copa", ("premise", "choice1", "choice2"), _YES_NO)[
                "attempt"
            ],
            "t5": classification("copa", ("premise", "choice1", "choice2", "question"), _YES_NO)[
                "t5"
            ],
        },
        layout=layout_of("COPA"),
        sizes=(400, 100),
    ),
    _data_set(
        "record",
        "ReCoRD",
        _texts("passage", "query", entities="texts", answers="texts", idx="integers"),
        {
            # ATTEMPT puts its name for the task in front of T5's text.
            "attempt": TextFormat(
                functools.partial(write_record, prefix="superglue-record record")
            ),
            "t5": TextFormat(functools.partial(write_record, prefix="record")),
        },
        layout=layout_of("ReCoRD", unfold_record),
        sizes=(100_730, 10_000),
        metrics=("record_f1", "record_em"),
        postprocess="grouped_answers",
        split_rule="held_out_train",
        extras={"answers": "texts", "group": "text"},
    ),
    _data_set(
        "rte",
        "RTE",
        _texts("premise", "hypothesis", label=_NLI),
        classification("rte", ("premise", "hypothesis"), _NLI, attempt="superglue-rte"),
        layout=layout_of("RTE"),
        sizes=(2_490, 277),
    ),
)
