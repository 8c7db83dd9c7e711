"""Whole jobs whose run directories, stores, prompts and backbone are all in a bucket."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mpt_jax.bucket_lock import bucket_lock
from mpt_jax.cli import main
from mpt_jax.places import Bucket
from mpt_jax.stages import sweep, sweep_workers
from mpt_jax.stages.command_runs import RUNNING, Run, all_runs, run_all, state_of
from mpt_jax.training import checkpoints

LONG = {"TRAIN_STEPS": 400, "CHECKPOINT_PERIOD": 20, "EVAL_PERIOD": 100}


@pytest.fixture
def places(bucket, tiny_backbone):
    """The macros that name places, all of them in the bucket."""
    shutil.copytree(tiny_backbone, bucket / "models" / "tiny")
    return {
        "INITIAL_CHECKPOINT_PATH": "gs://bucket/models/tiny",
        "STORE_DIR": "gs://bucket/stores",
    }


def forget_cache():
    shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]) / "mpt_jax")


def assert_equal(found, expected):
    assert expected and set(found) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def test_all_stages_in_a_bucket(toy, whole_job, bucket, places, capsys):
    """The same prompts and scores as on a disk, and then used from a machine that has nothing."""
    assert toy.run("run", "gs://bucket/run", **places) == 0
    run = bucket / "run"
    for stage in ("teach", "distill", "adapt"):
        toy.members(run / stage)  # complete
        assert_equal(toy.prompts(run / stage), toy.prompts(whole_job / stage))
        assert checkpoints.steps(run / stage / "checkpoints")
        assert list((run / stage / "metrics").glob("events.out.tfevents*"))
        for split in ("train", "validation"):
            rows = (run / stage / "metrics" / f"{split}.jsonl").read_text().count("\n")
            expected = (whole_job / stage / "metrics" / f"{split}.jsonl").read_text()
            assert rows == expected.count("\n") > 0
    for name in ("report.md", "results.json"):
        assert (run / name).is_file()
    plots = {path.name for path in (run / "plots").iterdir()}
    assert plots == {path.name for path in (whole_job / "plots").iterdir()}
    assert len(list((bucket / "stores").glob("*/manifest.json"))) == 15  # 5 tasks, 3 splits
    shown = capsys.readouterr().out
    assert "gs://bucket/run/teach/prompts" in shown and "working" not in shown

    forget_cache()
    words = [
        "infer", "--prompts=gs://bucket/run/adapt", "--name=toy_turn/k4/seed0/mpt", "--task=toy_turn",
        "--input=gs://bucket/texts.txt", "--output=gs://bucket/answers.txt",
        "--gin.INITIAL_CHECKPOINT_PATH='gs://bucket/models/tiny'",
    ]  # fmt: skip
    (bucket / "texts.txt").write_text("badger\nkestrel\n")
    assert main(words) == 0
    assert (bucket / "answers.txt").read_text().count("\n") == 2
    assert main(words) == 1  # nothing is overwritten, there as here
    assert "exists; nothing is overwritten" in capsys.readouterr().err
    assert main(["show", "gs://bucket/run/distill"]) == 0
    assert f"checkpoint of step {8}" in capsys.readouterr().out
    prompt = "gs://bucket/run/teach/prompts/toy_head.safetensors"
    assert main(["merge", prompt, "--output=gs://bucket/plain.safetensors"]) == 0
    assert main(["export", prompt, "--format=peft", "--output=gs://bucket/adapter"]) == 0
    assert (bucket / "adapter" / "adapter_model.safetensors").is_file()
    combined = [
        f"--prompt=gs://bucket/{n}=0.5" for n in ("plain.safetensors", "run/teach:toy_head")
    ]
    more = ["--task_name=new", "--output=gs://bucket/new.safetensors"]
    assert main(["combine", *combined, *more]) == 0
    assert (bucket / "new.safetensors").is_file()


def test_a_job_that_is_complete_is_left_alone(toy, bucket, places, capsys):
    assert toy.run("teach", "gs://bucket/teach", **places) == 0
    before = sorted((bucket / "teach" / "prompts").rglob("*"))
    assert toy.run("teach", "gs://bucket/teach", **places) == 0
    assert sorted((bucket / "teach" / "prompts").rglob("*")) == before
    assert toy.run("distill", "gs://bucket/teach", **places, TEACHER_DIR="gs://bucket/teach") == 1
    assert "MODEL_DIR gs://bucket/teach belongs to a run of 'teach'" in capsys.readouterr().err


@pytest.fixture
def start():
    """Starts `mpt` with these words and log; what is left is killed at the end."""
    processes = []

    def begin(words, log):
        with log.open("w") as file:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "mpt_jax", *words],
                    env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, stdout=file, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def wait_for(folder, processes, logs, after=0):
    deadline = time.monotonic() + 300
    while not any(
        (folder / str(n) / "record" / "metadata").is_file() for n in steps_after(folder, after)
    ):
        assert all(p.poll() is None for p in processes), [log.read_text() for log in logs]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps_after(folder, after):
    return [step for step in checkpoints.steps(folder) if step > after]


@pytest.mark.slow
def test_killed_and_resumed_on_a_machine_that_has_nothing(toy, bucket, places, tmp_path, start):
    words = toy.flags("teach", "gs://bucket/killed", **places, **LONG)
    saved = bucket / "killed" / "checkpoints"
    killed = start(words, tmp_path / "1.txt")
    wait_for(saved, [killed], [tmp_path / "1.txt"])
    killed.kill()
    killed.wait()
    reached = checkpoints.steps(saved)[-1]
    assert reached < LONG["TRAIN_STEPS"]

    forget_cache()
    stopped = start(words, tmp_path / "2.txt")
    wait_for(saved, [stopped], [tmp_path / "2.txt"], after=reached)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(120) == 75, (tmp_path / "2.txt").read_text()
    assert "locked" not in (tmp_path / "2.txt").read_text()  # the dead process was of this machine

    # A checkpoint that a kill left half uploaded: its record, which comes last, is missing.
    *_, newest = checkpoints.steps(saved)
    shutil.copytree(saved / str(newest), saved / str(newest + 1))
    (saved / str(newest + 1) / "record" / "metadata").unlink()
    forget_cache()
    assert start(words, tmp_path / "3.txt").wait(300) == 0, (tmp_path / "3.txt").read_text()
    assert "damaged" not in (tmp_path / "3.txt").read_text()
    # What is not kept here is not kept there.
    assert len(checkpoints.steps(saved)) <= 3 and newest + 1 not in checkpoints.steps(saved)

    assert main(toy.flags("teach", tmp_path / "undisturbed", **LONG)) == 0
    assert_equal(toy.prompts(bucket / "killed"), toy.prompts(tmp_path / "undisturbed"))
    rows = (bucket / "killed" / "metrics" / "validation.jsonl").read_text().count("\n")
    assert rows == (tmp_path / "undisturbed/metrics/validation.jsonl").read_text().count("\n")


@pytest.mark.slow
def test_two_writers_are_refused(toy, bucket, places, tmp_path, capsys, monkeypatch, start):
    monkeypatch.setattr("mpt_jax.bucket_lock._machine", lambda: "another")
    monkeypatch.setattr("mpt_jax.bucket_lock.ENDING_SECONDS", 0.0)
    endless = {**LONG, "TRAIN_STEPS": 20_000}
    words = toy.flags("teach", "gs://bucket/run", **places, **endless)
    first = start(words, tmp_path / "1.txt")
    wait_for(bucket / "run" / "checkpoints", [first], [tmp_path / "1.txt"])
    assert main(words) == 1
    assert "is writing gs://bucket/run" in capsys.readouterr().err
    first.kill()
    first.wait()


@pytest.mark.slow
def test_two_processes_with_caches_of_their_own(toy, bucket, places, tmp_path, start):
    """Killed and resumed; each of the two sees nothing of the other's disk."""

    def both(name):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        logs = [tmp_path / f"{name}{i}.txt" for i in range(2)]
        processes = []
        for i in range(2):
            os.environ["XDG_CACHE_HOME"] = str(tmp_path / f"cache{name}{i}")
            more = [f"--coordinator_address=127.0.0.1:{port}", "--process_count=2"]
            processes.append(start([*words, *more, f"--process_index={i}"], logs[i]))
        return processes, logs

    words = toy.flags("teach", "gs://bucket/run", **places, **LONG)
    saved = bucket / "run" / "checkpoints"
    processes, logs = both("killed")
    wait_for(saved, processes, logs)
    for process in processes:
        process.kill()
        process.wait()
    assert checkpoints.steps(saved)[-1] < LONG["TRAIN_STEPS"]
    processes, logs = both("resumed")
    assert [p.wait(400) for p in processes] == [0, 0], [log.read_text() for log in logs]

    other = toy.flags("teach", tmp_path / "undisturbed", **LONG)
    words = other
    processes, logs = both("undisturbed")
    assert [p.wait(400) for p in processes] == [0, 0], [log.read_text() for log in logs]
    assert_equal(toy.prompts(bucket / "run"), toy.prompts(tmp_path / "undisturbed"))


