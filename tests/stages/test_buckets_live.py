"""Training in s3:// and gs:// with s3fs and gcsfs themselves, on servers of this machine that stand for the
stores. Killed and resumed with an empty cache; and swept by two workers."""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.numpy

from mpt_jax.errors import UserError
from mpt_jax.places import Bucket
from mpt_jax.stages.sweep_journal import BucketJournal

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
    monkeypatch.setattr(Bucket, "_checked", set())
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


def test_workers_that_write_a_ledger_at_once_lose_nothing(files):
    _, root = files
    if root.startswith("gs://"):  # the store itself knows conditions, the emulator does not
        with pytest.raises(UserError, match="give --storage"):
            BucketJournal(f"{root}/ledger")
        return
    journals = [BucketJournal(f"{root}/ledger") for _ in range(3)]

    def write(worker):
        for number in range(8):
            journals[worker].append_logs([{"worker": worker, "number": number}])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    entries = BucketJournal(f"{root}/ledger").read_logs(0)
    assert len(entries) == 24
    for worker in range(3):
        assert [e["number"] for e in entries if e["worker"] == worker] == list(range(8))


@pytest.mark.slow
def test_two_workers_of_a_sweep(toy, files, tiny_backbone, tmp_path, monkeypatch):
    """On machines that have nothing in common but the bucket, and a database where it needs one."""
    pytest.importorskip("optuna", reason="pip install 'mpt_jax[sweep]'")
    store, root = files
    for path in tiny_backbone.iterdir():
        store.pipe_file(f"{root}/models/tiny/{path.name}", path.read_bytes())
    places = {"INITIAL_CHECKPOINT_PATH": f"{root}/models/tiny", "STORE_DIR": f"{root}/stores"}
    words = toy.sweep(f"{root}/sweep", **places, SWEEP_SEEDS=1, POPULATION=1)
    if root.startswith("gs://"):
        words.append(f"--storage=sqlite:///{tmp_path}/ledger.sqlite")
    workers, logs = [], [tmp_path / f"{i}.txt" for i in range(2)]
    for i, log in enumerate(logs):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{i}"))
        workers.append(start(words, log))
    try:
        codes = [worker.wait(600) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [0, 0], [log.read_text() for log in logs]
    trained = [re.findall(r"^population (p\d+)", log.read_text(), re.M) for log in logs]
    assert all(trained) and len(set(trained[0] + trained[1])) == len(trained[0] + trained[1]) == 5
    trials = json.loads(store.cat_file(f"{root}/sweep/sweep.json"))["trials"]
    assert [trial["state"] for trial in trials] == ["done"] * 5
