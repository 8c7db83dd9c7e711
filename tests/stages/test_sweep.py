"""`mpt sweep`: populations of settings, however many workers, however interrupted."""

import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.reporting.sweep.records import Sweep, score
from mpt_jax.stages import sweep_ledger
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.training import checkpoints

from .conftest import ROWS, STEPS, use_devices

pytest.importorskip("optuna", reason="pip install 'mpt_jax[sweep]'")

SETTINGS = 5  # the base, three without one task, rank 2


@pytest.fixture(autouse=True)
def quick_claims(monkeypatch):
    monkeypatch.setattr(sweep_ledger, "CLAIM_SECONDS", 0.0)


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory) -> Path:
    """A sweep that nobody disturbed. For reading only."""
    folder = tmp_path_factory.mktemp("sweep") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        use_devices(1, patch)
        assert main(toy.sweep(folder)) == 0
    return folder


def record(folder) -> Sweep:
    return Sweep.from_plain(json.loads((folder / "sweep.json").read_text()))


def by_setting(sweep):
    return {json.dumps(t.setting, sort_keys=True): t for t in sweep.trials}


def start(words) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mpt_jax", *words], env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def assert_same_scores(found, expected):
    ours, theirs = by_setting(found), by_setting(expected)
    assert set(ours) == set(theirs)
    for setting, trial in theirs.items():
        assert len(trial.rows) == len(ours[setting].rows) > 0
        for mine, its in zip(ours[setting].rows, trial.rows, strict=True):
            assert (mine["task"], mine["k"], mine["seed"]) == (its["task"], its["k"], its["seed"])
            assert mine["score"] == pytest.approx(its["score"], abs=2e-3)


def prompts_by_setting(toy, folder, sweep, stage):
    """Setting -> its prompts, whichever population trained it."""
    found = {}
    for place in (folder / "populations").glob(f"*/{stage}"):
        for name, array in toy.prompts(place).items():
            number = int(re.search(r"trial(\d+)", name)[1])
            (trial,) = [t for t in sweep.trials if t.number == number]
            key = json.dumps(trial.setting, sort_keys=True)
            found.setdefault(key, {})[re.sub(r"trial\d+", "trial", name)] = array
    return found


@pytest.mark.slow
def test_settings_train_side_by_side_and_scores_are_the_members(finished, toy):
    sweep = record(finished)
    assert [t.state for t in sweep.trials] == ["done"] * SETTINGS
    populations = sorted(p.name for p in (finished / "populations").iterdir() if p.is_dir())
    assert populations == ["p0000", "p0003"]
    assert [p.name for p in (finished / "teachers").iterdir() if p.is_dir()] == ["p3"]
    members = toy.members(finished / "populations/p0000/adapt")
    assert len(members) == 3 * 2 * 2  # settings, seeds, targets
    for trial in sweep.trials:
        place = "p0000" if trial.number < 3 else "p0003"
        members = toy.members(finished / f"populations/{place}/adapt").values()
        own = [m["validation"] for m in members if m["method"] == f"trial{trial.number:04d}"]
        assert [row["score"] for row in trial.rows] == own and len(own) == 4
        assert score([trial]).mean == pytest.approx(statistics.fmean(own))
    learned = toy.members(finished / "populations/p0000/distill")["trial0001/seed1"]["tasks"]
    assert learned == ["toy_sound", "toy_tail"]
    assert sweep.trials[1].setting["sources"] == "without toy_head"


@pytest.mark.slow
def test_the_report_names_split_seeds_and_counts(finished):
    text = (finished / "report.md").read_text()
    for wanted in ("5 settings have scores", "validation split, 8 examples a task", "2 seeds", "k = 4",
                   "without toy\\_head", "majority class", "plots/mixtures.png", "plots/effects.png",
                   "rank"):  # fmt: skip
        assert wanted.replace("\\", "") in text.replace("\\", ""), wanted
    for plot in ("mixtures", "effects", "trials"):
        assert (finished / f"plots/{plot}.png").stat().st_size > 5000


@pytest.mark.slow
def test_finished_trials_are_not_repeated_and_the_status_shows_them(
    finished, toy, tmp_path, capsys
):
    folder = Path(shutil.copytree(finished, tmp_path / "runs"))
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("run.json")}
    assert main(toy.sweep(folder, "--status")) == 0
    shown = capsys.readouterr().out
    assert re.search(r"done\s+running\s+pruned\s+failed\s+waiting\s+best", shown)
    assert re.search(rf"\n\s*{SETTINGS}\s+0\s+0\s+0\s+0\s+\.\d+", shown) and "best: trial" in shown
    assert main(toy.sweep(folder)) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("run.json")} == before
    assert main(toy.sweep(folder, ADAPT_STEPS=9)) == 1
    assert "steps was 8, is 9" in capsys.readouterr().err