@pytest.mark.slow
def test_a_comparison_in_a_bucket(toy, bucket, places, capsys):
    one = {"METHOD": ("prompt_tuning",)}
    assert main(toy.compare("gs://bucket/compare", **places, **one)) == 0
    assert (bucket / "compare" / "report.md").is_file()
    toy.members(bucket / "compare" / "methods" / "prompt_tuning" / "train")
    forget_cache()
    capsys.readouterr()
    assert main(toy.compare("gs://bucket/compare", **places, **one)) == 0
    shown = capsys.readouterr().out
    assert "report: gs://bucket/compare/report.md" in shown and "done in" not in shown


@pytest.mark.slow
def test_a_paper_table_in_a_bucket(toy, bucket, places, capsys):
    given = {"T5_TINY": "gs://bucket/models/tiny", "STORE_DIR": places["STORE_DIR"]}
    words = toy.paper("gs://bucket/paper", methods="(@mpt/adapt.Variant(),)", **given)
    assert main(words) == 0
    assert list((bucket / "paper" / "tables").glob("*/table.md"))
    forget_cache()
    capsys.readouterr()
    assert main([*words, "--status"]) == 0
    shown = capsys.readouterr().out
    assert "done" in shown and not {"missing", "partial", "running"} & set(shown.split())


