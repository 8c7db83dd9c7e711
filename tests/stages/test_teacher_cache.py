"""TEACHER_CACHE: a run that reads the teachers' states is the run that runs the teachers."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from mpt_jax.data.examples import SubStore
from mpt_jax.data.store import DamagedStoreError
from mpt_jax.data.streams import Stream, Streams
from mpt_jax.errors import UserError
from mpt_jax.partitioning import place, replicated
from mpt_jax.stages import distill, prompts, teacher_cache
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.stages.data import Data
from mpt_jax.stages.fleet import make_batches
from mpt_jax.stages.teacher_cache import TeacherCache
from mpt_jax.stages.teacher_runs import TeacherRuns
from mpt_jax.stages.training import Training

from .conftest import LENGTHS, TASK_FILE, D, P

TASKS = ("toy_head", "toy_tail", "toy_sound")
VARIANTS = {
    "last": distill.Variant("last", 0.3, 0.3),
    "all": distill.Variant("all", 0.3, 0.3, layers="all", rank=2, sources=TASKS[1:]),
    "logits": distill.Variant("logits", 0.3, 0.3, hidden=0.0, temperature=2.0),
    "none": distill.Variant("none", 0.3, 0.3, weight=0.0),
}


class Small:
    """What distill has in hand when it opens a cache, without a run."""

    def __init__(self, toy, names=("last",), seed=0, **source):
        self.backbone = BackboneSource(str(toy.backbone), **source).open()
        data = Data(LENGTHS, str(toy.stores))
        data.register((str(TASK_FILE),), self.backbone.vocabulary)
        self.train = {task: data.open(task, "train") for task in TASKS}
        self.variants = [VARIANTS[name] for name in names]
        drawn = np.random.default_rng(seed).standard_normal((len(TASKS), P, D), np.float32)
        self.prompts = dict(zip(TASKS, drawn, strict=True))

    def design(self, cache, training=Training(1, 8)):
        (design,) = distill.designs(
            self.backbone.network, TASKS, training, self.backbone.mesh, P, self.variants,
            teacher_cache=cache,
        )  # fmt: skip
        _, params, _ = prompts.plain_bank(self.prompts, self.backbone.config.vocab_size)
        taught = place(params, replicated(self.backbone.mesh))
        objective = dataclasses.replace(design.objective, teacher_params=taught)
        return dataclasses.replace(design, objective=objective)

    def cache(self, root):
        fields = self.design(str(root)).recorded
        return TeacherCache(str(root), fields, self.backbone, P, self.train, self.prompts)

    def filled(self, root):
        return self.cache(root).filled(self.design(str(root)).objective, 8)


def stores(root):
    return {path.name: path.stat().st_mtime_ns for path in sorted(Path(root).iterdir())}


def tasks_of(names):
    return [name.partition("-train-")[0] for name in names]


def manifests(root):
    return [json.loads(path.read_text()) for path in sorted(Path(root).glob("*/manifest.json"))]


@pytest.mark.parametrize(
    ("names", "layout", "source", "rtol"),
    [
        (("last", "none"), {}, {"weights": "int8"}, 1e-5),
        (("last", "all", "logits"), {"packed_lengths": (40, 16)}, {}, 1e-5),
        (("logits",), {"grouped": True}, {"dtype": "bfloat16"}, 2e-2),
    ],
)
def test_recorded_states_give_the_loss_of_running_teachers(
    toy, tmp_path, names, layout, source, rtol
):
    """In padded, grouped and packed rows, of members that differ in rank, sources and layers."""
    small, training = Small(toy, names, **source), Training(4, 8, **layout)
    stored = small.filled(tmp_path)
    cached, live = small.design("cache", training), small.design(None, training)
    members = [
        (i, m) for i, method in enumerate(cached.bank.methods) for m in range(method.members)
    ]
    chosen = sorted(small.variants, key=lambda v: [w.rank for w in small.variants].index(v.rank))
    streams = Streams(
        [
            Stream(
                small.train[task], cached.bank.virtual_ids(*place_in_bank, k), number, k, task,
                recorded=stored[task],
            )
            for number, (place_in_bank, variant) in enumerate(zip(members, chosen, strict=True))
            for k, task in enumerate(t for t in TASKS if t in (variant.sources or TASKS))
        ]
    )  # fmt: skip
    batches = make_batches(streams, training, small.backbone)
    params = {
        method.name: {
            name: jax.random.normal(jax.random.key(7), shape)
            for name, shape in method.fleet_shapes().items()
        }
        for method in cached.bank.methods
    }
    for step in (0, 3):
        batch = batches[step]
        plain = {key: array for key, array in batch.items() if key not in cached.recorded}
        assert len(plain) < len(batch)
        found, expected = (
            jax.jit(design.objective)(
                params, design.objective.frozen(small.backbone.params), design.extend(given)
            )
            for design, given in ((cached, batch), (live, plain))
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), found, expected)
        assert np.all(found[1]["kl"] > 0)


def test_only_what_is_compared_is_recorded(toy, tmp_path):
    for names, layers in (
        (("logits",), {"decoder": 1}),
        (("all", "none"), {"decoder": 2, "encoder": 2}),
    ):
        root = tmp_path / names[0]
        small = Small(toy, names)
        small.filled(root)
        for manifest in manifests(root):
            found = {f["side"]: f["shape"] for f in manifest["fields"].values()}
            assert found == {side: [n, D] for side, n in layers.items()}
            assert manifest["count"] == 32
        examples = small.train["toy_head"].lengths().sum(axis=0) + (32 * P, 0)
        wanted = sum(
            layers.get(side, 0) * n
            for side, n in zip(("encoder", "decoder"), examples, strict=True)
        )
        assert manifests(root)[0]["bytes"] == wanted * D * 4  # nothing for padding
    nothing = Small(toy, ("none",)).cache(tmp_path / "nothing")
    assert "not needed" in nothing.described(8)
    assert (
        nothing.filled(Small(toy).design("").objective, 8) == {}
        and not (tmp_path / "nothing").exists()
    )


def test_what_is_made_from_anything_else_is_left_alone(toy, tmp_path, other_backbone):
    small = Small(toy)
    small.filled(tmp_path)
    first = stores(tmp_path)
    assert tasks_of(first) == sorted(TASKS)
    assert "all there" in small.cache(tmp_path).described(8)

    one_other = Small(toy)
    one_other.prompts["toy_tail"] = one_other.prompts["toy_tail"] + np.float32(1e-3)
    assert "32 of them" in one_other.cache(tmp_path).described(100)
    one_other.filled(tmp_path)
    now = stores(tmp_path)
    assert tasks_of(now.keys() - first.keys()) == ["toy_tail"]
    assert {name: now[name] for name in first} == first  # nothing there was written again

    all_layers, part = Small(toy), Small(toy)
    all_layers.variants = [VARIANTS["all"]]
    part.train = {task: SubStore(examples, range(16)) for task, examples in part.train.items()}
    rounded, replaced = (
        Small(toy, weights="int8"),
        dataclasses.replace(toy, backbone=other_backbone),
    )
    for other in (all_layers, part, rounded, Small(replaced)):
        assert "are to be filled" in other.cache(tmp_path).described(8)
    same = Small(toy, remat="full", scan_layers=True)  # only how it is computed
    assert "all there" in same.cache(tmp_path).described(8)


def test_too_little_room_is_said_before_anything_is_written(toy, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 12_000})
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(
        UserError, match=r"96 examples need \d+\.\d kB, but only 12\.0 kB are free in "
    ):
        Small(toy).cache(tmp_path / "new" / "cache")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        Small(toy).cache(tmp_path / "file")
    monkeypatch.undo()
    with pytest.raises(UserError, match="TEACHER_CACHE .* cannot be written: .*Not a directory"):
        Small(toy).filled(tmp_path / "file" / "below")


def test_a_damaged_store_is_said(toy, tmp_path):
    small = Small(toy)
    small.filled(tmp_path)
    places = next(tmp_path.glob("toy_sound-*")) / "places.npy"
    np.save(places, np.load(places)[:-1])
    with pytest.raises(DamagedStoreError, match=r"toy_sound-train-.* is damaged: 32 records of 31"):
        small.filled(tmp_path)


def test_a_cache_in_a_bucket_is_shared(toy, tmp_path, bucket, monkeypatch):
    small, address = Small(toy), "gs://bucket/cache"
    here = small.filled(address)["toy_head"].read([5])[0]
    assert tasks_of(p.name for p in sorted((bucket / "cache").iterdir())) == sorted(TASKS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    monkeypatch.setattr(TeacherRuns, "records", None)  # nothing is filled again
    there = small.filled(address)["toy_head"].read([5])[0]
    jax.tree.map(np.testing.assert_array_equal, here, there)


def test_a_run_that_is_stopped_while_filling_goes_on(toy, whole_job, tmp_path, monkeypatch, capsys):
    """And ends with the prompts of a run that runs the teachers."""
    root = tmp_path / "cache"
    given = {"TEACHER_DIR": whole_job / "teach", "TEACHER_CACHE": root}
    assert toy.run("distill", tmp_path / "run", "--dry_run", **given) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"teacher cache {root}: 96 examples of 3 tasks, " in shown
    assert "96 of them" in shown and "62% of the teachers' 256 passes saved" in shown
    assert not root.exists()

    records = TeacherRuns.records

    def interrupted(self, stream, *more):
        if stream.name == "toy_tail":
            os.kill(os.getpid(), signal.SIGTERM)
        return records(self, stream, *more)

    with monkeypatch.context() as patch:
        patch.setattr(TeacherRuns, "records", interrupted)
        assert toy.run("distill", tmp_path / "run", **given) == 75
    assert "the same command goes on" in capsys.readouterr().err
    before = stores(root)
    assert tasks_of(before) == ["toy_head", "toy_sound"]  # and nothing half done

    assert toy.run("distill", tmp_path / "run", **given) == 0
    filled = stores(root)
    assert tasks_of(filled) == sorted(TASKS) and before.items() <= filled.items()
    found = toy.prompts(tmp_path / "run")
    for name, array in toy.prompts(whole_job / "distill").items():  # a rate of 0.3 a step
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)

    assert toy.run("distill", tmp_path / "again", **given) == 0
    assert "saves the teachers' pass of all 256 rows" in capsys.readouterr().out
    assert stores(root) == filled
    jax.tree.map(np.testing.assert_array_equal, toy.prompts(tmp_path / "again"), found)
