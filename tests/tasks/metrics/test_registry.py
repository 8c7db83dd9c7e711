"""Metrics by name, and what they need."""

import importlib.util
import subprocess
import sys

import pytest

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics import METRICS, metric_functions


def test_a_metric_is_known_by_its_function_and_its_result():
    for name, function in METRICS.items():
        assert function.__name__ == name
        assert list(function([], [])) == [name]


def test_functions_come_in_the_order_of_the_names():
    assert metric_functions(["squad_f1", "accuracy"]) == [METRICS["squad_f1"], METRICS["accuracy"]]


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        metric_functions(["acuracy"])


@pytest.mark.parametrize(("name", "package"), [("bleu", "sacrebleu"), ("rougeL", "rouge-score")])
def test_a_missing_library_is_named_before_training(monkeypatch, name, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    metric_functions(["accuracy", "squad_em"])
    with pytest.raises(UserError, match=rf"{name!r} needs the package {package}; .*\[benchmark\]"):
        metric_functions([name])


def test_the_import_brings_no_library():
    heavy = ("jax", "nltk", "rouge_score", "sacrebleu", "scipy", "seqio", "sklearn", "tensorflow")
    code = f"import sys, mpt_jax.tasks.metrics; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
