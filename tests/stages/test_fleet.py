"""Members of a fleet are independent, and how rows are laid out changes no number."""

import dataclasses

import jax
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.stages.backbone import BackboneSource

from .conftest import use_devices


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


# Settings of a sweep that share one program: other numbers, ranks, sources, layers and starts.
SETTINGS = {
    "base": {},
    "hot": {"temperature": 3.0, "weight": 0.3, "hidden": 0.0},
    "rank_2": {"rank": 2, "layers": "all"},
    "two_sources": {"sources": ("toy_head", "toy_sound")},
    "one_source": {"sources": ("toy_tail",), "rank": 3, "start": "teachers", "learning_rate": 0.1},
}


def population(*names):
    """Flags that train these settings side by side."""
    values = {
        f"{name}/distill.Variant.{field}": value
        for name in names
        for field, value in {"name": name, **SETTINGS[name]}.items()
    }
    listed = "".join(f"@{name}/distill.Variant(), " for name in names)
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    return [*flags, f"--gin.distill.run.variants=({listed})", "--gin.distill.run.num_seeds=2"]


@pytest.fixture(scope="module")
def distilled_population(toy, whole_job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("population") / "distill"
    with pytest.MonkeyPatch.context() as patch:
        use_devices(1, patch)
        teachers = str(whole_job / "teach")
        assert toy.run("distill", folder, *population(*SETTINGS), TEACHER_DIR=teachers) == 0
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_alone_is_the_one_of_the_population(
    toy, whole_job, distilled_population, tmp_path, name
):
    teachers = str(whole_job / "teach")
    assert toy.run("distill", tmp_path / "one", *population(name), TEACHER_DIR=teachers) == 0
    expected = of(toy.prompts(distilled_population), f"{name}/")
    assert_close(toy.prompts(tmp_path / "one"), expected)
    for seed in range(2):
        alone = toy.members(tmp_path / "one")[f"{name}/seed{seed}"]
        beside = toy.members(distilled_population)[f"{name}/seed{seed}"]
        assert alone["tasks"] == beside["tasks"] and alone["best_step"] == beside["best_step"]
        assert alone["validation"] == pytest.approx(beside["validation"], abs=1e-5)


def test_a_population_reads_recorded_teachers(toy, whole_job, distilled_population, tmp_path):
    """Every member its own rows', whichever layers and sources it has."""
    given = {"TEACHER_DIR": whole_job / "teach", "TEACHER_CACHE": tmp_path / "cache"}
    assert toy.run("distill", tmp_path / "run", *population(*SETTINGS), **given) == 0
    assert_close(toy.prompts(tmp_path / "run"), toy.prompts(distilled_population))


def test_settings_of_a_population_differ_as_they_say(toy, distilled_population):
    prompts = toy.prompts(distilled_population)
    shapes = {n: array.shape for n, array in prompts.items() if ":u" in n and "seed0" in n}
    assert {n.partition("/")[0]: shape for n, shape in shapes.items()} == {
        "base": (3, 3, 1), "hot": (3, 3, 1), "rank_2": (3, 3, 2), "two_sources": (2, 3, 1),
        "one_source": (1, 3, 3),
    }  # fmt: skip
    members = toy.members(distilled_population)
    assert members["two_sources/seed1"]["tasks"] == ["toy_head", "toy_sound"]
    shared = {n: prompts[f"{n}/seed0.safetensors:shared"] for n in SETTINGS}
    for name in ("hot", "rank_2", "two_sources", "one_source"):
        assert np.abs(shared[name] - shared["base"]).max() > 1e-4, name


def test_sources_that_are_none_of_the_tasks_are_named(toy, whole_job, tmp_path, capsys):
    flags = ["--gin.mpt/distill.Variant.sources=('toy_haed',)"]
    teachers = str(whole_job / "teach")
    assert toy.run("distill", tmp_path / "one", *flags, TEACHER_DIR=teachers) == 1
    assert "did you mean 'toy_head'" in capsys.readouterr().err


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
