"""Members of a fleet are independent, and how rows are laid out changes no number."""

import dataclasses

import jax
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.stages.backbone import BackboneSource


def assert_close(found, expected, atol=1e-5):
    """Both have the same arrays; atol is small beside the learning rate (0.3 a step)."""
    assert found and set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=atol, err_msg=name)


def of(prompts, *members):
    return {n: array for n, array in prompts.items() if n.startswith(tuple(members))}


def earlier(whole_job):
    return {"TEACHER_DIR": str(whole_job / "teach"), "SOURCE_DIR": str(whole_job / "distill")}


def test_a_teacher_alone_is_the_one_of_the_fleet(toy, whole_job, tmp_path):
    assert toy.run("teach", tmp_path / "one", MIXTURE_OR_TASK_NAME="toy_tail") == 0
    assert toy.members(tmp_path / "one")["toy_tail"]["best_step"] > 0
    expected = of(toy.prompts(whole_job / "teach"), "toy_tail.")
    assert_close(toy.prompts(tmp_path / "one"), expected)


@pytest.mark.parametrize("variant", ["mpt", "prompt_tuning"])
def test_an_adapted_member_alone_is_the_one_of_the_fleet(toy, whole_job, tmp_path, variant):
    """The fleet mixes two methods, five variants, two tasks and two seeds."""
    settings = {"MIXTURE_OR_TASK_NAME": "toy_turn", "SEEDS": (1,), **earlier(whole_job)}
    assert toy.run("adapt", tmp_path / "one", METHOD=variant, **settings) == 0
    name = f"toy_turn/k4/seed1/{variant}"
    assert toy.members(tmp_path / "one")[name]["best_step"] > 0
    assert_close(toy.prompts(tmp_path / "one"), of(toy.prompts(whole_job / "adapt"), f"{name}."))


def test_a_distilled_variant_alone_is_the_one_of_the_fleet(toy, whole_job, tmp_path):
    only = "--gin.distill.run.variants=(@mpt/distill.Variant(),)"
    teachers = str(whole_job / "teach")
    assert toy.run("distill", tmp_path / "one", only, TEACHER_DIR=teachers) == 0
    assert toy.members(tmp_path / "one")["mpt/seed0"]["best_step"] > 0
    assert_close(toy.prompts(tmp_path / "one"), of(toy.prompts(whole_job / "distill"), "mpt/"))


def test_packed_rows_give_the_prompts_of_padded_ones(toy, whole_job, tmp_path):
    """With the paper's sampler and distillation, where a packed row reads several teachers."""
    layouts = {"padded": None, "packed": (32, 16)}
    for name, lengths in layouts.items():
        bindings = {
            "distill/fleet.Training.packed_lengths": lengths,
            "distill/fleet.Training.grouped": False,
            "TEACHER_DIR": str(whole_job / "teach"),
        }
        assert toy.run("distill", tmp_path / name, **bindings) == 0
    padded, packed = (toy.prompts(tmp_path / name) for name in layouts)
    assert toy.members(tmp_path / "packed")["mpt/seed0"]["best_step"] > 0
    assert_close(packed, padded)


def test_half_precision_and_scanned_layers_train(toy, tmp_path):
    """And the check that the backbone did not change compares like with like."""
    bindings = {"backbone.BackboneSource.dtype": "bfloat16", "TRAIN_STEPS": 2}
    bindings |= {"backbone.BackboneSource.scan_layers": True, "MIXTURE_OR_TASK_NAME": "toy_head"}
    assert toy.run("teach", tmp_path / "half", **bindings) == 0
    assert np.isfinite(next(iter(toy.prompts(tmp_path / "half").values()))).all()


def test_a_backbone_that_changed_is_noticed(toy):
    backbone = BackboneSource(str(toy.backbone)).open()
    backbone.check_unchanged()
    changed = jax.tree.map(np.array, backbone.params)
    changed["decoder"]["decoder_norm"]["scale"][0] += 1e-6
    with pytest.raises(UserError, match=f"{backbone.fingerprint} and is"):
        dataclasses.replace(backbone, params=changed).check_unchanged()


def test_a_seed_on_all_examples_is_another_order(toy, whole_job, tmp_path):
    """Both seeds start at the same shared prompt and have the same examples."""
    settings = {
        "MIXTURE_OR_TASK_NAME": "toy_turn",
        "SHOTS": (None,),
        "EVAL_PERIOD": 0,
        **earlier(whole_job),
    }
    assert toy.run("adapt", tmp_path / "two", METHOD="mpt", **settings) == 0
    prompts = toy.prompts(tmp_path / "two")
    first, second = (of(prompts, f"toy_turn/full/seed{seed}") for seed in (0, 1))
    assert len(first) == 3
    differ = [np.abs(a - b).max() for a, b in zip(first.values(), second.values(), strict=True)]
    assert min(differ) > 1e-4
