import numpy as np
import pytest

from mpt_jax.data.vocabularies import ByteVocabulary
from mpt_jax.embedded import corpus, held_out, word_edits
from mpt_jax.embedded.pretraining import (
    FIXED_TASKS,
    SLOTS,
    VOCAB_SIZE,
    WORD_TEXT,
    Mixture,
    encode,
    symbol,
)

VOCABULARY = ByteVocabulary()


@pytest.fixture(scope="module")
def mixture():
    return Mixture(seed=3, curriculum_steps=2, long_every=3, batch_size=48)


def rows(batch):
    for inputs, targets in zip(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    ):
        slots = inputs[:SLOTS] - VOCAB_SIZE
        yield slots, VOCABULARY.decode(inputs[SLOTS:].tolist()), VOCABULARY.decode(targets.tolist())


def test_a_batch_is_a_function_of_seed_and_step(mixture):
    again = Mixture(seed=3, curriculum_steps=2, long_every=3, batch_size=48)
    other = Mixture(seed=4, curriculum_steps=2, long_every=3, batch_size=48)
    first, second = mixture.batch(7), again.batch(7)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert not np.array_equal(first["encoder_input_tokens"], other.batch(7)["encoder_input_tokens"])


@pytest.mark.parametrize("step", [0, 3, 4, 5])
def test_form_of_a_batch(mixture, step):
    batch = mixture.batch(step)
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    slots, text = inputs[:, :SLOTS] - VOCAB_SIZE, inputs[:, SLOTS:]
    assert slots.min() >= 0 and slots.max() < VOCAB_SIZE + FIXED_TASKS * SLOTS
    assert text.max() < VOCAB_SIZE
    for part in (text, targets):  # one EOS each, behind it nothing
        assert (part == 1).sum(axis=1).tolist() == [1] * len(part)
        ends = (part == 1).argmax(axis=1)
        assert all((row[end + 1 :] == 0).all() for row, end in zip(part, ends, strict=True))
    assert np.array_equal(batch["decoder_input_tokens"][:, 1:], targets[:, :-1])
    assert np.array_equal(batch["decoder_loss_weights"], (targets > 0).astype(np.float32))
    assert (len(inputs) == 24) == (step == 3) == (inputs.shape[1] > SLOTS + WORD_TEXT)


def test_the_demos_words_never_occur(mixture):
    demo = {
        word
        for name in ("inflection", "part_of_speech", "noun_kind")
        for row in corpus.rows(name, "demo")
        for word in (row[0], row[-1])
    }
    for step in (0, 1, 4, 5, 7, 8):
        seen = {text for _, text, _ in rows(mixture.batch(step))}
        assert not seen & demo


def test_named_inflections_are_those_that_are_not_held_out(mixture):
    tags = {row[1] for row in corpus.rows("inflection", "pretraining")}
    assert not tags & held_out.HELD_OUT_INFLECTIONS
    with pytest.raises(KeyError):
        symbol("inflect:past")


def test_a_single_named_edit_says_what_the_target_is(mixture):
    checked = 0
    for step in (0, 1):
        for slots, text, target in rows(mixture.batch(step)):
            if slots[0] == symbol("edit:reverse") and len(set(slots.tolist())) <= 2:
                assert target == text[::-1]
                checked += 1
            if slots[0] == symbol("edit:copy") and len(set(slots.tolist())) <= 2:
                assert target == text
                checked += 1
    assert checked > 5


@pytest.mark.parametrize(
    ("word", "suffix", "expected"),
    [("bake", "ing", "baking"), ("try", "es", "tries"), ("try", "ing", "trying"),
     ("run", "ing", "running"), ("play", "er", "player"), ("box", "er", "boxer"),
     ("care", "ful", "careful"), ("walk", "", "walk")],
)  # fmt: skip
def test_english_suffix(word, suffix, expected):
    assert word_edits.english_suffix(word, suffix) == expected


def test_held_out_suffixes_are_never_drawn():
    rng = np.random.default_rng(0)
    drawn = {word_edits.draw_argument("suffix", rng) for _ in range(3000)}
    assert len(drawn) > 500
    assert not drawn & word_edits.HELD_OUT_SUFFIXES


def test_encode_is_the_byte_vocabularys():
    assert encode("año") == VOCABULARY.encode("año")
