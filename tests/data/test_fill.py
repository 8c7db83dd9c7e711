import functools
import json
import time

import numpy as np
import pytest

from mpt_jax.data import tasks
from mpt_jax.data.fill import TaskExamples, fill_store, seqio_example
from mpt_jax.data.identity import source_identity
from mpt_jax.data.tasks import task_vocabulary
from mpt_jax.errors import UserError

ROWS = [("abc", "x"), ("a longer input", "yes"), ("b", "zz")]
LENGTHS = {"inputs": 8, "targets": 4}


@pytest.fixture
def seqio():
    seqio = tasks.import_seqio()
    yield seqio
    seqio.TaskRegistry.reset()
    seqio.MixtureRegistry.reset()


def source(seqio, rows, splits=("train",)):
    import tensorflow as tf

    def dataset(split, shuffle_files):
        del split, shuffle_files
        columns = {"inputs": [r[0] for r in rows], "targets": [r[1] for r in rows]}
        extra = {
            f"field{i}": [row[i] for row in rows] for i in range(2, len(rows[0]) if rows else 2)
        }
        tensors = {
            k: tf.constant(v, tf.string if not v else None) for k, v in {**columns, **extra}.items()
        }
        return tf.data.Dataset.from_tensor_slices(tensors)

    return seqio.FunctionDataSource(dataset, splits=list(splits))


def register(seqio, name="my_task", rows=ROWS, splits=("train",), preprocessors=None, **more):
    features = {k: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for k in LENGTHS}
    seqio.TaskRegistry.add(
        name,
        source=more.pop("source", None) or source(seqio, rows, splits),
        preprocessors=preprocessors
        or [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=more.pop("output_features", features),
        **more,
    )


def test_a_task_becomes_a_store_with_texts_and_counts(seqio, tmp_path):
    register(seqio)
    store = fill_store("my_task", "train", LENGTHS, tmp_path)
    text = task_vocabulary("my_task")
    np.testing.assert_array_equal(store[0].inputs, [*text.encode("abc"), 1])
    np.testing.assert_array_equal(store[1].inputs, [*text.encode("a longer input")[:7], 1])
    assert [(e.inputs_text, e.targets_text) for e in store.read(range(3))] == ROWS
    manifest = store.manifest
    assert (manifest.task, manifest.split, manifest.count) == ("my_task", "train", 3)
    assert manifest.feature_lengths == LENGTHS
    assert manifest.truncated_inputs == 1
    assert manifest.vocabulary == text.fingerprint()
    assert store.folder.name.startswith("my_task-train-8x4-")


def test_a_filled_store_is_opened_again(seqio, tmp_path):
    register(seqio)
    first = fill_store("my_task", "train", LENGTHS, tmp_path)
    marker = first.folder / "marker"
    marker.touch()
    assert (
        fill_store("my_task", "train", dict(reversed(LENGTHS.items())), tmp_path).folder
        == first.folder
    )
    assert marker.exists()
    other = fill_store("my_task", "train", LENGTHS | {"inputs": 9}, tmp_path)
    assert other.folder != first.folder


def test_text_is_decoded_where_the_task_keeps_none(seqio, tmp_path):
    def drop_text(dataset):
        return dataset.map(lambda ex: {"inputs": ex["inputs"], "targets": ex["targets"]})

    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, drop_text]
    register(seqio, preprocessors=steps)
    store = fill_store("my_task", "train", LENGTHS, tmp_path)
    assert store[1].inputs_text == "a longer input"
    assert store.manifest.fields == {}


def test_further_fields_come_back_as_the_evaluator_gives_them(seqio, tmp_path):
    rows = [("a", "b", 3, ["né", "x"], 0.5, True), ("c", "d", 4, ["y", "z"], 0.25, False)]
    register(seqio, rows=rows)
    store = fill_store("my_task", "train", LENGTHS, tmp_path)
    dataset = seqio.TaskRegistry.get("my_task").get_dataset(None, "train", shuffle=False)
    for example, expected in zip(store.read(range(2)), dataset.as_numpy_iterator(), strict=True):
        found = seqio_example(example, store.manifest.fields)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert type(found[name]) is type(value), name
            np.testing.assert_array_equal(found[name], value)
            assert getattr(found[name], "dtype", None) == getattr(value, "dtype", None)


def test_an_overlong_target_is_refused(seqio, tmp_path):
    register(seqio)
    with pytest.raises(UserError, match=r"1 of 3 targets.*example 1 with 4 tokens: 'yes'"):
        fill_store("my_task", "train", {"inputs": 8, "targets": 3}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_splits_that_are_missing_or_empty_are_refused(seqio, tmp_path):
    register(seqio, rows=[], splits=("train", "test"))
    with pytest.raises(UserError, match=r"no examples in split 'train'; its splits are .*'test'"):
        fill_store("my_task", "train", LENGTHS, tmp_path)
    with pytest.raises(
        UserError, match="unknown split of task 'my_task' 'tests'; did you mean 'test'"
    ):
        fill_store("my_task", "tests", LENGTHS, tmp_path)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"inputs": 1, "targets": 4}, "'inputs' is 1, which leaves no room for text"),
        ({"inputs": 8, "targets": 0}, "'targets' is 0, which leaves no room"),
        ({"inputs": 8}, r"has \['inputs'\]; expected exactly"),
        ({"inputs": 8, "targets": 4, "label": 2}, "expected exactly"),
    ],
)
def test_lengths_without_room_are_refused(seqio, tmp_path, lengths, message):
    register(seqio)
    with pytest.raises(UserError, match=message):
        fill_store("my_task", "train", lengths, tmp_path)


