"""A run that is killed, stopped or finds a damaged checkpoint ends with the prompts of one that was not."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mpt_jax.training import checkpoints

LONG = {"TRAIN_STEPS": 400, "CHECKPOINT_PERIOD": 20, "EVAL_PERIOD": 100}


PROGRAMS = {
    "METHOD": ("prompt_tuning", "full"), "SOURCE_DIR": None, "TEACHER_DIR": None, "TRAIN_STEPS": 120,
    "SEEDS": (0,),
}  # fmt: skip


def start(toy, folder, stage="teach", **macros):
    words = toy.flags(stage, folder, **{**LONG, **macros})
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mpt_jax", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_checkpoint(process, folder, after=0, program=""):
    deadline = time.monotonic() + 300
    while not any(step > after for step in checkpoints.steps(folder / "checkpoints" / program)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finish(toy, folder, *stage, **macros):
    process = start(toy, folder, *stage, **macros)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(toy, folder)
    return toy.prompts(folder)


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


@pytest.mark.slow
def test_kill_and_stop_lose_nothing(toy, undisturbed, tmp_path):
    folder = tmp_path / "run"
    killed = start(toy, folder)
    wait_for_checkpoint(killed, folder)
    killed.kill()
    killed.communicate()
    reached = checkpoints.steps(folder / "checkpoints")[-1]
    assert reached < LONG["TRAIN_STEPS"]

    stopped = start(toy, folder)
    wait_for_checkpoint(stopped, folder, after=reached)
    stopped.send_signal(signal.SIGTERM)
    output = stopped.communicate()[0]
    assert stopped.returncode == 75, output
    assert "the same command goes on" in output

    # And the newest checkpoint is cut off: the one before is taken, and the user is told.
    *_, newest = checkpoints.steps(folder / "checkpoints")
    values = [p for p in (folder / "checkpoints" / str(newest)).rglob("d/*") if p.is_file()]
    assert values
    for path in values:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"{newest} is damaged" in finish(toy, folder)
    assert_equal(toy.prompts(folder), undisturbed)


@pytest.mark.slow
def test_a_kill_in_the_second_program_of_a_run(toy, tmp_path):
    """The first one's prompts were done; what is read again of its folder is not the second's."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(toy, whole, "adapt", **PROGRAMS)
    killed = start(toy, folder, "adapt", **PROGRAMS)
    wait_for_checkpoint(killed, folder, program="full")
    killed.kill()
    killed.communicate()
    assert checkpoints.steps(folder / "checkpoints")[-1] == 120
    assert checkpoints.steps(folder / "checkpoints" / "full")[-1] < 120
    output = finish(toy, folder, "adapt", **PROGRAMS)
    assert "all 120 steps were done before" in output
    assert_equal(toy.prompts(folder), toy.prompts(whole))
