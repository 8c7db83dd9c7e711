import json
import os
import signal
import subprocess
import sys

import pytest

from mpt_jax.errors import UserError
from mpt_jax.run_directory import (
    RunDirectory,
    fresh_path,
    is_locked,
    open_run,
    read_run,
    write_text,
)


def test_a_new_run_then_the_same_again_then_read(tmp_path):
    path = tmp_path / "deep" / "run"
    with open_run(path, "teach") as run:
        run.write_config("A = 1\n")
    with pytest.raises(UserError, match="'teach' that did not finish; run the same command again"):
        read_run(path)
    with open_run(path, "teach") as run:
        run.finish(backbone="f" * 16)
    run = read_run(path, ("teach", "distill"))
    assert run.record() == {"stage": "teach", "complete": True, "backbone": "f" * 16}
    assert run.config.read_text() == "A = 1\n"


def test_a_changed_configuration_keeps_the_old_one(tmp_path):
    with open_run(tmp_path, "teach") as run:
        for text in ("A = 1\n", "A = 1\n", "A = 2\n", "A = 3\n"):
            run.write_config(text)
    assert {p.name: p.read_text() for p in tmp_path.glob("config.gin*")} == {
        "config.gin": "A = 3\n",
        "config.gin.1": "A = 1\n",
        "config.gin.2": "A = 2\n",
    }


def test_two_in_one_directory(tmp_path):
    with open_run(tmp_path, "teach"):
        with pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing MODEL_DIR"):
            with open_run(tmp_path, "teach"):
                pass
    with open_run(tmp_path, "teach"):
        pass


def test_other_processes_of_a_run_write_nothing(tmp_path):
    with open_run(tmp_path, "teach") as first, open_run(tmp_path, "teach", writes=False) as second:
        second.write_config("A = 1\n")
        second.finish()
        assert not first.config.exists() and not first.record()["complete"]


def test_whether_somebody_writes_it(tmp_path):
    folder = tmp_path / "run"
    assert not is_locked(folder) and not folder.exists()
    with open_run(folder, "teach"):
        assert is_locked(folder)
    assert not is_locked(folder)


def test_a_killed_owner_leaves_no_lock(tmp_path):
    code = (
        "import os, signal, sys; from mpt_jax.run_directory import open_run\n"
        "with open_run(sys.argv[1], 'teach'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with open_run(tmp_path, "teach"):
        pass


def test_another_stage(tmp_path):
    with open_run(tmp_path, "teach") as run:
        run.finish()
    with pytest.raises(UserError, match="belongs to a run of 'teach', this is 'distill'"):
        with open_run(tmp_path, "distill"):
            pass
    with pytest.raises(UserError, match="run of 'teach', expected one of 'distill'"):
        read_run(tmp_path, ("distill",))


def test_files_that_no_run_made_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"no run.json but holds thesis\.tex"):
        with open_run(tmp_path, "teach"):
            pass
    assert (tmp_path / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_is_no_directory(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is, or lies below, a file"):
        with open_run(tmp_path / "file" / below, "teach"):
            pass


def test_a_directory_that_cannot_be_written():
    with pytest.raises(UserError, match="/proc/mpt cannot be written"):
        with open_run("/proc/mpt", "teach"):
            pass


def test_no_directory():
    with pytest.raises(UserError, match="MODEL_DIR is empty"):
        with open_run("", "teach"):
            pass
    with pytest.raises(UserError, match="does not exist"):
        read_run("/no/such/run")


@pytest.mark.parametrize("text", ['{"stage": "tea', "[]", "{}"])
def test_a_half_written_record(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="damaged"):
        with open_run(tmp_path, "teach"):
            pass


def test_not_a_run_directory(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        RunDirectory(tmp_path).record()


def test_fresh_paths_are_new(tmp_path):
    first = fresh_path("quickstart", tmp_path)
    first.mkdir()
    second = fresh_path("quickstart", tmp_path)
    assert first.name.startswith("quickstart-") and not second.exists()


def test_write_text_leaves_nothing_beside(tmp_path):
    write_text(tmp_path / "a.json", json.dumps(1))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket", "gs:/bucket/run"])
def test_an_address_is_no_folder(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Without the extras, or with a slash too few.
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    said = r"pip install 'mpt_jax\[(gcs|s3)\]'|expected gs://BUCKET/FOLDER"
    with pytest.raises(UserError, match=said), open_run(address, "teach"):
        pass
    with pytest.raises(UserError, match=said):
        read_run(address)
    assert not list(tmp_path.iterdir())
