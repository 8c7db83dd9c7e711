import subprocess
import sys

import pytest

from mpt_jax.data import tasks
from mpt_jax.data.vocabularies import ByteVocabulary
from mpt_jax.errors import UserError

FILE = """
import seqio
import tensorflow as tf


def dataset(split, shuffle_files):
    return tf.data.Dataset.from_tensor_slices({"inputs": ["good film"], "targets": ["pos"]})


def accuracy(targets, predictions):
    return {"accuracy": 1.0}


FEATURES = {k: seqio.Feature(seqio.ByteVocabulary()) for k in ("inputs", "targets")}
for name in ("film_sentiment", "book_sentiment"):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["train", "test"]),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features=FEATURES,
        metric_fns=[accuracy],
    )
seqio.MixtureRegistry.add("sentiment", [("film_sentiment", 3), ("book_sentiment", 1)])
"""


@pytest.fixture
def registered(tmp_path):
    seqio = tasks.import_seqio()
    path = tmp_path / "my_tasks.py"
    path.write_text(FILE)
    tasks.load_task_modules([path])
    yield path
    seqio.TaskRegistry.reset()
    seqio.MixtureRegistry.reset()


def test_a_file_is_loaded_once(registered):
    tasks.load_task_modules([registered, str(registered)])
    assert tasks.get_task("film_sentiment").name == "film_sentiment"


def test_a_dotted_module_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "my_package_of_tasks.py").write_text("LOADED = True")
    monkeypatch.syspath_prepend(tmp_path)
    tasks.load_task_modules(["my_package_of_tasks"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\nimport no_such_thing\n", r"line 2: ModuleNotFoundError: No module named 'no_such"),
        ("def f():\n    return 1 / 0\n\nf()\n", r"line 2: ZeroDivisionError"),
        ("x = (\n", r"line 1: SyntaxError"),
    ],
)
def test_a_failing_file_is_shown_with_its_line(tmp_path, content, message):
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(UserError, match=f"broken.py failed at .*broken.py, {message}"):
        tasks.load_task_modules([path])
    path.write_text("x = 1\n\n\n")
    tasks.load_task_modules([path])  # a mended file loads


def test_a_failing_module_is_shown_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "failing_module_of_tasks.py").write_text("\nraise KeyError('k')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"failing_module_of_tasks.py, line 2: KeyError: 'k'"):
        tasks.load_task_modules(["failing_module_of_tasks"])


def test_missing_files_and_modules_are_named(registered):
    with pytest.raises(UserError, match=r"No task file .*other.py.* its folder has my_tasks.py"):
        tasks.load_task_modules([registered.parent / "other.py"])
    with pytest.raises(UserError, match=r"No task module 'no_such.module'.*PYTHONPATH"):
        tasks.load_task_modules(["no_such.module"])


def test_an_unknown_task_gets_the_nearest_names(registered):
    with pytest.raises(
        UserError, match=r"unknown task or mixture 'film_sentimant'; did you mean 'film_"
    ):
        tasks.get_task("film_sentimant")
    with pytest.raises(UserError, match=r"did you mean 'sentiment'"):
        tasks.expand("sentimen")


def test_a_mixture_is_not_one_task(registered):
    with pytest.raises(UserError, match="is a mixture, .* book_sentiment, film_sentiment"):
        tasks.get_task("sentiment")


def test_mixtures_expand_with_their_own_rates(registered):
    assert tasks.expand("sentiment") == ("book_sentiment", "film_sentiment")
    assert tasks.expand("film_sentiment") == ("film_sentiment",)
    assert tasks.mixture_rates("sentiment") == {"book_sentiment": 0.25, "film_sentiment": 0.75}
    assert tasks.mixture_rates("film_sentiment") == {"film_sentiment": 1.0}


def test_rates_in_proportion_to_examples_are_capped():
    # Of the paper's six sources the cap meets MNLI and QQP (392,702 and 362,846 examples).
    rates = tasks.examples_proportional_rates({"mnli": 392_702, "qqp": 362_846, "sst2": 66_349})
    assert rates["mnli"] == rates["qqp"] == pytest.approx(2**18 / (2 * 2**18 + 66_349))
    assert sum(rates.values()) == pytest.approx(1)
    with pytest.raises(UserError, match="expected none below 0"):
        tasks.examples_proportional_rates({"a": 0})


def test_rates_that_cannot_be_computed_are_explained(registered):
    seqio = tasks.import_seqio()
    seqio.MixtureRegistry.add("broken", [("film_sentiment", lambda task: task.no_such_thing)])
    with pytest.raises(
        UserError, match="rates of mixture 'broken' could not be had: AttributeError"
    ):
        tasks.mixture_rates("broken")


def test_listing_shows_an_example_and_the_metrics(registered):
    found = {summary.name: summary for summary in tasks.list_tasks()}
    film = found["film_sentiment"]
    assert (film.inputs_text, film.targets_text) == ("good film", "pos")
    assert (film.splits, film.metrics, film.problem) == (("train", "test"), ("accuracy",), None)
    assert found["sentiment"].members == ("book_sentiment", "film_sentiment")


def test_listing_goes_on_past_a_broken_task(registered):
    seqio = tasks.import_seqio()

    def dataset(split, shuffle_files):
        raise OSError("no network")

    seqio.TaskRegistry.add(
        "broken",
        source=seqio.FunctionDataSource(dataset, splits=["train"]),
        output_features=tasks.get_task("film_sentiment").output_features,
    )
    found = {summary.name: summary for summary in tasks.list_tasks()}
    assert found["broken"].problem == "OSError: no network"
    assert found["film_sentiment"].problem is None


def test_vocabularies_that_differ_are_both_named(registered):
    class Other(ByteVocabulary):
        def fingerprint(self):
            return "other"

    tasks.check_vocabulary("film_sentiment", ByteVocabulary(125))
    with pytest.raises(UserError, match=r"'film_sentiment'.*259 ids.*backbone has.*384 ids"):
        tasks.check_vocabulary("film_sentiment", Other())


def test_a_vocabulary_larger_than_the_backbones_is_refused(registered):
    seqio = tasks.import_seqio()
    features = {k: seqio.Feature(seqio.ByteVocabulary(200)) for k in ("inputs", "targets")}
    task = tasks.get_task("film_sentiment")
    seqio.TaskRegistry.add("large", source=task.source, output_features=features)
    with pytest.raises(UserError, match="459 ids"):
        tasks.check_vocabulary("large", ByteVocabulary(125))


def test_inputs_and_targets_share_a_vocabulary(registered):
    seqio = tasks.import_seqio()
    task = tasks.get_task("film_sentiment")
    only_targets = {"targets": task.output_features["targets"]}
    seqio.TaskRegistry.add("decoder_only", source=task.source, output_features=only_targets)
    with pytest.raises(UserError, match=r"output features \['targets'\]"):
        tasks.task_vocabulary("decoder_only")


SHOW = """
import os, sys
from mpt_jax.data import tasks
with tasks._without_chatter():
    os.write(2, b"chatter")
os.write(2, b"[kept]")
try:
    with tasks._without_chatter():
        os.write(2, b"reason")
        raise ValueError
except ValueError:
    tasks.import_seqio()
"""


def test_tensorflow_is_loaded_in_silence():
    done = subprocess.run([sys.executable, "-c", SHOW], check=True, capture_output=True, text=True)
    assert done.stderr == "[kept]reason"
