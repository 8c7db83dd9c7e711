import numpy as np
import pytest

from mpt_jax.data import tasks
from mpt_jax.data.fill import fill_store
from mpt_jax.data.scoring import majority_score, needed_outputs, score_predictions
from mpt_jax.errors import UserError

ROWS = [("a", "Yes", 0), ("b", "no", 1), ("c", "yes", 2), ("d", "YES", 3), ("e", "no", 4)]
PREDICTIONS = ["yes", "yes", "yes", "no", "no "]
SCORES = [-1.0, -2.0, -0.5, -3.0, -0.25]


def accuracy(targets, predictions):
    return {"accuracy": np.mean([t == p for t, p in zip(targets, predictions, strict=True)])}


def mean_score(targets, scores):
    import seqio

    return {
        "mean_score": seqio.metrics.Scalar(np.mean(scores)),
        "count": len(targets),
        "notes": seqio.metrics.Text("not a number"),
    }


def clean(text, example, is_target):
    # What the Evaluator promises: NumPy values, text as bytes, and which side it is.
    assert isinstance(example["inputs_pretokenized"], bytes)
    assert example["row"].dtype == np.int32
    assert is_target == (text not in PREDICTIONS) or text in ("yes", "no")
    return text.strip().lower()


@pytest.fixture(scope="module")
def seqio():
    return tasks.import_seqio()


def share_of_rows_object(seqio):
    """A metric object of seqio's class-based kind: the share of predictions ending with EOS."""
    import flax

    @flax.struct.dataclass
    class EndsWithEos(seqio.metrics.Metric):
        model_output_type: seqio.metrics.ModelOutputType = seqio.metrics.ModelOutputType.PREDICTION
        share: float = 0.0

        @classmethod
        def from_model_output(
            cls, inputs, model_output, features, target_field_name="targets", mask=None
        ):
            assert len(inputs) == len(model_output) and target_field_name in features
            return cls(share=float(np.mean([1 in row for row in model_output])))

        def compute(self):
            return {"ends_with_eos": self.share}

    return EndsWithEos()


@pytest.fixture
def register(seqio, tmp_path):
    import tensorflow as tf

    def dataset(split, shuffle_files, seed=None):
        columns = list(zip(*ROWS, strict=True))
        named = dict(zip(("inputs", "targets", "row"), map(list, columns), strict=True))
        return tf.data.Dataset.from_tensor_slices(named)

    def add(**more):
        seqio.TaskRegistry.add(
            "my_task",
            source=seqio.FunctionDataSource(dataset, splits=["test"]),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={
                k: seqio.Feature(seqio.ByteVocabulary()) for k in ("inputs", "targets")
            },
            **more,
        )
        return fill_store("my_task", "test", {"inputs": 8, "targets": 8}, tmp_path)

    yield add
    seqio.TaskRegistry.reset()


def by_the_evaluator(seqio):
    """The same through seqio's own Evaluator."""
    import tensorflow as tf

    evaluator = seqio.Evaluator(
        "my_task",
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="test",
        sequence_length={"inputs": 8, "targets": 8},
    )
    vocabulary = seqio.ByteVocabulary()

    def predict(dataset):
        rows = [[*vocabulary.encode(p), 1] for p in PREDICTIONS]
        return [(i, row + [0] * (8 - len(row))) for i, row in enumerate(rows)]

    with tf.device("/CPU:0"):
        metrics, _ = evaluator.evaluate(
            compute_metrics=True,
            predict_fn=predict,
            score_fn=lambda dataset: list(enumerate(SCORES)),
        )
    return metrics.result()["my_task"]


@pytest.mark.filterwarnings("default")  # seqio's Evaluator is not ours
def test_functions_and_objects_score_as_in_the_evaluator(seqio, register):
    store = register(
        postprocess_fn=clean,
        metric_fns=[accuracy, mean_score],
        metric_objs=[share_of_rows_object(seqio)],
    )
    found = score_predictions("my_task", store, PREDICTIONS, scores=SCORES)
    expected = by_the_evaluator(seqio)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found == pytest.approx(
        {
            "accuracy": expected["accuracy"],
            "mean_score": expected["mean_score"].value,
            "count": expected["count"],
            "ends_with_eos": expected["ends_with_eos"],
        }
    )
    assert all(type(value) is float for value in found.values())


def test_kinds_of_metrics_are_left_out_with_their_outputs(register):
    store = register(metric_fns=[accuracy, mean_score])
    assert needed_outputs("my_task") == {"predictions", "scores"}
    assert set(score_predictions("my_task", store, PREDICTIONS)) == {"accuracy"}
    assert "accuracy" not in score_predictions("my_task", store, None, scores=SCORES)


def test_the_majority_score_goes_through_the_same_metrics(register):
    store = register(postprocess_fn=lambda text, **_: text.lower(), metric_fns=[accuracy])
    # "no" is the most frequent target; after the postprocessor "yes" would be, which is the task's affair.
    assert majority_score("my_task", store) == {"accuracy": pytest.approx(0.4)}


def test_a_task_without_metrics_has_no_scores(register):
    store = register()
    assert needed_outputs("my_task") == frozenset()
    assert score_predictions("my_task", store, PREDICTIONS) == {}


def test_wrong_numbers_and_names_are_refused(register):
    def accuracy_again(targets, predictions):
        return {"accuracy": 0.0}

    store = register(metric_fns=[accuracy, accuracy_again])
    with pytest.raises(UserError, match="2 predictions for the 5 examples"):
        score_predictions("my_task", store, ["a", "b"])
    with pytest.raises(UserError, match="Two metrics of task 'my_task' are called 'accuracy'"):
        score_predictions("my_task", store, PREDICTIONS)


def test_metrics_of_auxiliary_values_are_refused(register):
    def with_aux(targets, predictions, aux_values):
        return {}

    register(metric_fns=[with_aux])
    with pytest.raises(UserError, match="PREDICTION_WITH_AUX"):
        needed_outputs("my_task")
