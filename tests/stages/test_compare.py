"""`mpt compare`: an equal search for each method, one test, and a report; however it is interrupted."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mpt_jax import cli
from mpt_jax.cli import main
from mpt_jax.methods.bitfit import BitFit
from mpt_jax.reporting.comparison.records import Comparison
from mpt_jax.reporting.results import Results
from mpt_jax.training import checkpoints

from .conftest import use_devices

METHODS = ("prompt_tuning", "mpt", "bitfit")
TARGETS = ("toy_turn", "toy_counted")
TRANSFER = {
    "TRANSFER": "@compare_setup.Transfer()",
    "TRANSFER_SOURCES": {"classifying only": "toy_sound"},
    "TRANSFER_TARGETS": "toy_turn",
}


def flags(toy, folder, *more, **macros):
    """As Toy.compare, with the transfer."""
    words = toy.compare(folder, *more, **{**TRANSFER, **macros})
    return [
        word.replace("'@compare_setup.Transfer()'", "@compare_setup.Transfer()") for word in words
    ]


def records(folder):
    results = Results.load(folder / "results.json")
    return results, Comparison.from_plain(results.comparison)


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A comparison that nobody disturbed, and the commands that it gave. For reading only."""
    folder = tmp_path_factory.mktemp("compare") / "runs"
    launched = []

    def noting(words, real=cli._dispatch):
        launched.append(list(words))
        return real(words)

    with pytest.MonkeyPatch.context() as patch:
        use_devices(1, patch)
        patch.setattr(cli, "_dispatch", noting)
        assert main(flags(toy, folder)) == 0
    return folder, launched[1:]


def copied(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "runs"))


def of(launched, name):
    """The settings of the one command whose folder ends with that name."""
    (words,) = [
        w for w in launched if any(x.endswith(f"/runs/{name}") for x in w if "model_dir" in x)
    ]
    return dict(word.removeprefix("--gin.").partition("=")[::2] for word in words)


@pytest.mark.slow
def test_every_method_has_the_same_budget(finished, toy):
    folder, launched = finished
    searched, trained = set(), set()
    for method in METHODS:
        search, train = (
            of(launched, f"methods/{method}/search"),
            of(launched, f"methods/{method}/train"),
        )
        members = toy.members(folder / "methods" / method / "search")
        assert len(members) == 2 * len(TARGETS)  # candidates, tasks, one k, one draw
        assert {m["seed"] for m in members.values()} == {7}
        searched.add((len(members), search["ADAPT_STEPS"], search["ADAPT_BATCH_SIZE"]))
        trained.add(
            (train["ADAPT_STEPS"], train["ADAPT_BATCH_SIZE"], train["SHOTS"], train["SEEDS"])
        )
    assert searched == {(4, "4", "4")}
    assert trained == {("8", "4", "(4,)", "(0, 1)")}


@pytest.mark.slow
def test_rates_are_chosen_on_validation_and_the_test_split_is_read_once(finished, toy):
    folder, launched = finished
    _, comparison = records(folder)
    for record in comparison.methods:
        members = toy.members(folder / "methods" / record.name / "search").values()
        scores = {}
        for candidate in record.candidates:
            own = [m["validation"] for m in members if m["method"] == name_of(record, candidate)]
            scores[candidate.learning_rate, candidate.factor_learning_rate] = statistics.fmean(own)
            assert candidate.score == pytest.approx(statistics.fmean(own))
        best = max(scores, key=scores.get)
        assert (record.learning_rate, record.factor_learning_rate) == best
        train = of(launched, f"methods/{record.name}/train")
        assert float(train["cell/adapt.Variant.learning_rate"]) == record.learning_rate
        # Its validation scores are those of training, which reads no test split.
        rows = (folder / "methods" / record.name / "search").rglob("validation.jsonl")
        lines = next(iter(rows)).read_text().splitlines()
        best_by_run = [max(v) for v in zip(*map(scores_of, lines), strict=True)]
        assert sorted(best_by_run) == pytest.approx(
            sorted(m["validation"] for m in members), abs=1e-6
        )
    tests = [w for w in launched if w[0] == "evaluate"]
    places = [next(x for x in w if "--gin.SOURCES" in x) for w in tests]
    assert len(places) == len(set(places)) == len(METHODS) + 2  # each method, sources, transfer
    last_choice = max(i for i, w in enumerate(launched) if any("search" in x for x in w))
    first_test = min(
        i for i, w in enumerate(launched) if w[0] == "evaluate" and "methods" in str(w)
    )
    assert first_test > last_choice
    assert not any("/search" in place for place in places)


