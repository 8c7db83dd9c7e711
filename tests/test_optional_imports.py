"""A package that others only try is out of the way for the while."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

from mpt_jax.optional_imports import without


def test_it_looks_missing_and_is_there_again(tmp_path, monkeypatch):
    (tmp_path / "tried_by_others.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with without("tried_by_others"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("tried_by_others")
        assert importlib.util.find_spec("tried_by_others") is None
    assert importlib.import_module("tried_by_others").value == 3
    with without("tried_by_others"):  # what is imported stays
        assert importlib.import_module("tried_by_others").value == 3
    monkeypatch.delitem(sys.modules, "tried_by_others")


def test_after_a_failure_too():
    with pytest.raises(ZeroDivisionError), without("never_imported"):
        raise ZeroDivisionError
    assert "never_imported" not in sys.modules


def test_training_imports_neither_torch_nor_scikit_learn(tmp_path):
    """Nor does reading tasks; and both can be imported afterwards."""
    program = (
        "import sys\n"
        "from mpt_jax.data.tasks import import_seqio\n"
        "from mpt_jax.training.metrics_writer import MetricsWriter\n"
        "import_seqio()\n"
        "writer = MetricsWriter(sys.argv[1], ['a'])\n"
        "writer.write('train', 1, 0.5, {'loss': [0.25]})\n"
        "writer.close()\n"
        "print([name for name in ('torch', 'sklearn') if name in sys.modules])\n"
        "import sklearn.metrics\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "metrics")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    assert list((tmp_path / "metrics").glob("events.out.tfevents*"))
