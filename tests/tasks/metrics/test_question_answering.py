"""Exact match and F1 of answers against SQuAD's rules, written here a second time in another way."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.tasks.metrics import METRICS, Grouped
from mpt_jax.tasks.metrics.question_answering import normalized

squad_em, squad_f1, record_em, record_f1, exact_match = (
    METRICS[name] for name in ("squad_em", "squad_f1", "record_em", "record_f1", "exact_match")
)

PIECES = ["the", "A", "an", "cat", "Cat", "sat", "it's", "U.S.", "1,000", "—the", "é", "_the_", "-",
          "\t", "theatre", "", "’", "a1"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join) | st.text(max_size=12)


def words_by_the_rules(text):
    """Lower case; no ASCII punctuation; runs of word characters that are articles become a space."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    runs = re.findall(r"\w+|\W", kept)
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def f1_by_the_rules(answer, prediction):
    gold, guess = words_by_the_rules(answer), words_by_the_rules(prediction)
    if not gold and not guess:
        return 1.0
    left, common = list(gold), 0
    for word in guess:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(guess), common / len(gold)
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.lists(TEXTS, min_size=1, max_size=3), TEXTS), min_size=1, max_size=5))
def test_as_the_rules_say(rows):
    targets, predictions = map(list, zip(*rows, strict=True))
    em = [
        max(words_by_the_rules(a) == words_by_the_rules(prediction) for a in answers)
        for answers, prediction in rows
    ]
    best = [max(f1_by_the_rules(a, prediction) for a in answers) for answers, prediction in rows]
    assert squad_em(targets, predictions) == {"squad_em": pytest.approx(sum(em) / len(em))}
    assert squad_f1(targets, predictions) == {"squad_f1": pytest.approx(sum(best) / len(best))}
    assert squad_f1(targets, predictions)["squad_f1"] >= sum(em) / len(em) - 1e-12


@pytest.mark.parametrize(
    ("answer", "text"),
    [("The  U.S. Army", "us army"), ("a-b the", "ab"), ("theatre", "theatre"), ("An", ""),
     ("‘x’", "‘x’"), ("\n1,000 ", "1000")],
)  # fmt: skip
def test_normalisation(answer, text):
    assert normalized(answer) == text


def test_the_best_of_several_answers_counts():
    targets, predictions = [["Denver Broncos", "the Broncos"]], ["broncos won"]
    assert squad_f1(targets, predictions) == {"squad_f1": pytest.approx(2 / 3)}
    assert squad_em(targets, ["Broncos!"]) == {"squad_em": 1.0}
    assert exact_match(targets, ["Broncos!"]) == {"exact_match": 0.0}
    assert exact_match(targets, ["the Broncos"]) == {"exact_match": 1.0}


def test_a_question_without_answer_wants_none():
    assert squad_em([[], []], ["", "Paris"]) == {"squad_em": 0.5}
    assert squad_f1([[], []], ["the", "Paris"]) == {"squad_f1": 0.5}


def test_a_query_of_record_counts_once():
    a, b = Grouped("a", ["Ann", "Ann Lee"]), Grouped("b", ["Bob"])
    assert record_em([a, b, a, a], ["Ann", "Carl", "Ann", "Ann"]) == {"record_em": 0.5}
    assert record_f1([a, b], ["Lee", "bob"]) == {"record_f1": pytest.approx((2 / 3 + 1) / 2)}


@pytest.mark.parametrize("metric", [squad_em, squad_f1, record_em, record_f1, exact_match])
def test_no_examples_and_unequal_lists(metric):
    assert list(metric([], []).values()) == [0.0]
    with pytest.raises(ValueError):
        metric([], ["a"])
