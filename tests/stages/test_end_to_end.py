"""Whole jobs through the command line, and what they leave behind."""

import json

import pytest

from mpt_jax.cli import main

METHODS = {"prompt_tuning", "shared_prompt", "spot", "mpt_no_distillation", "mpt"}


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_job_leaves_report_results_and_plots(whole_job):
    report = (whole_job / "report.md").read_text()
    plots = sorted((whole_job / "plots").iterdir())
    assert plots and all(plot.stat().st_size > 1000 for plot in plots)
    assert all(plot.name in report for plot in plots)
    assert all(task in report for task in ("toy_turn", "toy_counted", "toy_head"))


def test_every_score_says_what_it_was_measured_on(whole_job, toy):
    results = results_of(whole_job)
    scores = results["scores"]
    assert {score["stage"] for score in scores} == {"teach", "distill", "adapt"}
    for score in scores:
        assert (score["split"], score["num_examples"]) == ("test", 12)
        assert 0 <= score["score"] <= 1
        assert (score["majority"] is None) == (score["metric"] == "likelihood")
    adapted = [score for score in scores if score["stage"] == "adapt"]
    assert len(adapted) == 2 * 2 * len(METHODS)
    assert {(s["method"], s["seed"], s["k"]) for s in adapted} == {
        (method, seed, 4) for method in METHODS for seed in (0, 1)
    }
    assert results["backbone"]["name"] == toy.backbone.name


def test_the_tasks_own_postprocessor_and_metric_are_used(whole_job):
    scores = [s for s in results_of(whole_job)["scores"] if s["task"] == "toy_counted"]
    assert scores
    for score in scores:
        assert score["metric"] == "share_of_short_targets"
        # The metric looks at the targets alone, so that every prediction scores alike.
        assert score["score"] == score["majority"] and 0 < score["score"] < 1


def test_training_moves_the_prompts(whole_job, toy):
    """Else the equalities that other tests ask for would say nothing."""
    for stage in ("teach", "distill", "adapt"):
        best = {n: m["best_step"] for n, m in toy.members(whole_job / stage).items()}
        assert sum(step > 0 for step in best.values()) >= len(best) / 3, best


def test_a_complete_job_is_left_as_it_is(whole_job, toy, capsys):
    def state():
        files = [path for path in whole_job.rglob("*") if path.is_file() and path.name != ".lock"]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    assert toy.run("run", whole_job) == 0
    assert capsys.readouterr().out.count("complete already") == 4
    assert state() == before


def test_the_quickstarts_own_gin_file(toy, tmp_path):
    """On a tiny model, on one source and one target of the embedded tasks."""
    folder = tmp_path / "quickstart"
    arguments = [
        "quickstart",
        f"--model_dir={folder}",
        f"--gin.INITIAL_CHECKPOINT_PATH={str(toy.backbone)!r}",
        f"--gin.STORE_DIR={str(toy.stores)!r}",
        "--gin.MIXTURE_OR_TASK_NAME='inflect_plural'",
        "--gin.TARGET_MIXTURE_OR_TASK_NAME='classify_language_b'",
        "--gin.SHOTS=(2,)", "--gin.SEEDS=(0,)", "--gin.MAX_EXAMPLES=8",
        "--gin.TEACH_STEPS=2", "--gin.DISTILL_STEPS=2", "--gin.ADAPT_STEPS=2",
        "--gin.TEACH_BATCH_SIZE=2", "--gin.DISTILL_BATCH_SIZE=2", "--gin.ADAPT_BATCH_SIZE=2",
        "--gin.fleet.Training.validation_examples=8", "--gin.fleet.Training.eval_batch_size=8",
    ]  # fmt: skip
    assert main(arguments) == 0
    scores = [s for s in results_of(folder)["scores"] if s["stage"] == "adapt"]
    assert {s["method"] for s in scores} == METHODS
    assert all(s["majority"] > 0 and s["num_examples"] == 8 for s in scores)
    assert "classify_language_b" in (folder / "report.md").read_text()
    assert list((folder / "plots").iterdir())


@pytest.mark.parametrize("method", ["choices", "beam"])
def test_other_ways_of_decoding(toy, whole_job, tmp_path, method):
    folder = tmp_path / "scores"
    sources = (str(whole_job / "teach"),)
    assert toy.run("evaluate", folder, SOURCES=sources, DECODING=method) == 0
    scores = {s["task"]: s["score"] for s in results_of(folder)["scores"]}
    assert set(scores) == {"toy_head", "toy_tail", "toy_sound"}
    if method == "choices":  # it cannot but answer with a label
        assert scores["toy_sound"] > 0


def test_texts_in_texts_out(toy, whole_job, tmp_path):
    """With the task that a user registered, from the run to a file of answers."""
    texts, answers = tmp_path / "texts.txt", tmp_path / "answers.txt"
    texts.write_text("badge\nlumen and more than fits\n\nkit\n")
    flags = [
        f"--prompts={whole_job / 'adapt'}", "--task=toy_counted",
        "--name=toy_counted/k4/seed1/mpt", f"--input={texts}", f"--output={answers}",
    ]  # fmt: skip
    small = {"infer.run.max_input_length": 16, "infer.run.max_output_length": 4}
    assert toy.run("infer", None, *flags, **small) == 0
    assert answers.read_bytes().count(b"\n") == 4
    assert toy.run("infer", None, *flags, **small) == 1  # nothing is overwritten


def test_infer_asks_which_prompt(toy, whole_job, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.read", lambda: "badge\n", raising=False)
    assert toy.run("infer", None, f"--prompts={whole_job / 'adapt'}", "--task=toy_turn") == 1
    errors = capsys.readouterr().err
    assert "10 prompts" in errors and "--name=toy_turn/k4/seed0/mpt" in errors
    assert toy.run("infer", None, f"--prompts={whole_job / 'adapt'}", "--task=toy_tern") == 1
    assert "did you mean 'toy_turn'" in capsys.readouterr().err


def test_show_describes_runs_prompt_files_and_checkpoints(whole_job, capsys, tmp_path):
    adapt = whole_job / "adapt"
    for path, *expected in [
        (adapt, "a run of adapt, complete", "checkpoint of step 8"),
        (adapt / "checkpoints", "checkpoint of step 8"),
        (
            whole_job / "distill/prompts/mpt/seed0.safetensors",
            "R = 1",
            "toy_sound",
            "shared [3, 16]",
        ),
    ]:
        assert main(["show", str(path)]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert all(words in shown for words in expected), shown
    assert main(["show", str(tmp_path)]) == 1


def test_tasks_lists_a_users_mixture(toy, capsys):
    from_user = toy.flags("teach", toy.stores)[4]
    assert main(["tasks", from_user, "--name=toy_sources"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("toy_sources", "toy_head", "toy_tail", "toy_sound"))
    assert "toy_turn" not in shown