def name_of(record, candidate):
    ratio = candidate.factor_learning_rate
    end = "" if ratio is None else f"x{ratio / candidate.learning_rate:g}"
    return f"{record.name}@{candidate.learning_rate:g}{end}"


def scores_of(line):
    return list(json.loads(line)["score"].values())


@pytest.mark.slow
def test_the_results_hold_scores_counts_and_bytes(finished, toy):
    folder, _ = finished
    results, comparison = records(folder)
    assert not comparison.failed and [m.name for m in comparison.methods] == list(METHODS)
    adapted = [s for s in results.scores if s.stage == "adapt"]
    assert len(adapted) == len(METHODS) * len(TARGETS) * 2
    assert {s.split for s in adapted} == {"test"} and {s.num_examples for s in adapted} == {12}
    assert {s.stage for s in results.scores} == {"teach", "distill", "adapt"}
    by_name = {m.name: m for m in comparison.methods}
    assert by_name["prompt_tuning"].parameters == 3 * 16
    assert by_name["mpt"].parameters == 3 * 16 + 3 + 16
    for record in comparison.methods:
        files = list((folder / "methods" / record.name / "train/prompts").rglob("*.safetensors"))
        assert len(files) == record.members == 4 and record.rows == 16
        assert record.stored_bytes == sum(f.stat().st_size for f in files) // 4
        assert record.stored_bytes > 4 * record.parameters
        backbone = results.backbone["parameters"]
        assert record.step_bytes > 4 * (
            backbone + 3 * record.parameters
        )  # with the optimizer's two
        assert record.whole and record.steps_per_second > 0
        assert 0 < record.compile_seconds + record.evaluate_seconds < record.seconds
    assert set(comparison.transfer) == {"classifying only"}
    assert [(s.task, s.method) for s in comparison.transfer["classifying only"]] == [
        ("toy_turn", "mpt")
    ] * 2
    text = (folder / "report.md").read_text()
    for wanted in ("majority class", "| MPT |", "The search of learning rates", "From one kind",
                   "2 candidates a method, 4 steps each", "plots/trade_off.png"):  # fmt: skip
        assert wanted in text, wanted
    for link in ("trade_off", "tasks", "curves", "source_curves"):
        assert (folder / f"plots/{link}.png").stat().st_size > 1000


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_other_settings_are_refused(
    finished, toy, tmp_path, capsys
):
    folder = copied(finished, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("run.json")}
    assert main(flags(toy, folder)) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("run.json")} == before
    assert records(folder)[0].id == records(finished[0])[0].id
    assert main(flags(toy, folder, ADAPT_STEPS=9)) == 1
    message = capsys.readouterr().err
    assert "ADAPT_STEPS was 8, is 9" in message and "give another --model_dir" in message


@pytest.mark.slow
def test_a_method_that_fails_is_named_and_stops_no_other(
    toy, finished, tmp_path, capsys, monkeypatch
):
    folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "methods/bitfit")
    build = BitFit.edit

    def diverging(self, params, path, inputs, outputs):
        return build(self, params, path, inputs, outputs) * np.float32(np.nan)

    with monkeypatch.context() as patch:
        patch.setattr(BitFit, "edit", diverging)
        assert main(flags(toy, folder)) == 1
    message = capsys.readouterr().err
    assert "every candidate of bitfit diverged" in message and "SEARCH_RATES" in message
    results, comparison = records(folder)
    assert [m.name for m in comparison.methods] == ["prompt_tuning", "mpt"]
    assert set(comparison.failed) == {"bitfit"}
    assert "**BitFit has no numbers**" in (folder / "report.md").read_text()


