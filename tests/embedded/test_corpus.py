"""The embedded text: complete, small, licensed, and walled off from pretraining."""

import importlib.resources
import re
import unicodedata

import pytest

from mpt_jax.embedded import corpus, held_out

WORD_COLUMNS = {
    "inflection": (0, 2),
    "derivation": (0, 2),
    "part_of_speech": (0,),
    "noun_kind": (0,),
}


def words(part):
    return {
        row[column]
        for table, columns in WORD_COLUMNS.items()
        for row in corpus.rows(table, part)
        for column in columns
    }


@pytest.mark.parametrize("table", corpus.COLUMNS)
def test_rows_are_whole_unique_and_in_order(table):
    rows = corpus.read(table)
    assert len(rows) > 10_000
    assert {len(row) for row in rows} == {len(corpus.COLUMNS[table])}
    assert rows == sorted(set(rows))


def test_words_are_plain_and_short():
    longest = {"inflection": 12, "derivation": 14, "part_of_speech": 12, "noun_kind": 14}
    for table, columns in WORD_COLUMNS.items():
        plain = re.compile(f"[a-z]{{3,{longest[table]}}}")
        for row in corpus.read(table):
            assert all(plain.fullmatch(row[column]) for column in columns), (table, row)


def test_known_rows():
    inflections = {row[:3] for row in corpus.read("inflection")}
    assert {
        ("walk", "gerund", "walking"),
        ("mouse", "plural", "mice"),
        ("put", "past", "put"),
        ("walk", "participle", "walked"),
        ("sing", "participle", "sung"),
        ("happy", "superlative", "happiest"),
        ("good", "comparative", "better"),
    } <= inflections
    assert ("teach", "er", "teacher") in {row[:3] for row in corpus.read("derivation")}
    assert ("quickly", "adverb") in {row[:2] for row in corpus.read("part_of_speech")}
    assert ("zoologist", "person") in {row[:2] for row in corpus.read("noun_kind")}


def test_derived_words_end_in_their_suffix():
    assert all(derived.endswith(suffix) for _, suffix, derived, _ in corpus.read("derivation"))


def test_sentences_are_lower_case_composed_and_long_enough():
    rows = corpus.read("languages")
    assert len({code for code, _ in rows}) > 80
    for _, sentence in rows:
        assert sentence == unicodedata.normalize("NFC", sentence.lower())
        assert len(sentence.encode()) >= 24


def test_no_word_is_both_pretrainings_and_the_demos():
    pretraining, demo = words("pretraining"), words("demo")
    assert min(len(pretraining), len(demo)) > 10_000
    assert not pretraining & demo


def test_a_word_has_one_root_in_all_tables():
    roots = {}
    for table, columns in WORD_COLUMNS.items():
        for row in corpus.read(table):
            for column in columns:
                assert roots.setdefault(row[column], row[-1]) == row[-1], row


def test_pretraining_gets_about_70_percent_and_nothing_held_out():
    for table in corpus.COLUMNS:
        demo, everything = corpus.rows(table, "demo"), corpus.read(table)
        assert 0.27 < len(demo) / len(everything) < 0.33
    tags = {row[1] for row in corpus.rows("inflection", "pretraining")}
    assert tags == {"plural", "third_person", "gerund", "comparative"}
    suffixes = {row[1] for row in corpus.rows("derivation", "pretraining")}
    assert "er" in suffixes and not suffixes & held_out.HELD_OUT_DERIVATIONS
    languages = {row[0] for row in corpus.rows("languages", "pretraining")}
    assert "eng" in languages and not languages & held_out.HELD_OUT_LANGUAGES


def test_everything_that_is_held_out_exists():
    assert held_out.HELD_OUT_INFLECTIONS < {row[1] for row in corpus.read("inflection")}
    assert held_out.HELD_OUT_DERIVATIONS < {row[1] for row in corpus.read("derivation")}
    assert held_out.HELD_OUT_LANGUAGES < {row[0] for row in corpus.read("languages")}


def test_the_hash_is_the_same_on_every_machine():
    # Recorded: the shipped backbone was pretrained on this side of the wall.
    sides = {"walk": False, "teach": False, "zygote": True, "bake": True, "salt": True}
    assert {key: held_out.is_pretraining(key) for key in sides} == sides


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'verbs'; there are inflection"):
        corpus.read("verbs")
    with pytest.raises(ValueError, match="'pretraining' or 'demo', not 'train'"):
        corpus.rows("languages", "train")


def test_size_and_notices():
    folder = importlib.resources.files("mpt_jax.embedded") / "data"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 4_000_000
    notice = (folder / "NOTICE.md").read_text(encoding="utf-8")
    for needed in (
        "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved.",
        "Copyright (C) 2019 Brad Jascob",
        "Copyright (c) Titus Wormer",
        "Universal Declaration of Human Rights",
    ):
        assert needed in notice
    assert {f"{table}.tsv.gz" for table in corpus.COLUMNS} == set(
        re.findall(r"\w+\.tsv\.gz", notice)
    )
