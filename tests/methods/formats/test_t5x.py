"""T5X checkpoints that hold a prompt. The form itself is tested with `models/formats`."""

import subprocess
import sys

import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.formats import t5x
from mpt_jax.methods.prompt_sources import load_prompts
from mpt_jax.models.formats import t5x_writer

from .conftest import numbers


def test_ours_to_t5x_to_ours_is_exact(make_prompts, tmp_path):
    prompts = make_prompts("mpt")
    (line,) = t5x.write(prompts.take(["b"]), tmp_path / "b_run")
    assert "checkpoint_30, encoder/prompt/prompt/prompt" in line
    for path in (tmp_path / "b_run", tmp_path / "b_run" / "checkpoint_30"):
        found = load_prompts(path)
        assert (found.metadata.step, found.metadata.task_names) == (30, ("b_run",))
        assert found.prompt().tobytes() == prompts.prompt("b").tobytes()
    with pytest.raises(UserError, match="nothing is overwritten"):
        t5x.write(prompts.take(["b"]), tmp_path / "b_run")
    with pytest.raises(UserError, match="there are 3"):
        t5x.write(prompts, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_checkpoint_without_a_prompt_or_damaged(tmp_path):
    weights = [("token_embedder/embedding", numbers(3, 4))]
    t5x_writer.write_checkpoint(tmp_path / "plain", 5, weights)
    with pytest.raises(UserError, match="no prompt that can be read.*token_embedder"):
        load_prompts(tmp_path / "plain")
    prompt = [(t5x.VARIABLE, np.full((3, 4), np.nan, np.float32))]
    t5x_writer.write_checkpoint(tmp_path / "failed", 5, prompt)
    with pytest.raises(UserError, match="NaN"):
        load_prompts(tmp_path / "failed")
    (tmp_path / "plain" / "checkpoint_5" / "checkpoint").write_bytes(b"no msgpack")
    with pytest.raises(UserError, match="no prompt that can be read"):
        load_prompts(tmp_path / "plain")


SHAPES = {"shared": (3, 8), "u": (2, 3, 1), "v": (2, 1, 8)}


def mpt_checkpoint(folder, shapes=SHAPES):
    """What a T5X run of mpt_jax.t5x leaves."""
    arrays = {name: numbers(*shape) for name, shape in shapes.items()}
    paths = [(f"encoder/prompt/{name}", array) for name, array in arrays.items()]
    t5x_writer.write_checkpoint(folder, 7, paths)
    return arrays


@pytest.mark.parametrize(
    "config, names",
    [
        ('# Macros:\nTASKS = ["a", "b"]\nRANK = 1\n', ("a", "b")),
        ("TASKS = \\\n    ['a',\n     'b']\n", ("a", "b")),
        ('TASKS = ["a"]\n', ("task0", "task1")),
        ("TASKS = [__import__('os')]\n", ("task0", "task1")),
        (None, ("task0", "task1")),
    ],
)
def test_what_mpt_trained_in_t5x(tmp_path, config, names):
    arrays = mpt_checkpoint(tmp_path)
    if config is not None:
        (tmp_path / "config.gin").write_text(config)
    for path in (tmp_path, tmp_path / "checkpoint_7"):
        found = load_prompts(path)
        assert (found.metadata.kind, found.metadata.step) == ("mpt", 7)
        assert found.metadata.task_names == names
        assert bool(found.notes) == (names[0] == "task0")
        for name, array in arrays.items():
            assert found.arrays[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "shapes",
    [
        {"shared": (3, 8), "u": (2, 3, 1)},
        SHAPES | {"v": (2, 1, 9)},
        SHAPES | {"attention": (2, 2)},
        {"prompt": (3, 8)},
    ],
)
def test_parameters_of_no_known_method(tmp_path, shapes):
    mpt_checkpoint(tmp_path, shapes)
    with pytest.raises(UserError, match="of none of the methods"):
        load_prompts(tmp_path)


def test_t5x_is_not_needed(tmp_path):
    mpt_checkpoint(tmp_path)
    code = (
        "import sys; sys.modules['t5x'] = None; from mpt_jax.methods.prompt_sources import "
        f"load_prompts; load_prompts({str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
