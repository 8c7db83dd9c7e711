"""One owner at a time, whatever happens to it, and nothing of it left."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from mpt_jax.file_lock import Held, file_lock, is_held


def test_a_second_is_told_who_has_it(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)
    with file_lock(path):
        assert is_held(path)
        with pytest.raises(Held, match=f"process {os.getpid()} on "), file_lock(path):
            pass
        assert is_held(path)
    assert not is_held(path) and not any(tmp_path.iterdir())


def test_one_that_waited_has_it_as_truly_as_any(tmp_path):
    """The file that it waited for is removed by then."""
    path, waits, ends = tmp_path / "lock", threading.Event(), threading.Event()
    owns = threading.Event()

    def other():
        waits.set()
        with file_lock(path, patient=True):
            owns.set()
            ends.wait(10)

    with file_lock(path):
        thread = threading.Thread(target=other)
        thread.start()
        assert waits.wait(10) and not owns.wait(0.2)
    assert owns.wait(10)
    with pytest.raises(Held), file_lock(path):
        pass
    ends.set()
    thread.join()
    assert not any(tmp_path.iterdir())


def test_an_owner_that_fails_or_is_killed_leaves_it_free(tmp_path):
    path = tmp_path / "lock"
    with pytest.raises(RuntimeError), file_lock(path):
        raise RuntimeError
    assert not path.exists()
    code = (
        "import os, pathlib, signal, sys; from mpt_jax.file_lock import file_lock\n"
        "with file_lock(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    assert killed.returncode == -signal.SIGKILL and path.exists() and not is_held(path)
    with file_lock(path):
        pass
    assert not path.exists()


def test_another_ones_file_is_not_removed(tmp_path):
    """As when a user deletes a run directory while it is written, and begins another there."""
    path = tmp_path / "lock"
    with file_lock(path):
        path.unlink()
        with file_lock(path):
            pass
        path.touch()
    assert path.exists()