def test_drawing_preprocessors_draw_the_same_again(seqio, tmp_path):
    import tensorflow as tf

    @seqio.map_over_dataset(num_seeds=1)
    def draw(example, seed):
        number = tf.random.stateless_uniform([], seed, 0, 1 << 30, tf.int32)
        return {**example, "inputs": tf.strings.as_string(number)}

    register(seqio, preprocessors=[draw, seqio.preprocessors.tokenize])
    texts = [
        [
            e.inputs_text
            for e in fill_store("my_task", "train", LENGTHS, tmp_path / f).read(range(3))
        ]
        for f in ("a", "b")
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3


def test_preprocessors_that_demand_lengths_get_them(seqio, tmp_path):
    def cut(dataset, sequence_length):
        return dataset.map(
            lambda ex: {**ex, "inputs": ex["inputs"][: sequence_length["inputs"] // 2]}
        )

    register(seqio, preprocessors=[seqio.preprocessors.tokenize, cut])
    store = fill_store("my_task", "train", LENGTHS, tmp_path)
    assert len(store[1].inputs) == 4


def test_two_thousand_rows_take_under_two_seconds(seqio, tmp_path):
    register(seqio, rows=[(f"word {i}", "ab") for i in range(2000)])
    start = time.process_time()  # of this process: the machine may be busy with others
    store = fill_store("my_task", "train", {"inputs": 16, "targets": 4}, tmp_path)
    assert len(store) == 2000
    assert time.process_time() - start < 2


def test_reading_examples_does_not_need_a_store(seqio):
    register(seqio)
    task = tasks.get_task("my_task")
    examples = TaskExamples(task, "train", task_vocabulary("my_task"))
    assert next(iter(examples)).targets_text == "x"


def identity(seqio, **more):
    seqio.TaskRegistry.reset()
    register(seqio, **more)
    return source_identity(tasks.get_task("my_task"), "train")


def test_identity_follows_rows_preprocessors_and_features(seqio):
    first = identity(seqio)
    assert identity(seqio) == first
    assert identity(seqio, rows=[*ROWS, ("d", "e")]) != first

    def upper(dataset, by=1):
        return dataset

    plain = [seqio.preprocessors.tokenize]
    kinds = [
        identity(seqio, preprocessors=plain),
        identity(seqio, preprocessors=[*plain, upper]),
        identity(seqio, preprocessors=[*plain, functools.partial(upper, by=2)]),
        identity(seqio, preprocessors=[*plain, lambda dataset: dataset]),
        identity(
            seqio,
            output_features={k: seqio.Feature(seqio.ByteVocabulary()) for k in LENGTHS},
        ),
        identity(
            seqio,
            output_features={
                k: seqio.Feature(seqio.ByteVocabulary(), add_eos=False) for k in LENGTHS
            },
        ),
    ]
    assert len({*kinds, first}) == len(kinds)  # the default of add_eos is True: one is `first`


MODULE = """
import seqio, tensorflow as tf
from pathlib import Path

PREFIX = {prefix!r}

def helper(text):
    return PREFIX + text

def dataset(split, shuffle_files):
    lines = (Path(__file__).parent / "data" / "rows.tsv").read_text().splitlines()
    return tf.data.Dataset.from_tensor_slices(
        {{"inputs": [helper(line) for line in lines], "targets": lines}})

@seqio.map_over_dataset
def step(example):
    return example

seqio.TaskRegistry.add(
    "my_task",
    source=seqio.FunctionDataSource(dataset, splits=["train"]),
    preprocessors=[step, seqio.preprocessors.tokenize],
    output_features={{k: seqio.Feature(seqio.ByteVocabulary()) for k in ("inputs", "targets")}},
)
"""


def test_identity_follows_globals_and_data_beside_the_module(seqio, tmp_path):
    def of(folder, prefix="p", rows="a\nb\n"):
        (tmp_path / folder / "data").mkdir(parents=True)
        (tmp_path / folder / "data" / "rows.tsv").write_text(rows)
        (tmp_path / folder / "my_tasks.py").write_text(MODULE.format(prefix=prefix))
        seqio.TaskRegistry.reset()
        tasks.load_task_modules([tmp_path / folder / "my_tasks.py"])
        return source_identity(tasks.get_task("my_task"), "train")

    prints = [of("one"), of("two", prefix="q"), of("three", rows="a\nc\n")]
    assert len(set(prints)) == 3


def test_identity_follows_the_content_of_source_files(seqio, tmp_path):
    path = tmp_path / "lines.txt"

    def of(content):
        path.write_text(content)
        return identity(seqio, source=seqio.TextLineDataSource({"train": str(path)}))

    assert of("a") == of("a") != of("b")


def test_the_manifest_is_plain_json(seqio, tmp_path):
    register(seqio)
    folder = fill_store("my_task", "train", LENGTHS, tmp_path).folder
    content = json.loads((folder / "manifest.json").read_text())
    assert content["length_histogram"]["inputs"] == {"2": 1, "4": 1, "8": 1}
    assert content["tool_version"]
