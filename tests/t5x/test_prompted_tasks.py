"""seqio tasks with prompts in front, and what T5X's feature converter makes of them."""

import numpy as np
import pytest

from mpt_jax.data.tasks import import_seqio
from mpt_jax.errors import UserError

pytest.importorskip("t5x", reason="needs T5X from its repository (docs/t5x.md)")

seqio = import_seqio()
import tensorflow as tf  # noqa: E402

from mpt_jax.t5x.tasks import prompted_mixture  # noqa: E402

P, V = 3, 400
FEATURE = seqio.Feature(seqio.ByteVocabulary(125), add_eos=True)


def examples(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices(
        {"inputs": ["abc", "de", "fghijklmnopqrst"], "targets": ["x", "yz", "x"]}
    )


def share(targets, predictions):
    return {"share": float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def upper(text, **_):
    return text.upper()


def add(name, eos=seqio.preprocessors.append_eos, **features):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(examples, splits=("train",)),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            eos,
        ],
        output_features=features or {"inputs": FEATURE, "targets": FEATURE},
        postprocess_fn=upper,
        metric_fns=[share],
    )


@pytest.fixture
def two():
    add("first")
    add("second", eos=seqio.preprocessors.append_eos_after_trim)
    return ["first", "second"]


def tokens(text):
    return [byte + 3 for byte in text.encode()]


def test_a_prompt_stands_once_before_each_example(two):
    name = prompted_mixture(two, P, V)
    mixture = seqio.MixtureRegistry.get(name)
    assert sorted(task.name for task in mixture.tasks) == ["mpt_first", "mpt_second"]
    for k, task in enumerate(two):
        derived = seqio.TaskRegistry.get(f"mpt_{task}")
        original = seqio.TaskRegistry.get(task)
        rows = list(derived.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
        ids = [V + k * P + i for i in range(P)]
        assert rows[0]["inputs"].tolist() == [*ids, *tokens("abc"), 1]
        assert rows[1]["targets"].tolist() == [*tokens("yz"), 1]
        assert derived.output_features == original.output_features
        assert derived.metric_fns == original.metric_fns
        assert derived.postprocess_fn("a") == "A"


def test_what_is_cut_is_text_never_prompt_nor_eos_that_a_task_keeps(two):
    prompted_mixture(two, P, V)
    lengths = {"inputs": 8, "targets": 4}
    for k, (task, end) in enumerate([("first", []), ("second", [1])]):
        dataset = seqio.TaskRegistry.get(f"mpt_{task}").get_dataset(lengths, "train", shuffle=False)
        last = list(dataset.as_numpy_iterator())[2]["inputs"].tolist()
        ids = [V + k * P + i for i in range(P)]
        assert last == [*ids, *tokens("fghijklmnopqrst")[: 5 - len(end)], *end]


def test_packed_rows_hold_several_prompts(two):
    mixture = seqio.MixtureRegistry.get(prompted_mixture(two, P, V))
    dataset = seqio.get_dataset(
        mixture.name,
        task_feature_lengths={"inputs": 40, "targets": 16},
        dataset_split="train",
        shuffle=False,
        num_epochs=4,
        feature_converter=seqio.EncDecFeatureConverter(pack=True),
    )
    prompts, most = set(), 0
    for row in dataset.as_numpy_iterator():
        segments, ids = row["encoder_segment_ids"], row["encoder_input_tokens"]
        for segment in range(1, segments.max() + 1):
            mine = ids[segments == segment]
            k = (mine[0] - V) // P
            assert mine[:P].tolist() == [V + k * P + i for i in range(P)] and mine[P:].max() < V
            prompts.add(int(k))
            assert row["encoder_positions"][segments == segment].tolist() == list(range(len(mine)))
        most = max(most, segments.max())
    assert prompts == {0, 1} and most > 1


def test_it_may_be_asked_for_again_and_in_part(two):
    assert prompted_mixture(two, P, V) == prompted_mixture(two, P, V) == "mpt_tasks"
    name = prompted_mixture(two, P, V, only=["second"], name="half")
    (task,) = seqio.MixtureRegistry.get(name).tasks
    row = next(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    assert row["inputs"][0] == V + P  # the order of all tasks still counts


def test_rates_are_the_mixture_s(two):
    rates = {"mpt_first": 3.0, "mpt_second": 1.0}
    mixture = seqio.MixtureRegistry.get(prompted_mixture(two, P, V, rate=lambda t: rates[t.name]))
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == rates


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["first", "first"]}, "each once"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": ["frist"]}, "did you mean 'first'"),
        ({"only": ["third"]}, "expected some of TASKS"),
        ({"vocab_size": 300}, "a vocabulary of 384 ids, but virtual ids start at 300"),
        ({"tasks": ["targets_only"]}, "goes in front of 'inputs'"),
    ],
)
def test_bad_arguments_are_refused(change, message, two):
    add("targets_only", targets=FEATURE)
    settings = {"tasks": two, "prompt_length": P, "vocab_size": V} | change
    with pytest.raises(UserError, match=message):
        prompted_mixture(**settings)


def test_names_that_are_taken_are_refused(two):
    prompted_mixture(two, P, V)
    with pytest.raises(UserError, match="'mpt_first' is registered already"):
        prompted_mixture(two, P + 1, V)
    with pytest.raises(UserError, match="'mpt_tasks' is registered with"):
        prompted_mixture(two, P, V, only=["first"])


def test_a_row_without_room_for_text_is_refused(two):
    prompted_mixture(two, P, V)
    task = seqio.TaskRegistry.get("mpt_first")
    with pytest.raises(UserError, match="In T5X the prompt counts"):
        task.get_dataset({"inputs": P, "targets": 4}, "train", shuffle=False)
