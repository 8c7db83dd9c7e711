"""The two generation tasks of the paper: E2E and WebNLG 2017.

Neither ATTEMPT nor T5 has a form for them, so both are ours: "attempt" writes the input as distributed
behind a key, as ATTEMPT does with all others; "t5" writes it out as `key: value` pairs.

The paper's WebNLG is the challenge of 2017 (as in the work on prefix tuning); its test set has inputs
of categories that training has (`test_seen`, which the split rule of this task takes) and of others
(`test_unseen`). TFDS has only later versions of both: the cleaned E2E and WebNLG 3.0. They work, but
their scores are not comparable to the paper's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from mpt_jax.tasks import references, web_nlg_files
from mpt_jax.tasks.csv_files import csv_records
from mpt_jax.tasks.data_set import DataSet, Layout, Located, Record, Stored, Text, TextFormat

METRICS = ("bleu", "nist", "rougeL", "cider", "chrf")

# --- E2E --------------------------------------------------------------------------------------------


def parse_e2e(paths: tuple[str, ...], split: str) -> Iterator[Located]:
    """Records of the CSV with the columns `mr` and `ref`.

    Raises:
        UserError: no CSV, other columns, or a cell that is blank.
    """
    rows = ((place, row) for path in paths for place, row in csv_records(path, ("mr", "ref")))
    named = (
        (place, {"meaning_representation": row["mr"], "references": [row["ref"]]})
        for place, row in rows
    )
    yield from references.one_or_each(named, split, key=_meaning)


def _meaning(record: Record) -> str:
    return record["meaning_representation"]


def stored_e2e(records: Iterator[Located], split: str, *, text: str) -> Iterator[Located]:
    """Records of TFDS and the hub, which have a text each.

    Args:
        text: the name of its field.
    """
    named = (
        (
            place,
            {
                "meaning_representation": _decoded(record["meaning_representation"]),
                "references": [_decoded(record[text])],
            },
        )
        for place, record in records
    )
    yield from references.one_or_each(named, split, key=_meaning)


def attributes(meaning_representation: str) -> list[tuple[str, str]]:
    """The attributes of an E2E input.

    >>> attributes("name[The Eagle], priceRange[less than £20]")
    [('name', 'The Eagle'), ('priceRange', 'less than £20')]
    """
    return re.findall(r"([^,\[\]]+?)\s*\[([^\]]*)\](?:,\s*|$)", meaning_representation)


def write_meaning(record: Record) -> Iterator[Text]:
    yield _text(f"e2e_nlg meaning_representation: {record['meaning_representation']}", record)


def write_attributes(record: Record) -> Iterator[Text]:
    pairs = (f"{k}: {v}" for k, v in attributes(record["meaning_representation"]))
    yield _text(" ".join(["e2e_nlg", *pairs]), record)


def _text(inputs: str, record: Record) -> Text:
    return Text(inputs, record["target"], {"references": record["references"]})


def _decoded(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value


E2E = DataSet(
    task="e2e_nlg",
    title="E2E",
    fields={"meaning_representation": "text", "target": "text", "references": "texts"},
    sizes={"train": 42_061, "validation": 547, "test": 630},
    layouts=(
        Layout(
            folders=("e2e-dataset", "e2e_nlg", "e2e"),
            files={
                "train": ("trainset.csv",),
                "validation": ("devset.csv",),
                "test": ("testset_w_refs.csv",),
            },
            parse=parse_e2e,
        ),
    ),
    tfds="gem/e2e_nlg",
    hub="tuetschek/e2e_nlg/default",
    stored={
        "tfds": Stored(conform=functools.partial(stored_e2e, text="target")),
        "datasets": Stored(conform=functools.partial(stored_e2e, text="human_reference")),
    },
    formats={"attempt": TextFormat(write_meaning), "t5": TextFormat(write_attributes)},
    extras=references.EXTRAS,
    metrics=METRICS,
    postprocess="references",
    split_rule="official",
    licence="CC BY-SA 4.0",
    citation="""@inproceedings{novikova2017e2e,
  title = {The {E2E} Dataset: New Challenges For End-to-End Generation},
  author = {Novikova, Jekaterina and Du{\\v{s}}ek, Ond{\\v{r}}ej and Rieser, Verena},
  booktitle = {Proceedings of the 18th Annual SIGdial Meeting on Discourse and Dialogue},
  year = {2017},
  url = {https://aclanthology.org/W17-5525}
}""",
    homepage="https://github.com/tuetschek/e2e-dataset",
)

# --- WebNLG -----------------------------------------------------------------------------------------

#: Those of the train set of 2017; the other five are in its test set only.
SEEN_CATEGORIES = (
    "Airport", "Astronaut", "Building", "City", "ComicsCharacter", "Food", "Monument", "SportsTeam",
    "University", "WrittenWork",
)  # fmt: skip
_TEST_SPLITS = {"test_seen": True, "test_unseen": False}


def parse_web_nlg_xml(paths: tuple[str, ...], split: str) -> Iterator[Located]:
    """Records of the challenge's XML."""
    entries = (entry for path in paths for entry in web_nlg_files.read_xml(path))
    yield from _of_split(entries, split)


def parse_web_nlg_json(paths: tuple[str, ...], split: str) -> Iterator[Located]:
    """Records of the challenge's JSON."""
    entries = (entry for path in paths for entry in web_nlg_files.read_json(path))
    yield from _of_split(entries, split)


def hub_web_nlg(records: Iterator[Located], split: str) -> Iterator[Located]:
    """Records of the hub.

    Its test split holds the test set three times: whole, the unseen categories alone, and without
    texts. One of each input is left, since inputs are gathered and those without a text dropped.
    """
    entries = (
        (
            place,
            {
                "input": record["modified_triple_sets"]["mtriple_set"][0],
                "category": record["category"],
                "webnlg_id": record["eid"],
                "references": [text for text in record["lex"]["text"] if text.strip()],
            },
        )
        for place, record in records
    )
    yield from _of_split((entry for entry in entries if entry[1]["references"]), split)


def tfds_web_nlg(records: Iterator[Located], split: str) -> Iterator[Located]:
    """Records of TFDS: in training one for each text, which is then the `target` alone."""
    entries = (
        (
            place,
            {
                "input": [_decoded(triple) for triple in record["input"]],
                "category": _decoded(record["category"]),
                "webnlg_id": _decoded(record["webnlg_id"]),
                "references": [_decoded(t) for t in record["references"]]
                or [_decoded(record["target"])],
            },
        )
        for place, record in records
    )
    yield from _of_split(entries, split)


def _of_split(entries: Iterator[Located], split: str) -> Iterator[Located]:
    if (seen := _TEST_SPLITS.get(split)) is not None:
        entries = (e for e in entries if (e[1]["category"] in SEEN_CATEGORIES) == seen)
    yield from references.one_or_each(entries, split, key=_triples)


def _triples(record: Record) -> tuple[str, ...]:
    return tuple(record["input"])


def write_triples(record: Record) -> Iterator[Text]:
    yield _text(f"web_nlg triples: {' && '.join(record['input'])}", record)


def write_triple_parts(record: Record) -> Iterator[Text]:
    names = ("subject", "property", "object")
    triples = [triple.replace("_", " ").split(" | ") for triple in record["input"]]
    pairs = (f"{k}: {v}" for triple in triples for k, v in zip(names, triple, strict=True))
    yield _text(" ".join(["web_nlg", *pairs]), record)


_WEB_NLG_FOLDERS = ("webnlg_challenge_2017", "web_nlg", "webnlg")
_XML_TEST = ("test/testdata_with_lex.xml",)
_HUB_SPLITS = {"validation": "dev", "test_seen": "test", "test_unseen": "test"}
_TFDS_SPLITS = {"test_seen": "test", "test_unseen": "test"}

WEB_NLG = DataSet(
    task="web_nlg",
    title="WebNLG, challenge of 2017",
    fields={
        "input": "texts",
        "category": "text",
        "webnlg_id": "text",
        "target": "text",
        "references": "texts",
    },
    sizes={"train": 18_102, "validation": 872, "test": 1_862, "test_seen": 971, "test_unseen": 891},
    layouts=(
        Layout(
            folders=_WEB_NLG_FOLDERS,
            files={
                "train": ("train/*triples/*.xml",),
                "validation": ("dev/*triples/*.xml",),
                **dict.fromkeys(("test", *_TEST_SPLITS), _XML_TEST),
            },
            parse=parse_web_nlg_xml,
        ),
        Layout(
            folders=_WEB_NLG_FOLDERS,
            files={
                "train": ("train.json",),
                "validation": ("dev.json",),
                **dict.fromkeys(("test", *_TEST_SPLITS), ("test.json",)),
            },
            parse=parse_web_nlg_json,
        ),
    ),
    tfds="gem/web_nlg_en",
    hub="webnlg-challenge/web_nlg/webnlg_challenge_2017",
    stored={
        "tfds": Stored(conform=tfds_web_nlg, splits=_TFDS_SPLITS),
        "datasets": Stored(conform=hub_web_nlg, splits=_HUB_SPLITS),
    },
    formats={"attempt": TextFormat(write_triples), "t5": TextFormat(write_triple_parts)},
    extras=references.EXTRAS,
    metrics=METRICS,
    postprocess="references",
    split_rule="web_nlg_seen",
    licence="CC BY-NC-SA 4.0",
    citation="""@inproceedings{gardent2017webnlg,
  title = {The {WebNLG} Challenge: Generating Text from {RDF} Data},
  author = {Gardent, Claire and Shimorina, Anastasia and Narayan, Shashi and Perez-Beltrachini, Laura},
  booktitle = {Proceedings of the 10th International Conference on Natural Language Generation},
  year = {2017},
  url = {https://aclanthology.org/W17-3518}
}""",
    homepage="https://webnlg-challenge.loria.fr/challenge_2017/",
)

DATA_SETS = (E2E, WEB_NLG)
