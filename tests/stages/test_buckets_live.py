"""Training in s3:// and gs:// with s3fs and gcsfs themselves, on servers of this machine that stand for the
stores. Killed, and resumed with an empty cache."""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

REASON = "the `bucket-tests` extra (s3fs, gcsfs, moto, gcp-storage-emulator) is not installed"
LONG = {"TRAIN_STEPS": 200, "CHECKPOINT_PERIOD": 20, "EVAL_PERIOD": 100}
# gcsfs asks another service, by gRPC, of which kind a bucket is; the emulator has none.
S3 = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:{}", "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip
GCS = {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:{}", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
SERVE_GCS = (
    "from gcp_storage_emulator.server import create_server; "
    "create_server('127.0.0.1', {}, in_memory=True).run()"
)


def answers(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["s3", "gs"])
def files(request, monkeypatch, tmp_path):
    """fsspec's file system of an empty bucket, s3://mpt-test or gs://mpt-test."""
    pytest.importorskip("s3fs" if request.param == "s3" else "gcsfs", reason=REASON)
    server = "moto" if request.param == "s3" else "gcp_storage_emulator"
    pytest.importorskip(server, reason=REASON)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    if request.param == "gs":
        words = ["-c", SERVE_GCS.format(port)]
    for name, value in (S3 if request.param == "s3" else GCS).items():
        monkeypatch.setenv(name, value.format(port))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with (tmp_path / "server.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        fsspec = importlib.import_module("fsspec")
        found = fsspec.filesystem(request.param, use_listings_cache=False, skip_instance_cache=True)
        found.mkdir("mpt-test")
        yield found, f"{request.param}://mpt-test"
    finally:
        process.kill()
        process.wait()


def start(words, log):
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "mpt_jax", *words],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip


@pytest.mark.slow
def test_killed_and_resumed(toy, files, tiny_backbone, tmp_path):
    store, root = files
    for path in tiny_backbone.iterdir():
        store.pipe_file(f"{root}/models/tiny/{path.name}", path.read_bytes())
    places = {"INITIAL_CHECKPOINT_PATH": f"{root}/models/tiny", "STORE_DIR": f"{root}/stores"}
    words = toy.flags("teach", f"{root}/teach", **places, **LONG)
    killed = start(words, tmp_path / "killed.txt")
    try:
        deadline = time.monotonic() + 300
        while not store.glob(f"{root}/teach/checkpoints/*/record/metadata"):
            assert killed.poll() is None, (tmp_path / "killed.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        killed.kill()
        killed.wait()
    assert not store.exists(f"{root}/teach/prompts")
    shutil.rmtree(tmp_path / "cache")
    assert start(words, tmp_path / "log.txt").wait(300) == 0, (tmp_path / "log.txt").read_text()
    assert "step 0" not in (tmp_path / "log.txt").read_text()
    undisturbed = tmp_path / "undisturbed"
    other = start(toy.flags("teach", undisturbed, **LONG), tmp_path / "other.txt")
    assert other.wait(300) == 0, (tmp_path / "other.txt").read_text()
    expected = sorted((undisturbed / "prompts").iterdir())
    assert len(expected) == 3
    for path in expected:
        found = safetensors.numpy.load(store.cat_file(f"{root}/teach/prompts/{path.name}"))
        for name, array in safetensors.numpy.load(path.read_bytes()).items():
            assert np.array_equal(found[name], array)
