"""One of several processes dies or fails: the others stop within a minute, and the same command goes on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mpt_jax.training import checkpoints

LONG = {"TRAIN_STEPS": 300, "CHECKPOINT_PERIOD": 20, "EVAL_PERIOD": 100}
LONG_RUN = {"DISTILL_STEPS": 100, "CHECKPOINT_PERIOD": 10, "EVAL_PERIOD": 50}


def start(words, logs, *, count=2, only_last=()):
    """Processes of one command; `only_last` are words of the last alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator_address=127.0.0.1:{port}", f"--process_count={count}"]
    logs.mkdir()
    processes = []
    for i in range(count):
        more = [*together, f"--process_index={i}", *(only_last if i == count - 1 else ())]
        with (logs / f"{i}.txt").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "mpt_jax", *words, *more],
                    env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, stdout=log, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
    return processes


def end(processes, logs, seconds):
    """Exit codes and outputs; none of them may take longer."""
    deadline = time.monotonic() + seconds
    try:
        codes = [process.wait(deadline - time.monotonic()) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return codes, [(logs / f"{i}.txt").read_text() for i in range(len(processes))]


def wait_for_checkpoint(folder, processes):
    deadline = time.monotonic() + 300
    while not checkpoints.steps(folder / "checkpoints"):
        assert not any(process.poll() for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_whole_job_goes_on_after_one_process_was_killed(toy, tmp_path):
    folder = tmp_path / "run"
    words = toy.flags("run", folder, **LONG_RUN)
    processes = start(words, tmp_path / "killed")
    wait_for_checkpoint(folder / "distill", processes)
    processes[1].kill()
    codes, _ = end(processes, tmp_path / "killed", 60)
    assert codes == [-signal.SIGABRT, -signal.SIGKILL]
    assert checkpoints.steps(folder / "distill" / "checkpoints")[-1] < LONG_RUN["DISTILL_STEPS"]

    codes, (first, second) = end(start(words, tmp_path / "resumed"), tmp_path / "resumed", 400)
    assert codes == [0, 0], (first, second)
    assert "teach is complete already" in first and "report: " in first
    assert "complete already" not in second and "report" not in second
    other = tmp_path / "undisturbed"  # from the teachers on: these were done before the kill
    shutil.copytree(folder / "teach", other / "teach")
    again = start(toy.flags("run", other, **LONG_RUN), tmp_path / "logs")
    codes, outputs = end(again, tmp_path / "logs", 400)
    assert codes == [0, 0], outputs
    for stage in ("teach", "distill", "adapt"):
        found, expected = toy.prompts(folder / stage), toy.prompts(other / stage)
        assert found and set(found) == set(expected)
        for name, array in expected.items():
            assert np.array_equal(found[name], array), name
    reports = [json.loads((place / "results.json").read_text()) for place in (folder, other)]
    assert reports[0]["scores"] and reports[0]["scores"] == reports[1]["scores"]


@pytest.mark.slow
def test_a_failed_process_stops_the_other(toy, tmp_path):
    words = toy.flags("teach", tmp_path / "run", **LONG)
    wrong = ["--gin.MIXTURE_OR_TASK_NAME='no_such_task'"]
    codes, outputs = end(start(words, tmp_path / "logs", only_last=wrong), tmp_path / "logs", 100)
    assert "no_such_task" in outputs[1]
    assert codes == [-signal.SIGABRT, 1]
