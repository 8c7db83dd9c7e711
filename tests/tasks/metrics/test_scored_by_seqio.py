"""seqio tasks with these metrics and postprocessors, the whole way: store, scores, majority."""

import functools

import pytest

from mpt_jax.data.fill import fill_store
from mpt_jax.data.scoring import majority_score, needed_outputs, score_predictions
from mpt_jax.data.tasks import import_seqio
from mpt_jax.tasks.metrics import METRICS, metric_functions
from mpt_jax.tasks.metrics.postprocessors import (
    answers,
    grouped_answers,
    grouped_label_index,
    label_index,
)

ROWS = [
    {"inputs": "a", "targets": "1", "group": "0-0", "answers": ["Ann", "Ann Lee"]},
    {"inputs": "b", "targets": "0", "group": "0-0", "answers": ["Ann", "Ann Lee"]},
    {"inputs": "c", "targets": "1", "group": "0-1", "answers": ["Café Rex"]},
]


@pytest.fixture
def store(tmp_path):
    """Registers a task with the rows above and fills its store."""
    seqio = import_seqio()
    import tensorflow as tf

    def dataset(split, shuffle_files, seed=None):
        text = tf.TensorSpec((), tf.string)
        signature = {name: text for name in ROWS[0]}
        signature["answers"] = tf.TensorSpec((None,), tf.string)
        return tf.data.Dataset.from_generator(lambda: iter(ROWS), output_signature=signature)

    def fill(postprocessor, metrics):
        seqio.TaskRegistry.add(
            "my_task",
            source=seqio.FunctionDataSource(dataset, splits=["test"]),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={
                name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")
            },
            postprocess_fn=postprocessor,
            metric_fns=metric_functions(metrics),
        )
        return fill_store("my_task", "test", {"inputs": 8, "targets": 8}, tmp_path)

    yield fill
    seqio.TaskRegistry.remove("my_task")


def test_every_metric_is_one_that_seqio_takes(store):
    store(
        answers, [name for name in METRICS if name != "meteor"]
    )  # it needs WordNet: test_meteor.py
    assert needed_outputs("my_task") == {"predictions"}


def test_labels(store):
    examples = store(
        functools.partial(label_index, labels=("0", "1")), ["accuracy", "f1", "matthews"]
    )
    # The unparsable answer counts as the wrong label for F1, and as a third class for Matthews.
    scores = score_predictions("my_task", examples, ["1", "x", "1"])
    assert scores == pytest.approx({"accuracy": 2 / 3, "f1": 0.8, "matthews": 0.5})
    majority = majority_score("my_task", examples)
    assert majority == pytest.approx({"accuracy": 2 / 3, "f1": 0.8, "matthews": 0.0})


def test_questions_of_several_answers(store):
    examples = store(
        functools.partial(grouped_label_index, labels=("0", "1")), ["multirc_f1a", "multirc_em"]
    )
    scores = score_predictions("my_task", examples, ["1", "1", "1 "])
    assert scores == pytest.approx({"multirc_f1a": 0.8, "multirc_em": 0.5})


def test_answers_out_of_the_examples(store):
    examples = store(answers, ["squad_em", "squad_f1"])
    scores = score_predictions("my_task", examples, ["ann", "Lee", "the Café rex."])
    assert scores == pytest.approx({"squad_em": 2 / 3, "squad_f1": (1 + 2 / 3 + 1) / 3})


def test_queries_that_stand_twice(store):
    examples = store(grouped_answers, ["record_em", "record_f1"])
    scores = score_predictions("my_task", examples, ["ann", "ann", "Rex"])
    assert scores == pytest.approx({"record_em": 0.5, "record_f1": (1 + 2 / 3) / 2})
