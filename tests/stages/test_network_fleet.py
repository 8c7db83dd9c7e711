"""Fleets of methods that change the network, by `mpt adapt`: alone, on meshes, packed, beside prompts."""

import json
import re

import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.registry import METHODS
from mpt_jax.stages.command_runs import Run, step_of
from mpt_jax.training import checkpoints
from mpt_jax.training.metrics_writer import read_rows

KINDS = sorted(kind for kind, method in METHODS.items() if issubclass(method, NetworkMethod))
# Larger than the shipped rate, so that a member that learned something else would be seen.
RATE = {f"{kind}/adapt.Variant.learning_rate": 0.01 for kind in KINDS}
NO_SOURCES = {"SOURCE_DIR": None, "TEACHER_DIR": None}
MESH = "--gin.backbone.BackboneSource.mesh_shape={}"


def assert_close(found, expected, atol=1e-4):
    """atol is small beside the learning rate.

    Biases of keys add the same to every logit of a softmax: their gradient is nothing but rounding,
    which Adam makes steps of, and no output depends on them.
    """
    assert found and set(found) == set(expected)
    for name, array in expected.items():
        if not name.endswith("/key/bias"):
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=atol, err_msg=name)


def of(prompts, *members):
    return {n: array for n, array in prompts.items() if n.startswith(tuple(members))}


def adapt(toy, folder, *more, **macros):
    assert toy.run("adapt", folder, *more, **{**NO_SOURCES, **RATE, **macros}) == 0
    return toy.prompts(folder)


@pytest.fixture(scope="module")
def together(toy, whole_job, tmp_path_factory):
    """All methods that change the network beside MPT in one run, one program each; accumulated."""
    folder = tmp_path_factory.mktemp("together") / "run"
    adapt(toy, folder, **beside_prompts(whole_job))
    return folder


