"""How launchers are called in tests. Real tools are stood in for."""

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
AWKWARD = """--gin.X='a "b" $(c) \\ $d'"""
"""One word as mpt should get it."""

GIVEN = {
    "slurm.sh": ["--work_dir=work"],
    "tpu_vm.sh": [
        "--name=teach", "--zone=us-west4-a", "--type=v5litepod-8", "--version=v2-alpha-tpuv5-lite",
    ],
    "kubernetes.sh": ["--name=teach", "--image=example.org/mpt:1", "--claim=shared:/shared"],
    "skypilot.sh": ["--name=teach", "--accelerators=H100:8", "--bucket=gs://b"],
}  # fmt: skip
SEVERAL = {
    "slurm.sh": ["--nodes=2"],
    "tpu_vm.sh": ["--slices=2", "--nfs=10.0.0.2:/share"],
    "kubernetes.sh": ["--hosts=2"],
    "skypilot.sh": ["--nodes=2"],
}
COMMAND = ["--", "teach", "--model_dir=runs/a", AWKWARD]


@pytest.fixture(autouse=True)
def no_real_tools(tmp_path_factory, monkeypatch):
    """What a launcher forgets to refuse ends at a stand-in that fails."""
    folder = tmp_path_factory.mktemp("tools")
    for name in ("docker", "gcloud", "kubectl", "python3", "python3.11", "sbatch", "sky"):
        stand_in(folder, name, "exit 1")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def launch(folder, script, *words, path=""):
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "TMPDIR": str(folder)}
    return subprocess.run(
        [LAUNCH / script, *words],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def shown(folder, script, *more):
    """What a dry run prints; it touches nothing."""
    done = launch(folder, script, *GIVEN[script], *more, "--dry_run", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done.stdout


def stand_in(folder, name, text):
    path = folder / name
    path.unlink(missing_ok=True)  # never write through a link
    path.write_text(f"#!/bin/bash\n{text}")
    path.chmod(0o755)
