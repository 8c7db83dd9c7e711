"""One of two processes dies or fails: the other stops within a minute, and the same command goes on."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mpt_jax.training import checkpoints

LONG = {"TRAIN_STEPS": 300, "CHECKPOINT_PERIOD": 20, "EVAL_PERIOD": 100}


def start(words, logs, *, only_second=()):
    """Two processes of one command; `only_second` are words of the second alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator_address=127.0.0.1:{port}", "--process_count=2"]
    logs.mkdir()
    processes = []
    for i in range(2):
        more = [*together, f"--process_index={i}", *(only_second if i else ())]
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
    return codes, [(logs / f"{i}.txt").read_text() for i in range(2)]


@pytest.mark.slow
def test_a_killed_process_stops_the_other(toy, tmp_path):
    folder = tmp_path / "run"
    words = toy.flags("teach", folder, **LONG)
    processes = start(words, tmp_path / "killed")
    deadline = time.monotonic() + 300
    while not checkpoints.steps(folder / "checkpoints"):
        assert [process.poll() for process in processes] == [None, None]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes[1].kill()
    codes, _ = end(processes, tmp_path / "killed", 60)
    assert codes == [-signal.SIGABRT, -signal.SIGKILL]
    assert checkpoints.steps(folder / "checkpoints")[-1] < LONG["TRAIN_STEPS"]

    codes, outputs = end(start(words, tmp_path / "resumed"), tmp_path / "resumed", 400)
    assert codes == [0, 0], outputs
    other = tmp_path / "undisturbed"
    again = start(toy.flags("teach", other, **LONG), tmp_path / "logs")
    codes, outputs = end(again, tmp_path / "logs", 400)
    assert codes == [0, 0], outputs
    found, expected = toy.prompts(folder), toy.prompts(other)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


@pytest.mark.slow
def test_a_failed_process_stops_the_other(toy, tmp_path):
    words = toy.flags("teach", tmp_path / "run", **LONG)
    wrong = ["--gin.MIXTURE_OR_TASK_NAME='no_such_task'"]
    codes, outputs = end(start(words, tmp_path / "logs", only_second=wrong), tmp_path / "logs", 100)
    assert "no_such_task" in outputs[1]
    assert codes == [-signal.SIGABRT, 1]
