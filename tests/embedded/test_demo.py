"""The demonstration's tasks: sizes, balance, and walls between splits and from pretraining."""

from collections import Counter

import pytest

from mpt_jax.embedded import corpus, demo
from mpt_jax.embedded.held_out import (
    HELD_OUT_DERIVATIONS,
    HELD_OUT_INFLECTIONS,
    HELD_OUT_LANGUAGES,
)

SPLITS = ("train", "validation", "test")


def of(name):
    return {split: demo.examples(name, split) for split in SPLITS}


@pytest.mark.parametrize("name", demo.TASKS)
def test_sizes(name):
    sizes = {split: len(pairs) for split, pairs in of(name).items()}
    assert 100 <= sizes["train"] <= 2000
    assert 30 <= sizes["validation"] <= 200
    assert 90 <= sizes["test"] <= 500


@pytest.mark.parametrize("name", demo.TASKS)
def test_texts_fit_the_lengths_of_the_quickstart(name):
    for pairs in of(name).values():
        for source, target in pairs:
            assert 1 <= len(source.encode()) <= 24
            assert 1 <= len(target.encode()) + 1 <= 16


@pytest.mark.parametrize("name", demo.TASKS)
def test_no_input_occurs_twice(name):
    times = Counter(source for pairs in of(name).values() for source, _ in pairs)
    assert set(times.values()) == {1}


@pytest.mark.parametrize("name", [name for name, task in demo.TASKS.items() if task.labels])
def test_classes_are_balanced(name):
    for pairs in of(name).values():
        counts = Counter(target for _, target in pairs)
        assert set(counts) == set(demo.TASKS[name].labels)
        assert len(set(counts.values())) == 1


def test_no_word_of_the_demo_is_in_pretraining():
    pretraining = {
        row[column]
        for table, columns in (
            ("inflection", (0, 2)),
            ("derivation", (0, 2)),
            ("part_of_speech", (0,)),
            ("noun_kind", (0,)),
        )
        for row in corpus.rows(table, "pretraining")
        for column in columns
    }
    for name, task in demo.TASKS.items():
        if task.table != "languages":
            for pairs in of(name).values():
                used = {word for source, target in pairs for word in (source, target)}
                assert not (used - set(task.labels)) & pretraining, name


def test_no_sentence_of_the_demo_is_in_pretraining():
    sentences = [sentence for _, sentence in corpus.rows("languages", "pretraining")]
    seen = "\n".join(sentences)
    for source, label in demo.examples("classify_language_a", "test"):
        if source in seen:  # a common turn of phrase; never from the same sentence
            own = [s for c, s in corpus.rows("languages", "demo") if c == label and source in s]
            assert own and not set(own) & set(sentences)


def test_test_words_stand_in_no_training_split_of_any_task():
    words = {split: set() for split in SPLITS}
    for name, task in demo.TASKS.items():
        if task.table != "languages":
            for split, pairs in of(name).items():
                words[split] |= {source for source, _ in pairs}
                words[split] |= set() if task.labels else {target for _, target in pairs}
    assert not words["train"] & words["test"]
    assert not words["train"] & words["validation"]
    assert not words["validation"] & words["test"]


def test_in_pretraining_is_told_rightly():
    held_out = HELD_OUT_INFLECTIONS | HELD_OUT_DERIVATIONS
    for name, task in demo.TASKS.items():
        if task.table == "languages":
            assert task.in_pretraining == HELD_OUT_LANGUAGES.isdisjoint(task.labels), name
            assert task.in_pretraining or HELD_OUT_LANGUAGES.issuperset(task.labels), name
        else:
            assert task.in_pretraining == (task.family not in held_out), name


def test_lemmatising_turns_the_inflection_round():
    forward = dict(demo.examples("inflect_superlative", "test"))
    back = dict(demo.examples("lemma_of_superlative", "test"))
    assert all(forward[lemma] == form for form, lemma in back.items())


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'inflect_dual'; there are inflect_plural"):
        demo.examples("inflect_dual", "test")
    with pytest.raises(ValueError, match="'dev'; there are train, validation, test"):
        demo.examples("inflect_plural", "dev")
