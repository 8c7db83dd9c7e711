"""SPoT's starts by similarity and by weights, from the runs before them."""

import json

import numpy as np
import pytest

from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.methods.spot import most_similar_source, similarities, similarity_weights

# Without a learning rate the trained prompts are the starts.
STILL = {
    "MIXTURE_OR_TASK_NAME": "toy_turn", "METHOD": None, "SOURCE_DIR": None, "LEARNING_RATE": 0.0,
    "TRAIN_STEPS": 1, "EVAL_PERIOD": 1, "CHECKPOINT_PERIOD": 1,
}  # fmt: skip
VARIANTS = "--gin.VARIANTS=(@spot_similar/adapt.Variant(), @spot_weighted/adapt.Variant())"
SETS = [f"toy_turn/k4/seed{seed}" for seed in (0, 1)]


@pytest.fixture
def teachers(whole_job):
    files = [load_prompt_file(p) for p in (whole_job / "teach" / "prompts").rglob("*.safetensors")]
    return {file.metadata.task_names[0]: file.prompt() for file in files}


def prompt(run, name):
    return load_prompt_file(run / "prompts" / f"{name}.safetensors").prompt()


def weighted(weights, teachers):
    return sum(weight * teachers[name].astype(np.float64) for name, weight in weights.items())


def test_by_similarity_to_prompts_of_an_earlier_run(toy, whole_job, teachers, tmp_path):
    trained, run = tmp_path / "trained", tmp_path / "run"
    given = {"TEACHER_DIR": str(whole_job / "teach"), "TARGET_PROMPTS": str(trained)}
    plain = {"MIXTURE_OR_TASK_NAME": "toy_turn", "SOURCE_DIR": None, "TEACHER_DIR": None}
    assert toy.run("adapt", trained, METHOD="prompt_tuning", **plain) == 0
    assert toy.run("adapt", run, VARIANTS, **STILL | given) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["best_sources"] == {}
    for name in SETS:
        target = prompt(trained, f"{name}/prompt_tuning")
        chosen = most_similar_source(target, teachers)
        assert record["similar_sources"][name] == chosen
        np.testing.assert_array_equal(prompt(run, f"{name}/spot_similar"), teachers[chosen])
        weights = similarity_weights(similarities(target, teachers))
        assert record["source_weights"][name] == pytest.approx(weights)
        np.testing.assert_allclose(
            prompt(run, f"{name}/spot_weighted"), weighted(weights, teachers), rtol=1e-5, atol=1e-6
        )


def test_weights_by_trial_favour_the_best_source(toy, whole_job, teachers, tmp_path):
    run, given = tmp_path / "run", {"TEACHER_DIR": str(whole_job / "teach")}
    methods = {"METHOD": ("spot", "spot_weighted")}
    assert toy.run("adapt", run, **STILL | given | methods) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["similar_sources"] == {} and set(record["best_sources"]) == set(SETS)
    for name in SETS:
        weights = record["source_weights"][name]
        assert set(weights) == set(teachers) and sum(weights.values()) == pytest.approx(1)
        assert max(weights, key=weights.get) == record["best_sources"][name]
        np.testing.assert_allclose(
            prompt(run, f"{name}/spot_weighted"), weighted(weights, teachers), rtol=1e-5, atol=1e-6
        )


def test_what_is_missing_is_said_before_anything_is_trained(toy, whole_job, tmp_path, capsys):
    def fails(**macros):
        given = {"TEACHER_DIR": str(whole_job / "teach")}
        assert (
            toy.run("adapt", tmp_path / "run", VARIANTS, "--dry_run", **STILL | given | macros) == 1
        )
        return " ".join(capsys.readouterr().err.split())

    error = fails()
    assert "target_prompts is not given" in error and "['spot_similar'] start" in error
    error = fails(TARGET_PROMPTS=str(whole_job / "adapt"), SEEDS=(5,))
    assert "holds no prompt toy_turn/k4/seed5/prompt_tuning" in error
    assert "teachers is not given" in fails(TEACHER_DIR=None)

    # A dry run takes a run for granted that an earlier command is still to make.
    run, missing = tmp_path / "other", str(tmp_path / "nowhere")
    given = {"TEACHER_DIR": str(whole_job / "teach"), "TARGET_PROMPTS": missing}
    assert toy.run("adapt", run, VARIANTS, "--dry_run", **STILL | given) == 0
    shown = "".join(capsys.readouterr().out.split())  # the terminal's width breaks long paths
    assert f"{missing}isnotmadeyet" in shown
    assert toy.run("adapt", run, VARIANTS, **STILL | given) == 1
    assert "holds no prompt files" in capsys.readouterr().err
    assert not (run / "prompts").exists() and not (run / "checkpoints").exists()