@pytest.mark.slow
def test_two_workers_share_the_trials_and_populations_of_one_end_the_same(finished, toy, tmp_path):
    """Each setting trained alone, by either of two processes, is the one of the population.

    The two share a cache of the teachers' states, and the population had none.
    """
    folder, ledger, states = tmp_path / "runs", str(tmp_path / "journal.log"), tmp_path / "states"
    words = toy.sweep(folder, f"--storage={ledger}", POPULATION=1, TEACHER_CACHE=states)
    processes = [start(words) for _ in range(2)]
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    sweep, expected = record(folder), record(finished)
    assert [t.state for t in sweep.trials] == ["done"] * SETTINGS
    trained = [len(re.findall(r"^population p\d+", output, re.M)) for output in outputs]
    assert sum(trained) == SETTINGS and min(trained) > 0
    assert len(list(states.glob("toy_*-train-*"))) == len(list(states.iterdir())) == 3
    assert_same_scores(sweep, expected)
    # adapt starts where distill ended, so that roundings of both add up; its steps are up to 0.3 long.
    for stage, atol in (("distill", 1e-5), ("adapt", 1e-3)):
        found = prompts_by_setting(toy, folder, sweep, stage)
        for key, arrays in prompts_by_setting(toy, finished, expected, stage).items():
            assert set(found[key]) == set(arrays) and arrays
            for name, array in arrays.items():
                np.testing.assert_allclose(
                    found[key][name], array, rtol=1e-4, atol=atol, err_msg=name
                )


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(toy, finished, tmp_path):
    folder = tmp_path / "runs"
    second = folder / "populations/p0003/distill"
    process = start(toy.sweep(folder))
    deadline = time.monotonic() + 600
    while not checkpoints.steps(second / "checkpoints"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = [p for p in folder.rglob("run.json") if json.loads(p.read_text())["complete"]]
    before = {p: p.stat().st_mtime_ns for p in done}
    assert folder / "populations/p0000/adapt/run.json" in before
    assert main(toy.sweep(folder)) == 0
    assert {p: p.stat().st_mtime_ns for p in done} == before
    sweep = record(folder)
    assert len(sweep.trials) == SETTINGS  # taken over, not begun anew
    assert_same_scores(sweep, record(finished))


@pytest.mark.slow
def test_a_trial_that_diverges_stops_no_other(toy, tmp_path, capsys):
    folder = tmp_path / "runs"
    space = ({"learning_rate": 1e30}, {"target_learning_rate": 1e30})
    words = toy.sweep(folder, SPACE=space)
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "2 of 3 trials failed" in message and "--retry_failed" in message
    trials = record(folder).trials
    assert [t.state for t in trials] == ["done", "failed", "failed"]
    assert "distillation diverged: trial0001/seed0" in trials[1].reason
    assert "adaptation diverged" in trials[2].reason
    adapted = toy.members(folder / "populations/p0000/adapt").values()
    assert {m["method"] for m in adapted} == {"trial0000", "trial0002"}
    assert main([*words, "--retry_failed"]) == 1  # they diverge again
    assert "2 failed trials are tried again" in capsys.readouterr().out
    assert (folder / "populations/p0003").exists()


@pytest.mark.slow
def test_what_is_pruned_is_not_adapted_with_the_other_seeds(toy, tmp_path):
    """With the general gin file, its axes drawn by TPE, and prompt lengths with teachers of their own."""
    folder = tmp_path / "runs"
    words = toy.sweep(
        folder, file="mixture_distillation", SWEEP_SAMPLER="tpe", TRIALS=4, POPULATION=4,
        KEEP=0.5, SPACE=({"weight": (0.0, 0.9), "target_learning_rate": (0.001, 0.3)},),
    )  # fmt: skip
    assert main(words) == 0
    trials = record(folder).trials
    pruned = {f"trial{t.number:04d}" for t in trials if t.state == "pruned"}
    assert len(trials) == 4 and len(pruned) == 2
    first_scores = {t.number: score([dataclasses.replace(t, rows=t.rows[:2])]).mean for t in trials}
    least = min(value for n, value in first_scores.items() if f"trial{n:04d}" not in pruned)
    assert all(first_scores[int(name[5:])] <= least for name in pruned)
    first = toy.members(folder / "populations/p0000/adapt_first").values()
    rest = toy.members(folder / "populations/p0000/adapt").values()
    assert {m["seed"] for m in first} == {0} and {m["seed"] for m in rest} == {1}
    assert len({m["method"] for m in first}) == 4
    assert {m["method"] for m in rest} == {m["method"] for m in first} - pruned
    assert all(len(t.rows) == (2 if t.state == "pruned" else 4) for t in trials)


@pytest.mark.parametrize("file", ["mixture_distillation", "embedded_mixtures"])
def test_a_dry_run_lists_populations_members_and_steps(file, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "runs"
    words = [w for w in toy.sweep(folder, "--dry_run", file=file) if "gin.SPACE" not in w]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "dry run: everything checked" in shown and "teach, P = 3, paper sampler" in shown
    settings = int(re.search(r"(\d+) settings x 2 seeds on 2 target tasks", shown)[1])
    # Its own space: leave-one-out over three tasks, one family, and the rest.
    rest = 1 + 3 + 1
    assert settings == rest + {"mixture_distillation": 12, "embedded_mixtures": 10}[file]
    assert ("teach, P = 6" in shown) == (file == "mixture_distillation")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        # Five settings in two populations read the states of one run of teachers.
        (({"sources": "leave_one_out"}, {"rank": 2}), {"P = 3, 5 settings": (1, 5)}),
        # One setting alone in each: the state before the last layer is of use to one of them only.
        (
            ({"layers": "all"}, {"temperature": 2.0}, {"prompt_length": 6}),
            {"P = 3, 2 settings": (1, 2), "P = 3, 1 setting": (2, 1), "P = 6, 1 setting": (None, 1)},
        ),
    ],
)  # fmt: skip
def test_a_dry_run_says_how_large_the_cache_of_the_teachers_states_is(
    space, expected, toy, tmp_path, capsys
):
    """Once for all populations that share it; a setting's size as `mpt run` says it."""
    said = r"teacher cache \S+: (\d+) examples of 3 tasks, ([\d.]+) kB; .* teachers' ([\d,]+) "
    given = {"TEACHER_CACHE": tmp_path / "states"}
    assert toy.run("run", tmp_path / "run", "--dry_run", **given) == 0
    examples, size, _ = re.search(said, " ".join(capsys.readouterr().out.split())).groups()
    population = {"POPULATION": 3 if len(expected) == 1 else 1, "SPACE": space}
    assert main(toy.sweep(tmp_path / "sweep", "--dry_run", **given, **population)) == 0
    lines = re.findall(rf"^(.*): {said}", capsys.readouterr().out, re.MULTILINE)
    assert {line[0] for line in lines} == set(expected) and len(lines) == len(expected)
    for name, found, kilobytes, passes in lines:
        times, settings = expected[name]
        assert found == examples
        assert times is None or float(kilobytes) == pytest.approx(times * float(size), abs=0.1)
        assert int(passes.replace(",", "")) == settings * 2 * ROWS["distill"] * STEPS
    assert not (tmp_path / "states").exists()


@pytest.mark.parametrize(
    ("macros", "message"),
    [
        ({"SPACE": ({"wieght": 1.0},)}, "did you mean 'weight'"),
        ({"SWEEP_SAMPLER": "random"}, "give TRIALS"),
        ({"FAMILIES": {"other": "toy_turn"}}, "source task of family other"),
        ({"KEEP": 0.5, "SWEEP_SEEDS": 1}, "nothing to save"),
    ],
)
def test_what_is_wrong_is_said_at_once(toy, tmp_path, capsys, macros, message):
    assert main(toy.sweep(tmp_path / "run", **macros)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(toy.sweep(tmp_path / "run", "--status")) == 1
    assert "no sweep" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [(), ("--status",)])
def test_a_sweep_without_a_place_is_refused_before_anything_is_loaded(capsys, monkeypatch, flags):
    monkeypatch.setattr(BackboneSource, "open_vocabulary", lambda self: pytest.fail("was opened"))
    assert main(["sweep", "--gin_file=sweeps/embedded_mixtures.gin", *flags]) == 1
    assert "a sweep needs a place: give --model_dir=DIR" in capsys.readouterr().err
