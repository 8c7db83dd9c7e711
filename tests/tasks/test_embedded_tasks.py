"""The seqio registrations of the demonstration's tasks."""

import pytest

seqio = pytest.importorskip("seqio")

from mpt_jax.embedded import demo  # noqa: E402
from mpt_jax.tasks import embedded  # noqa: E402

LENGTHS = {"inputs": 25, "targets": 16}


def test_mixtures_hold_all_tasks():
    def members(name):
        return {task.name for task in seqio.get_mixture_or_task(name).tasks}

    sources, targets = members("embedded_sources"), members("embedded_targets")
    assert len(sources) >= 8 and len(targets) >= 4
    assert sources | targets == set(demo.TASKS) and not sources & targets
    assert members("embedded_classify") == set(embedded.LABELS)


@pytest.mark.parametrize("name", ["inflect_past", "classify_language_b"])
def test_a_split_comes_out_whole_and_in_order(name):
    task = seqio.get_mixture_or_task(name)
    assert task.num_input_examples("test") == len(demo.examples(name, "test"))
    dataset = task.get_dataset(LENGTHS, "validation", shuffle=False)
    vocabulary = task.output_features["inputs"].vocabulary
    pairs = []
    for example in dataset.as_numpy_iterator():
        assert example["inputs"][-1] == example["targets"][-1] == vocabulary.eos_id == 1
        pairs.append(tuple(vocabulary.decode(list(example[k][:-1])) for k in LENGTHS))
    assert pairs == demo.examples(name, "validation")


def test_metrics_are_shares_of_equal_answers():
    past, part_of_speech = (
        seqio.get_mixture_or_task(name) for name in ("inflect_past", "classify_part_of_speech")
    )
    assert past.metric_fns[0](["ran", "sat"], ["ran", "sitted"]) == {"exact_match": 0.5}
    assert part_of_speech.metric_fns[0](["noun"], ["noun"]) == {"accuracy": 1.0}
    assert past.postprocess_fn(" ran ", example={}, is_target=False) == "ran"


def test_labels_are_those_of_the_examples():
    for name, labels in embedded.LABELS.items():
        assert {target for _, target in demo.examples(name, "test")} == set(labels)
