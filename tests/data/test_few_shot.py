import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt_jax.data import few_shot
from mpt_jax.data.examples import Description, Example
from mpt_jax.data.few_shot import draw_record, few_shot_indices, few_shot_subset, labels_of
from mpt_jax.data.store import write_store
from mpt_jax.errors import UserError

LABELS = ["yes", "no", "maybe", "no", "yes"] * 8


@given(st.integers(1, 8), st.integers(0, 5))
def test_per_class_draws_k_of_each(k, seed):
    chosen = few_shot_indices("t", LABELS, k, seed, per_class=True)
    assert Counter(LABELS[i] for i in chosen) == {"yes": k, "no": k, "maybe": k}
    assert len(set(chosen.tolist())) == 3 * k


@given(st.integers(1, 40), st.integers(0, 5))
def test_in_all_draws_k(k, seed):
    chosen = few_shot_indices("t", LABELS, k, seed, per_class=False)
    assert len(set(chosen.tolist())) == len(chosen) == k
    assert np.all(np.diff(chosen) > 0)


def test_the_draw_depends_on_task_k_and_seed_and_nothing_else():
    def draw(task="t", k=10, seed=0, labels=LABELS):
        return few_shot_indices(task, labels, k, seed, per_class=False).tolist()

    first = draw()
    np.random.seed(3)
    assert draw() == first
    assert draw(labels=[f"word {i}" for i in range(40)]) == first
    assert len({str(d) for d in (first, draw(task="u"), draw(seed=1), draw(k=11)[:10])}) == 4
    # Written down so that no release of NumPy can silently change the subsets of old reports.
    assert draw(k=4) == [0, 2, 6, 17]


def test_too_large_a_k_names_the_class_and_its_count():
    with pytest.raises(UserError, match="k = 9, but class 'maybe' of task 't' has only 8"):
        few_shot_indices("t", LABELS, 9, 0, per_class=True)
    with pytest.raises(UserError, match="k = 41, but task 't' has only 40 examples"):
        few_shot_indices("t", LABELS, 41, 0, per_class=False)
    with pytest.raises(UserError, match="or draw over all"):
        few_shot_indices("t", [f"word {i}" for i in range(40)], 2, 0, per_class=True)
    with pytest.raises(UserError, match="at least 1"):
        few_shot_indices("t", LABELS, 0, 0, per_class=False)
    with pytest.raises(UserError, match="no examples"):
        few_shot_indices("t", [], 1, 0, per_class=True)


def store_of(tmp_path, targets):
    rows = [
        Example(np.array([i, 1], np.int32), np.array([1], np.int32), "", target)
        for i, target in enumerate(targets)
    ]
    lengths = {"inputs": 4, "targets": 4}
    return write_store(tmp_path / "store", rows, Description("t", "train", lengths, "v"))


def test_a_subset_of_a_store_is_balanced_by_its_target_texts(tmp_path):
    subset = few_shot_subset(store_of(tmp_path, LABELS), "t", 4, 1, per_class=True)
    counts = Counter(e.targets_text for e in subset.read(range(len(subset))))
    assert counts == {"yes": 4, "no": 4, "maybe": 4}


@pytest.mark.parametrize(
    ("targets", "labels"),
    [
        (LABELS, ("maybe", "no", "yes")),
        ([f"word {i}" for i in range(12)], None),
        ([f"{i % 21}" for i in range(100)], None),
    ],
)
def test_labels_of_a_classifying_task_only(tmp_path, targets, labels):
    assert labels_of(store_of(tmp_path, targets)) == labels


def test_the_record_of_a_draw_tells_which_examples(tmp_path):
    store = store_of(tmp_path / "one", [f"word {i}" for i in range(12)])
    subset = few_shot_subset(store, "t", 3, seed=2, per_class=False)
    record = draw_record(subset, "t", 3, 2, False)
    assert record["indices"] == subset.indices.tolist() == few_shot_indices(
        "t", [""] * len(store), 3, 2, False
    ).tolist()  # fmt: skip
    assert (record["task"], record["k"], record["seed"], record["examples"]) == ("t", 3, 2, 3)
    assert json.loads(json.dumps(record)) == record
    again = draw_record(few_shot_subset(store, "t", 3, 2, False), "t", 3, 2, False)
    assert again == record
    other = draw_record(few_shot_subset(store, "t", 3, 3, False), "t", 3, 3, False)
    assert other["digest"] != record["digest"]
    # Other texts at the same places are another draw.
    changed = store_of(tmp_path / "two", [f"text {i}" for i in range(12)])
    moved = draw_record(few_shot_subset(changed, "t", 3, 2, False), "t", 3, 2, False)
    assert moved["indices"] == record["indices"] and moved["digest"] != record["digest"]


def test_a_long_draw_is_told_by_its_digest_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(few_shot, "INDICES_KEPT", 4)
    store = store_of(tmp_path, LABELS)
    for k, known in ((4, True), (5, False)):
        record = draw_record(few_shot_subset(store, "t", k, 0, False), "t", k, 0, False)
        assert (record["indices"] is not None) == known and len(record["digest"]) == 64