@pytest.mark.slow
def test_a_sweep_in_a_bucket_goes_on_on_another_machine(
    toy, bucket, places, tmp_path, capsys, monkeypatch, start
):
    """The second worker has nothing of the first one's disk, and hears of its death by its silence."""
    pytest.importorskip("optuna", reason="pip install 'mpt_jax[sweep]'")
    words = toy.sweep("gs://bucket/sweep", **places, SPACE=({"rank": 2},), SWEEP_SEEDS=1)
    assert main([*words, "--status"]) == 1
    assert "no sweep: gs://bucket/sweep/.ledger does not exist" in capsys.readouterr().err
    assert main([*words, "--dry_run"]) == 0
    assert not (bucket / "sweep").exists()
    first = start(words, tmp_path / "1.txt")
    distill = bucket / "sweep" / "populations" / "p0000" / "distill"
    wait_for(distill / "checkpoints", [first], [tmp_path / "1.txt"])
    first.kill()
    first.wait()
    done = bucket / "sweep" / "teachers" / "p3" / "run.json"
    before = done.stat().st_mtime_ns

    forget_cache()
    monkeypatch.setattr(sweep_workers, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(sweep, "BEAT_SECONDS", 1.0)
    capsys.readouterr()
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "takes over population p0000" in shown
    assert "report: gs://bucket/sweep/report.md" in shown
    assert done.stat().st_mtime_ns == before
    toy.members(distill)
    record = json.loads((bucket / "sweep" / "sweep.json").read_text())
    assert [trial["state"] for trial in record["trials"]] == ["done", "done"]
    assert (bucket / "sweep" / "plots" / "trials.png").is_file()
    assert main([*words, "--status"]) == 0
    assert "best: trial" in capsys.readouterr().out


def test_a_run_whose_owner_may_be_dead_is_tried(bucket):
    """Its lock says so only after a minute; meanwhile the command that takes the lock waits for it."""
    tried = []
    with all_runs("gs://bucket/runs") as root, bucket_lock(Bucket("gs://bucket/runs/a")):
        run = Run("teach", "a", root / "a", {"TRAIN_STEPS": "3"})
        assert state_of(run) == RUNNING
        assert run_all([run], tried.append, (), (), Console(quiet=True)) == []
        assert tried == [["teach", "--gin.TRAIN_STEPS=3", "--model_dir=gs://bucket/runs/a"]]
        other = dataclasses.replace(run, settings={"TRAIN_STEPS": "4"})
        (wrong,) = run_all([other], tried.append, (), (), Console(quiet=True))
        assert "is being made by another process" in wrong and len(tried) == 1
