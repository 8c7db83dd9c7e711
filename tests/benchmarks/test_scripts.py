"""The benchmarks run, on a tiny model and for one round; how fast anything is is no matter here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NEEDS_PARITY = "needs the `parity` extra (torch, transformers and peft)"

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    def run(script, *flags):
        """Runs one benchmark and returns its result."""
        output = tmp_path / "results.json"
        words = [sys.executable, str(BENCHMARKS / f"{script}.py"), "--size=tiny", "--rounds=1"]
        done = subprocess.run(
            [*words, f"--output={output}", *flags], capture_output=True, text=True, check=False,
            # One device and XLA's own flags, as the benchmarks have on a CPU, not those of the tests.
            env={**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(output.read_text())[script]

    return run


def values(result):
    return {row["what"]: row["value"] for row in result["rows"]}


def test_train_step_is_the_same_work_as_peft_s(run):
    for package in ("torch", "transformers", "peft"):
        pytest.importorskip(package, reason=NEEDS_PARITY)
    result = run("train_step")
    found = values(result)
    # On so small a model what lies between the matrix products counts too.
    assert 1 < found["FLOPs that XLA counts / needed"] < 1.3
    assert found["PEFT at equal work / ours"] > 0
    assert any("losses agree" in note for note in result["notes"])
    assert any("not installed" in note for note in result["notes"])


def test_decoded_tokens_are_those_of_hugging_face(run):
    for package in ("torch", "transformers", "peft"):
        pytest.importorskip(package, reason=NEEDS_PARITY)
    result = run("decode", "--length=5")
    assert "equal tokens" in result["notes"]
    assert values(result)["Hugging Face / ours"] > 0


def test_distillation(run):
    found = values(run("distillation", "--steps=2"))
    assert set(found) == {"cached / none", "uncached / none"}


def test_mixed_lengths(run):
    (ratio,) = values(run("mixed_lengths")).values()
    assert ratio > 0


def test_many_tasks(run):
    result = run("many_tasks", "--tasks=2", "--steps=1")
    assert set(result["raw"]) == {"one program", "a program for each task"}


def test_a_second_start_compiles_nothing(run):
    found = values(run("step_overhead", "--steps=2"))
    assert found["programs compiled by a second start"] == 0
