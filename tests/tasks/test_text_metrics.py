import pytest

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics import METRICS
from mpt_jax.tasks.table_splits import TableExample
from mpt_jax.tasks.text_metrics import FORMS, text_metrics


def examples(*targets):
    return [TableExample(str(n), text, f"f.csv, line {n}") for n, text in enumerate(targets, 2)]


def score(name, targets, predictions, positive=None):
    (metric,) = text_metrics([name], examples(*targets), positive)
    assert metric.__name__ == name
    return metric(targets=targets, predictions=predictions)[name]


def test_they_are_metrics_that_exist():
    grouped = {"multirc_f1a", "multirc_em", "record_em", "record_f1"}  # of several rows a question
    assert set(FORMS) == set(METRICS) - grouped


def test_classes():
    targets, predictions = ["yes", "no", "yes", "no"], ["yes", "yes", "what", "no"]
    assert score("accuracy", targets, predictions) == 0.5
    # Of "yes": 1 found of 2, and 2 said; of "no": a word that is neither counts as said there.
    assert score("f1", targets, predictions, "yes") == pytest.approx(0.5)
    assert score("f1", targets, ["yes", "no", "no", "no"], "no") == pytest.approx(0.8)
    assert score("f1_macro", ["a", "b", "c"], ["a", "b", "b"]) == pytest.approx((1 + 2 / 3) / 3)
    assert score("matthews", targets, targets) == pytest.approx(1)
    assert score("matthews", targets, ["no", "yes", "no", "yes"]) == pytest.approx(-1)


def test_numbers():
    assert score("pearson", ["1", "2.5", "4"], ["2", "5.0", "8"]) == pytest.approx(1)
    assert score("spearman", ["1", "2", "30"], ["3", "2", "1"]) == pytest.approx(-1)


def test_texts():
    assert score("exact_match", ["a b", "c"], ["a b", "C"]) == 0.5
    assert score("squad_em", ["The cat", "c"], ["cat.", "d"]) == 0.5
    assert score("squad_f1", ["big cat"], ["a cat"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_generated_texts(name):
    pytest.importorskip("sacrebleu", reason="the benchmark extra is not installed")
    text = ["the cat sat on the mat", "a dog ran off"]
    assert score(name, text, text) == pytest.approx(1)
    assert score(name, text, ["x", "y"]) < 0.1


def test_several():
    metrics = text_metrics(("accuracy", "f1"), examples("a", "b"), "a")
    assert [metric.__name__ for metric in metrics] == ["accuracy", "f1"]


@pytest.mark.parametrize(
    ("name", "targets", "said"),
    [
        ("acuracy", ["a"], "did you mean 'accuracy'"),
        ("record_f1", ["a"], "unknown metric of a table"),
        ("f1", ["a", "b"], "TABLE_POSITIVE"),
        ("f1", ["a"], "is of two labels, and the table has 1"),
        ("f1", list("abcdefg"), "has 7: 'a', 'b', 'c', 'd', 'e', ..."),
        ("pearson", ["1", "two"], "f.csv, line 3: the target 'two' is not a number"),
        ("spearman", ["1", "nan"], "line 3"),
        ("pearson", ["1e999"], "line 2"),
    ],
)
def test_targets_that_a_metric_is_not_of(name, targets, said):
    with pytest.raises(UserError) as error:
        text_metrics([name], examples(*targets))
    assert said in str(error.value)
