"""WebNLG, the challenge of 2017 (Gardent et al. 2017): texts from triples of DBpedia.

    web_nlg triples: Aarhus_Airport | cityServed | "Aarhus, Denmark"
    web_nlg subject: Aarhus Airport property: cityServed object: "Aarhus, Denmark"

The test set has inputs of categories that training has (`test_seen`, which this task's split rule takes,
as the published figures are on them) and of others (`test_unseen`; the rule `web_nlg_unseen`). TFDS has
only version 3.0, whose scores are not comparable.

As files: the XML of the challenge below `train/1triples`, ..., `dev/1triples`, ... and
`test/testdata_with_lex.xml`, or `train.json`, `dev.json` and `test.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.tasks import nlg, web_nlg_files
from mpt_jax.tasks.data_set import DataSet, Layout, Located, Record, Stored, Text, TextFormat

#: Those of the train set of 2017; the other five are in its test set only.
SEEN_CATEGORIES = (
    "Airport", "Astronaut", "Building", "City", "ComicsCharacter", "Food", "Monument", "SportsTeam",
    "University", "WrittenWork",
)  # fmt: skip
_HUB_COPIES = ("testdata_no_lex", "testdata_unseen_with_lex")
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
    texts; the whole is taken.
    """
    entries = (
        (
            place,
            {
                "input": _first_triple_set(record["modified_triple_sets"]),
                "category": record["category"],
                "webnlg_id": record["eid"],
                "references": [text for text in record["lex"]["text"] if text.strip()],
            },
        )
        for place, record in records
        if record["test_category"] not in _HUB_COPIES
    )
    yield from _of_split(entries, split)


def _first_triple_set(sets: Any) -> list[str]:
    """Older releases of `datasets` keep a dict of lists, newer ones a list of dicts."""
    return sets[0]["mtriple_set"] if isinstance(sets, list) else sets["mtriple_set"][0]


def tfds_web_nlg(records: Iterator[Located], split: str) -> Iterator[Located]:
    """Records of TFDS: in training one for each text, which is then the `target` alone."""
    entries = (
        (
            place,
            {
                "input": [nlg.decoded(triple) for triple in record["input"]],
                "category": nlg.decoded(record["category"]),
                "webnlg_id": nlg.decoded(record["webnlg_id"]),
                "references": [nlg.decoded(t) for t in record["references"]]
                or [nlg.decoded(record["target"])],
            },
        )
        for place, record in records
    )
    yield from _of_split(entries, split)


def _of_split(entries: Iterator[Located], split: str) -> Iterator[Located]:
    if (seen := _TEST_SPLITS.get(split)) is not None:
        entries = (e for e in entries if (e[1]["category"] in SEEN_CATEGORIES) == seen)
    yield from nlg.one_or_each(_with_whole_triples(entries), split, key=_triples)


def _with_whole_triples(entries: Iterator[Located]) -> Iterator[Located]:
    for place, entry in entries:
        for triple in entry["input"]:
            if len(triple.split(" | ")) != 3:
                raise UserError(
                    f"{place}: the triple {triple!r}; expected 'subject | property | object'."
                )
        yield place, entry


def _triples(record: Record) -> tuple[str, ...]:
    return tuple(record["input"])


def write_triples(record: Record) -> Iterator[Text]:
    yield nlg.text_of(f"web_nlg triples: {' && '.join(record['input'])}", record)


def write_triple_parts(record: Record) -> Iterator[Text]:
    names = ("subject", "property", "object")
    triples = [triple.replace("_", " ").split(" | ") for triple in record["input"]]
    pairs = (f"{k}: {v}" for triple in triples for k, v in zip(names, triple, strict=True))
    yield nlg.text_of(" ".join(["web_nlg", *pairs]), record)


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
    extras=nlg.EXTRAS,
    metrics=nlg.METRICS,
    postprocess=nlg.POSTPROCESS,
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
