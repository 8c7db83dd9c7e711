import json
import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax import scratch_folders
from mpt_jax.data.examples import Description, Example, SubStore
from mpt_jax.data.store import DamagedStoreError, TokenStore, find_store, write_store
from mpt_jax.errors import UserError

DESCRIPTION = Description("my_task", "train", {"inputs": 6, "targets": 4}, "vocabulary")


def example(inputs, targets=(7, 1), text="text"):
    return Example(np.asarray(inputs, np.int32), np.asarray(targets, np.int32), text, "label", {})


def examples(n):
    return [example([10 + i, 1], text=f"text {i}") for i in range(n)]


def hidden(root):
    return [p for p in root.iterdir() if p.name.startswith(".")]


ids = st.lists(st.integers(0, 2**31 - 1), max_size=8).map(lambda x: np.asarray(x, np.int32))
extras = st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False))


@given(ids, ids, st.text(), st.text(), extras)
def test_records_give_the_example_back(inputs, targets, inputs_text, targets_text, more):
    before = Example(inputs, targets, inputs_text, targets_text, more)
    after = Example.from_bytes(before.to_bytes())
    assert after.inputs.dtype == after.targets.dtype == np.int32
    np.testing.assert_array_equal(after.inputs, inputs)
    np.testing.assert_array_equal(after.targets, targets)
    assert (after.inputs_text, after.targets_text, after.extras) == (
        inputs_text,
        targets_text,
        more,
    )


@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(st.integers(2, 99), max_size=9), min_size=1, max_size=6))
def test_a_store_holds_its_examples_cut_to_the_length(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("stores")
    store = write_store(root / "s", [example([*row, 1]) for row in rows], DESCRIPTION)
    assert len(store) == len(rows)
    for row, found in zip(rows, store.read(range(len(rows))), strict=True):
        np.testing.assert_array_equal(found.inputs, [*row[:5], 1])
    np.testing.assert_array_equal(store.lengths(), [[min(len(r), 5) + 1, 2] for r in rows])
    assert store.manifest.truncated_inputs == sum(len(row) > 5 for row in rows)
    histogram = store.manifest.length_histogram
    assert sum(histogram["inputs"].values()) == len(rows)
    assert histogram["targets"] == {"2": len(rows)}


def test_inputs_without_eos_are_cut_without_one(tmp_path):
    store = write_store(tmp_path / "s", [example(range(2, 12))], DESCRIPTION)
    np.testing.assert_array_equal(store[0].inputs, [2, 3, 4, 5, 6, 7])


def test_random_access_by_any_integer_and_by_many(tmp_path):
    store = TokenStore.open(write_store(tmp_path / "s", examples(5), DESCRIPTION).folder)
    assert store[np.int64(3)].inputs_text == "text 3"
    assert [e.inputs_text for e in store.read([4, 0, 4])] == ["text 4", "text 0", "text 4"]
    for index in (5, -1):
        with pytest.raises(IndexError, match="has 5 examples"):
            store[index]


def test_a_store_can_be_pickled(tmp_path):
    store = write_store(tmp_path / "s", examples(3), DESCRIPTION)
    assert pickle.loads(pickle.dumps(store))[2].inputs_text == "text 2"


def test_a_view_is_as_good_as_a_store(tmp_path):
    store = write_store(tmp_path / "s", examples(6), DESCRIPTION)
    view = SubStore(SubStore(store, [5, 3, 1]), np.array([2, 0]))
    assert len(view) == 2
    assert [e.inputs_text for e in view.read([0, 1])] == ["text 1", "text 5"]
    assert view[1].inputs_text == "text 5"
    assert view.lengths().shape == (2, 2)
    assert view.manifest.task == "my_task"
    with pytest.raises(IndexError, match="Example 6"):
        SubStore(store, [6])


def test_an_overlong_target_is_refused_with_the_way_out(tmp_path):
    rows = [example([5, 1]), example([5, 1], [9] * 5), example([5, 1], [9] * 7)]
    message = r"2 of 3 targets.*length 4.*example 1 with 5 tokens: 'label'.*at least 7"
    with pytest.raises(UserError, match=message):
        write_store(tmp_path / "s", rows, DESCRIPTION)
    assert list(tmp_path.iterdir()) == []


def test_find_store_by_task_split_and_lengths(tmp_path):
    write_store(tmp_path / "a", examples(2), DESCRIPTION)
    newer = write_store(tmp_path / "b", examples(3), DESCRIPTION)
    os.utime(tmp_path / "a", (1, 1))
    (tmp_path / "unrelated").mkdir()
    found = find_store(tmp_path, "my_task", "train", {"targets": 4, "inputs": 6})
    assert found is not None and found.folder == newer.folder
    assert find_store(tmp_path, "my_task", "test", {"inputs": 6, "targets": 4}) is None
    assert find_store(tmp_path, "my_task", "train", {"inputs": 7, "targets": 4}) is None


def lose_records(folder):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"count": 7}))


def cut_records(folder):
    path = folder / "examples.array_record"
    path.write_bytes(path.read_bytes()[:100])


def lose_manifest(folder):
    (folder / "manifest.json").unlink()


def other_version(folder):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"format_version": 99}))


@pytest.mark.parametrize("damage", [lose_records, cut_records, lose_manifest, other_version])
def test_a_damaged_store_says_which_folder_to_delete(tmp_path, damage):
    folder = write_store(tmp_path / "broken", examples(3), DESCRIPTION).folder
    damage(folder)
    with pytest.raises(DamagedStoreError, match=f"{folder} is damaged: .* Delete that folder"):
        TokenStore(folder)


def _write_at_once(folder, barrier, results):
    def slowly():
        barrier.wait()
        yield from examples(50)

    store = write_store(folder, slowly(), DESCRIPTION)
    results.put([e.inputs_text for e in store.read(range(len(store)))])


def _write_and_hang(folder, started):
    def endless():
        yield from examples(50)
        started.set()
        time.sleep(600)

    write_store(folder, endless(), DESCRIPTION)


def test_two_processes_may_fill_one_store_at_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    arguments = (tmp_path / "s", barrier, results)
    writers = [spawn.Process(target=_write_at_once, args=arguments) for _ in range(2)]
    for writer in writers:
        writer.start()
    found = [results.get(timeout=120) for _ in writers]
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert found == [[f"text {i}" for i in range(50)]] * 2
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_writer_killed_half_way_leaves_no_store_and_is_cleaned_up(tmp_path, monkeypatch):
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    writer = spawn.Process(target=_write_and_hang, args=(tmp_path / "s", started))
    writer.start()
    assert started.wait(120)
    monkeypatch.setattr(scratch_folders, "GRACE_SECONDS", -1.0)
    write_store(tmp_path / "other", examples(1), DESCRIPTION)
    assert len(hidden(tmp_path)) == 1  # its writer lives
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(60)
    assert not (tmp_path / "s").exists()
    assert find_store(tmp_path, "my_task", "train", {"inputs": 6, "targets": 4}) is not None
    assert len(write_store(tmp_path / "s", examples(2), DESCRIPTION)) == 2
    assert hidden(tmp_path) == []
