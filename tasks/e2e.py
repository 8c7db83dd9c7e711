"""E2E (Novikova et al. 2017): descriptions of restaurants from their attributes.

    e2e_nlg meaning_representation: name[Blue Spice], eatType[coffee shop], area[city centre]
    e2e_nlg name: Blue Spice eatType: coffee shop area: city centre

As files: `trainset.csv`, `devset.csv` and `testset_w_refs.csv` with the columns `mr` and `ref`. TFDS has
only the later, cleaned version; its scores are not comparable to the paper's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from mpt_jax.errors import UserError
from mpt_jax.tasks import nlg
from mpt_jax.tasks.csv_files import csv_records
from mpt_jax.tasks.data_set import DataSet, Layout, Located, Place, Record, Stored, Text, TextFormat

_ATTRIBUTE = r"([^,\[\]]+)\[([^\[\]]*)\]"
_MEANING = re.compile(rf"{_ATTRIBUTE}(?:,\s*{_ATTRIBUTE})*")


def parse_e2e(paths: tuple[str, ...], split: str) -> Iterator[Located]:
    """Records of the CSV with the columns `mr` and `ref`.

    Raises:
        UserError: no CSV, other columns, an input that is no list of attributes, or a blank text.
    """
    rows = ((place, row) for path in paths for place, row in csv_records(path, ("mr", "ref")))
    yield from _records(rows, split, "mr", "ref")


def stored_e2e(records: Iterator[Located], split: str, *, text: str) -> Iterator[Located]:
    """Records of TFDS and the hub.

    Args:
        text: the name of the field that has the reference.
    """
    yield from _records(records, split, "meaning_representation", text)


def _records(rows: Iterator[Located], split: str, meaning: str, text: str) -> Iterator[Located]:
    named = (
        (
            place,
            {
                "meaning_representation": _checked(place, nlg.decoded(row[meaning])),
                "references": [nlg.decoded(row[text])],
            },
        )
        for place, row in rows
    )
    yield from nlg.one_or_each(named, split, key=_meaning)


def _meaning(record: Record) -> str:
    return record["meaning_representation"]


def _checked(place: Place, meaning: str) -> str:
    if not _MEANING.fullmatch(meaning):
        raise UserError(
            f"{place}: the input is {meaning[:80]!r}; expected attributes like 'name[The Eagle], "
            "eatType[coffee shop]'."
        )
    return meaning


def attributes(meaning_representation: str) -> list[tuple[str, str]]:
    """The attributes of an E2E input.

    >>> attributes("name[The Eagle], priceRange[less than £20]")
    [('name', 'The Eagle'), ('priceRange', 'less than £20')]
    """
    pairs = re.findall(_ATTRIBUTE, meaning_representation)
    return [(name.strip(), value) for name, value in pairs]


def write_meaning(record: Record) -> Iterator[Text]:
    yield nlg.text_of(f"e2e_nlg meaning_representation: {record['meaning_representation']}", record)


def write_attributes(record: Record) -> Iterator[Text]:
    pairs = (f"{k}: {v}" for k, v in attributes(record["meaning_representation"]))
    yield nlg.text_of(" ".join(["e2e_nlg", *pairs]), record)


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
    hub="tuetschek/e2e_nlg",
    stored={
        "tfds": Stored(conform=functools.partial(stored_e2e, text="target")),
        "datasets": Stored(conform=functools.partial(stored_e2e, text="human_reference")),
    },
    formats={"attempt": TextFormat(write_meaning), "t5": TextFormat(write_attributes)},
    extras=nlg.EXTRAS,
    metrics=nlg.METRICS,
    postprocess=nlg.POSTPROCESS,
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
