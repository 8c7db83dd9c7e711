"""Metrics of generated text: the libraries' published examples, other programs' numbers, and by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.nist_score import corpus_nist

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics import METRICS
from mpt_jax.tasks.metrics.cider import cider_of_words
from mpt_jax.tasks.metrics.nist import nist_of_words

NAMES = ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "nist", "cider")
bleu, chrf, rouge1, rouge2, rougeL, nist, cider = (METRICS[name] for name in NAMES)

# The example in sacrebleu's README, whose scores it states.
DOG = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]
DOG_PREDICTIONS = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]

WORDS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=12)


def test_sacrebleus_own_example():
    assert bleu(DOG, DOG_PREDICTIONS) == {"bleu": pytest.approx(0.4853, abs=5e-5)}
    assert chrf(DOG, DOG_PREDICTIONS) == {"chrf": pytest.approx(0.5973, abs=5e-5)}


def test_references_may_be_of_uneven_number():
    targets = [["a b c d e", "a b c d"], ["x y z w"]]
    predictions = ["a b c d", "x y z v w"]
    # By hand: clipped counts 8/9, 5/7, 3/5, 1/3, and no reference is longer than its prediction
    # once the nearest in length is taken (4 to 4, 4 to 5).
    by_hand = (8 / 9 * 5 / 7 * 3 / 5 * 1 / 3) ** 0.25
    assert bleu(targets, predictions) == {"bleu": pytest.approx(by_hand)}
    assert chrf(targets, ["a b c d", "x y z w"]) == {"chrf": pytest.approx(1.0)}


def test_rouge_by_hand():
    targets = [["the cat sat on the mat", "a dog ran"]]
    prediction = ["The cat on the mat ran!"]
    # Words: 5 of 6 and 6. Pairs: the-cat, on-the, the-mat of 5 and 5. Longest common: the cat on the mat.
    assert rouge1(targets, prediction) == {"rouge1": pytest.approx(5 / 6)}
    assert rouge2(targets, prediction) == {"rouge2": pytest.approx(3 / 5)}
    assert rougeL(targets, prediction) == {"rougeL": pytest.approx(5 / 6)}
    # The mean over examples, of the best reference each.
    both = rougeL(targets * 2, [*prediction, "a dog ran"])
    assert both == {"rougeL": pytest.approx((5 / 6 + 1) / 2)}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(WORDS, st.lists(st.sampled_from("abcde"), min_size=5, max_size=12)),
        min_size=1,
        max_size=5,
    )
)
def test_nist_as_nltk_with_one_reference(rows):
    """NLTK divides by zero where no hypothesis has five words; hence five at least."""
    references, hypotheses = [[r] for r, _ in rows], [h for _, h in rows]
    expected = corpus_nist(references, hypotheses)
    assert nist_of_words(references, hypotheses) == pytest.approx(expected, abs=1e-12)


def test_nist_of_several_references_by_hand():
    references, hypothesis = [["a b".split(), "a a c d".split()]], "a a b".split()
    # Six words; a is 3 of them, b 1; a a comes once and a b once after 3 a. Clipping is by the most in
    # one reference: a 2, b 1. The mean reference has 3 words, so nothing is taken off for brevity.
    single = (2 * math.log2(6 / 3) + math.log2(6 / 1)) / 3
    double = (math.log2(3 / 1) + math.log2(3 / 1)) / 2
    assert nist_of_words(references, [hypothesis]) == pytest.approx(single + double + 0)
    # a stands three times in all, but never more than twice in one reference.
    assert nist_of_words(references, ["a a a".split()]) == pytest.approx(2 / 3 + math.log2(3) / 2)


def test_nist_takes_half_for_two_thirds_of_the_length():
    words = "a b c".split()
    full = nist_of_words([[words]], [words])
    assert full == pytest.approx(math.log2(3))  # each next word is certain
    assert nist_of_words([[words]], [words[:2]]) == pytest.approx(math.log2(3) / 2)


def test_cider_as_pycocoevalcap():
    """The number is what pycocoevalcap 1.2's Cider gives for these words."""
    references = [
        [
            "the green man is a cheap coffee shop near all bar one",
            "near all bar one there is a cheap coffee shop called the green man",
        ],
        ["cotto serves italian food by the river"],
        [
            "the vaults is a pub with a low customer rating",
            "the vaults pub has a low rating",
            "a pub the vaults is rated low by customers",
        ],
    ]
    hypotheses = [
        "the green man is a cheap pub near all bar one",
        "cotto serves english food food by the river",
        "the vaults is a low rated pub",
    ]
    expected = pytest.approx(4.333575096187634, rel=1e-12)
    assert cider(references, hypotheses) == {"cider": expected}
    words = [[text.split() for text in texts] for texts in references]
    assert cider_of_words(words, [text.split() for text in hypotheses]) == expected


def test_cider_and_nist_see_words_in_lower_case():
    targets = [["The Mill, near Crowne Plaza."], ["A pub"]]
    shouted = ["THE MILL near Crowne plaza", "a PUB."]
    assert cider(targets, shouted) == {"cider": pytest.approx(cider_of_words(
        [[["the", "mill", "near", "crowne", "plaza"]], [["a", "pub"]]],
        [["the", "mill", "near", "crowne", "plaza"], ["a", "pub"]],
    ))}  # fmt: skip
    assert nist([["Don't stop."]], ["don't STOP ."]) == nist([["don't stop ."]], ["don't stop."])


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.lists(st.text(max_size=15), min_size=1, max_size=3), st.text(max_size=15)),
        min_size=1,
        max_size=3,
    )
)
@pytest.mark.parametrize("name", NAMES)
def test_any_text_has_a_finite_score(name, rows):
    targets, predictions = map(list, zip(*rows, strict=True))
    (value,) = METRICS[name](targets, predictions).values()
    assert type(value) is float and math.isfinite(value) and value >= 0
    if name != "nist":
        assert value <= (10 if name == "cider" else 1) + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused_and_no_examples(name):
    assert METRICS[name]([], []) == {name: 0.0}
    with pytest.raises(UserError, match="Example 1 has no reference"):
        METRICS[name]([["a"], []], ["a", "b"])
    with pytest.raises(ValueError):
        METRICS[name]([["a"]], ["a", "b"])