def beside_prompts(whole_job):
    return {
        "METHOD": ("mpt", *KINDS),
        "SOURCE_DIR": str(whole_job / "distill"),
        "fleet.Training.accumulate": 2,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_alone_is_the_one_of_the_fleet(kind, toy, together, tmp_path):
    """Alone and in one piece; in the fleet with others, and accumulated."""
    only = {"METHOD": kind, "MIXTURE_OR_TASK_NAME": "toy_turn", "SEEDS": (1,)}
    alone = adapt(toy, tmp_path / "one", **only)
    name = f"toy_turn/k4/seed1/{kind}"
    assert toy.members(tmp_path / "one")[name]["best_step"] > 0
    assert_close(alone, of(toy.prompts(together), f"{name}."))
    other = of(toy.prompts(together), f"toy_turn/k4/seed0/{kind}.")
    distances = [np.abs(a - b).max() for a, b in zip(alone.values(), other.values(), strict=True)]
    assert max(distances) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_a_mesh_gives_the_files_of_one_device(shape, toy, whole_job, together, tmp_path, devices):
    """Members over `data` where they divide (4 over 4), else as they come (4 over 8)."""
    devices(8)
    found = adapt(toy, tmp_path / "mesh", MESH.format(shape), **beside_prompts(whole_job))
    assert_close(found, toy.prompts(together))


def test_programs_have_folders_of_their_own(toy, together, tmp_path, capsys):
    assert [f.name for f in checkpoints.folders(together / "checkpoints")] == [
        "checkpoints",
        *KINDS,
    ]
    for folder, kinds in {"": ["mpt"], **{kind: [kind] for kind in KINDS}}.items():
        rows = read_rows(together / "metrics" / folder, "train")
        assert rows[-1]["step"] == 8
        assert {name.rpartition("/")[2] for name in rows[-1]["loss"]} == set(kinds)
    assert main(["show", str(together)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "checkpoint of step 8" in shown and f"{KINDS[0]}: checkpoint of step 8" in shown
    assert step_of(Run("adapt", "toy", together, {})) == 8
    only = tmp_path / "only"  # a run whose prompts were not trained has no checkpoint at its root
    for kind in KINDS:
        (only / "checkpoints").mkdir(parents=True, exist_ok=True)
        (only / "checkpoints" / kind).symlink_to(together / "checkpoints" / kind)
    assert step_of(Run("adapt", "toy", only, {})) == 8

    scores = tmp_path / "scores"
    assert toy.run("evaluate", scores, SOURCES=(str(together),)) == 0
    results = json.loads((scores / "results.json").read_text())
    assert len(results["scores"]) == len(results["curves"]) == 4 * (1 + len(KINDS))
    assert all(curve["steps"] == [0, 4, 8] for curve in results["curves"])


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_give_one_member_what_padded_ones_do(kind, toy, tmp_path):
    one = {"METHOD": kind, "MIXTURE_OR_TASK_NAME": "toy_turn", "SEEDS": (0,)}
    padded = adapt(toy, tmp_path / "padded", **one)
    packed = adapt(toy, tmp_path / "packed", **one, **{"fleet.Training.packed_lengths": (32, 16)})
    assert toy.members(tmp_path / "packed")[f"toy_turn/k4/seed0/{kind}"]["best_step"] > 0
    assert_close(packed, padded)


def test_several_members_are_not_packed_nor_unevenly_accumulated(toy, whole_job, tmp_path, capsys):
    """Not even the prompts, which come first and could be."""
    settings = {**beside_prompts(whole_job), "TEACHER_DIR": None}
    for change, words in [
        ({"fleet.Training.packed_lengths": (32, 16)}, "Packed rows hold examples of several"),
        ({"fleet.Training.accumulate": 3, "BATCH_SIZE": 4}, "multiple of accumulate"),
    ]:
        capsys.readouterr()
        assert toy.run("adapt", tmp_path / "run", **{**settings, **change}) == 1
        captured = capsys.readouterr()
        assert words in re.sub(r"\s+", " ", captured.err)
        assert "step 0" not in captured.err
        assert not (tmp_path / "run" / "checkpoints").exists()


def test_prompts_that_depend_on_the_row_are_not_packed(toy, whole_job, tmp_path, capsys):
    """Nor the plain prompts beside them: they share a batch."""
    settings = {
        "METHOD": ("prompt_tuning", "attempt"), "TEACHER_DIR": str(whole_job / "teach"),
        "SOURCE_DIR": None, "fleet.Training.packed_lengths": (32, 16),
    }  # fmt: skip
    assert toy.run("adapt", tmp_path / "run", "--dry_run", **settings) == 1
    error = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "the prompts of attempt depend on the whole row" in error
    settings["METHOD"] = "prompt_tuning"
    assert toy.run("adapt", tmp_path / "run", "--dry_run", **settings) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_grouped_and_papers_batches_train_each_member_on_its_own(kind, toy, tmp_path):
    """Multi-target, with a number of tasks that is drawn and rows of like length: rows stay apart."""
    changes = {
        f"{kind}/adapt.Variant.multi_target": True, "METHOD": kind, "BATCH_SIZE": 4,
        "fleet.Training.sampler": "paper", "fleet.Training.grouped": True,
    }  # fmt: skip
    both = adapt(toy, tmp_path / "both", **changes)
    alone = adapt(toy, tmp_path / "one", **changes, SEEDS=(1,))
    name = f"toy_targets/k4/seed1/{kind}"
    about = toy.members(tmp_path / "both")[name]
    assert about["tasks"] == ["toy_counted", "toy_turn"] and about["train_examples"] == 8
    assert_close(alone, of(both, f"{name}."))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_with_recomputing_trains_whole_numbers(kind, toy, tmp_path):
    bindings = {
        "backbone.BackboneSource.dtype": "bfloat16",
        "backbone.BackboneSource.remat": "full",
    }
    found = adapt(toy, tmp_path / "half", METHOD=kind, SEEDS=(0,), **bindings)
    assert {array.dtype.name for array in found.values()} == {"float32"}
    (folder,) = checkpoints.folders(tmp_path / "half" / "checkpoints")
    record = checkpoints.read_record(folder, 8)
    trained = {n: shape for n, shape in record["shapes"].items() if ".params." in n}
    assert trained and all(shape.startswith("float32") for shape in trained.values())
