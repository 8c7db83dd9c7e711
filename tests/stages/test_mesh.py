"""The same numbers on one device, on a mesh of eight, and in two processes."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

STAGES = ("teach", "distill", "adapt")
WORKER = """
import json, sys
from mpt_jax.cli import main
for stage in json.loads(sys.argv[1]):
    if code := main([*stage, *sys.argv[2:]]):
        sys.exit(code)
"""


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_mesh_of_four_by_two(stage, toy, whole_job, tmp_path, devices):
    """Each stage from the same sources.

    Adam divides a gradient by its size: where that is near zero it would make a whole step of what rounding,
    which differs from CPU to CPU, leaves between two layouts. So its epsilon is larger here.
    """
    teachers, distilled = str(whole_job / "teach"), str(whole_job / "distill")
    sources = {
        "teach": {},
        "distill": {"TEACHER_DIR": teachers},
        "adapt": {"TEACHER_DIR": teachers, "SOURCE_DIR": distilled},
    }[stage]
    steady = "--gin.update_rules.AdamW.eps=1e-3"
    assert toy.run(stage, tmp_path / "one", steady, **sources) == 0
    devices(8)
    mesh = "--gin.backbone.BackboneSource.mesh_shape=(4, 2)"
    assert toy.run(stage, tmp_path / "mesh", steady, mesh, **sources) == 0
    assert_close(toy.prompts(tmp_path / "mesh"), toy.prompts(tmp_path / "one"))


def in_two_processes(stages):
    """The outputs of `mpt` for some stages in two processes of one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator_address=127.0.0.1:{port}", "--process_count=2"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(stages), *together, f"--process_index={i}"],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return outputs


@pytest.mark.slow
def test_two_processes(toy, whole_job, tmp_path):
    folder = tmp_path / "two"
    sources = tuple(str(whole_job / stage) for stage in STAGES)
    outputs = in_two_processes(
        [
            toy.flags("teach", folder / "teach"),
            toy.flags("distill", folder / "distill", TEACHER_DIR=str(whole_job / "teach")),
            toy.flags(
                "distill", folder / "cached",
                TEACHER_DIR=str(whole_job / "teach"), TEACHER_CACHE=str(folder / "states"),
            ),
            toy.flags(
                "adapt", folder / "adapt",
                TEACHER_DIR=str(whole_job / "teach"), SOURCE_DIR=str(whole_job / "distill"),
            ),
            toy.flags("evaluate", folder / "evaluate", SOURCES=sources),
        ]
    )  # fmt: skip
    for stage in STAGES:
        assert_close(toy.prompts(folder / stage), toy.prompts(whole_job / stage))
    assert_close(toy.prompts(folder / "cached"), toy.prompts(whole_job / "distill"))
    assert len(list((folder / "states").glob("toy_*-train-*/manifest.json"))) == 3
    assert "teach is done" in outputs[0] and "is done" not in outputs[1]
    found, expected = (
        json.loads((place / "results.json").read_text())["scores"]
        for place in (folder / "evaluate", whole_job)
    )
    assert found and found == expected


@pytest.mark.slow
def test_whole_weights_in_parts_over_two_processes(toy, tmp_path):
    """No process has all of what is trained, its checkpoints included; and it goes on from these."""
    settings = {"METHOD": "full", "SOURCE_DIR": None, "TEACHER_DIR": None, "SEEDS": (0,)}
    settings["full/adapt.Variant.learning_rate"] = 0.01
    assert toy.run("adapt", tmp_path / "one", **settings) == 0
    folder = tmp_path / "two"
    mesh = "--gin.backbone.BackboneSource.mesh_shape=(1, 2)"
    in_two_processes([[*toy.flags("adapt", folder, **settings), mesh]])
    found, expected = toy.prompts(folder), toy.prompts(tmp_path / "one")
    assert_close(found, expected)

    # As a kill at step 7 would leave it.
    shutil.rmtree(folder / "prompts")
    shutil.rmtree(folder / "checkpoints" / "full" / "8")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "complete": False}))
    in_two_processes([[*toy.flags("adapt", folder, **settings), mesh]])
    again = toy.prompts(folder)
    assert again and all(np.array_equal(again[name], array) for name, array in found.items())