@pytest.mark.slow
def test_killed_it_ends_as_if_undisturbed(toy, finished, tmp_path):
    folder = tmp_path / "runs"
    train = folder / "methods/prompt_tuning/train"
    alone = {"METHOD": "prompt_tuning", "TRANSFER": None}  # it needs no source stage
    process = subprocess.Popen(
        [sys.executable, "-m", "mpt_jax", *flags(toy, folder, **alone)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not checkpoints.steps(train / "checkpoints"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (folder / "report.md").exists()
    search = folder / "methods/prompt_tuning/search/run.json"
    before = search.stat().st_mtime_ns

    assert main(flags(toy, folder, **alone)) == 0
    assert search.stat().st_mtime_ns == before
    expected = toy.prompts(finished[0] / "methods/prompt_tuning/train")
    found = toy.prompts(train)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    (results, comparison), (other, undisturbed) = records(folder), records(finished[0])
    whole = {s.key: s.score for s in other.scores}
    assert results.scores
    assert all(s.score == pytest.approx(whole[s.key], rel=1e-4) for s in results.scores)
    record, expected_record = comparison.methods[0], undisturbed.methods[0]
    assert record.learning_rate == expected_record.learning_rate
    assert [c.score for c in record.candidates] == pytest.approx(
        [c.score for c in expected_record.candidates], rel=1e-4
    )


@pytest.mark.parametrize(
    ("macros", "message"),
    [
        ({"SEARCH_RATES": {"prompts": (1.0,), "factors": (1.0,), "network": (1.0, 2.0)}},
         "equal budget"),
        ({"SEARCH_RATES": {"prompts": (1.0, 2.0), "factors": (1.0,)}}, "'bitfit', 'network'"),
        ({"SEARCH_SEEDS": (1,)}, "share [1]"),
        ({"METHOD": ("prompt_tunning",)}, "did you mean 'prompt_tuning'"),
        ({"METHOD": ("prompt_tuning", "bitfit")}, "unknown method of the transfer 'mpt'"),
        ({"TRANSFER_TARGETS": "toy_head"}, "toy_head is not among the target tasks"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_once(toy, tmp_path, capsys, macros, message):
    assert main(flags(toy, tmp_path / "run", **macros)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["compare.gin", "compare_embedded.gin"])
def test_a_dry_run_lists_runs_counts_and_budgets(name, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "run"
    words = [
        w.replace("compare.gin", name)
        for w in flags(
            toy, folder, "--dry_run", SEARCH_TASKS="toy_turn", TEACHER_CACHE=tmp_path / "states"
        )
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "2 candidates a method, 4 steps each, on 1 tasks" in shown
    assert "methods/mpt/train" in shown and "transfer/classifying_only/distill" in shown
    assert (
        shown.count(f"\nsources/distill: teacher cache {tmp_path}/states: 96 examples of 3 tasks, ")
        == 1
    )
    assert "dry run: everything checked" in shown
    assert not folder.exists()


@pytest.mark.slow
def test_given_teachers_and_shared_prompts_are_not_made_again(
    toy, finished, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "600")  # no line breaks in paths
    sources = finished[0] / "sources"
    given = {"TEACHER_DIR": sources / "teach", "SOURCE_DIR": sources / "distill"}
    assert main(flags(toy, tmp_path / "run", "--dry_run", **given)) == 0
    shown = capsys.readouterr().out
    assert "methods/mpt/train" in shown and " sources/" not in shown
    assert "teachers: given" in shown and "shared prompts: given" in shown
