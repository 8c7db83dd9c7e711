"""Prompts out of T5X checkpoints, without T5X."""

import subprocess
import sys

import numpy as np
import pytest
from flax import serialization

from mpt_jax.errors import UserError
from mpt_jax.methods.formats.t5x_prompt import import_t5x_prompts, read_t5x_prompts
from mpt_jax.methods.prompt_file import load_prompt_file

P, D, K, R = 3, 8, 2, 1
SHAPES = {"shared": (P, D), "u": (K, P, R), "v": (K, R, D)}
IDENTITY = dict(backbone_fingerprint="f", backbone_name="n", vocabulary_fingerprint="v")


def checkpoint(folder, prompts):
    """What T5X's legacy checkpointer writes for small arrays."""
    target = {"encoder": {"prompt": prompts, "encoder_norm": {"scale": np.ones(D, np.float32)}}}
    state = {"version": 3, "optimizer": {"target": target, "state": {"step": 7}}}
    path = folder / "checkpoint_7"
    path.mkdir()
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(state))
    return path


@pytest.fixture
def prompts():
    stream = np.random.RandomState(0)
    return {name: stream.standard_normal(s).astype(np.float32) for name, s in SHAPES.items()}


def test_mpt_s_parameters_become_a_prompt_file(prompts, tmp_path):
    path = checkpoint(tmp_path, prompts)
    kind, arrays, step = read_t5x_prompts(path)
    assert (kind, step) == ("mpt", 7)
    for name, array in prompts.items():
        np.testing.assert_array_equal(arrays[name], array)
    out = tmp_path / "out.safetensors"
    import_t5x_prompts(tmp_path, out, task_names=["a", "b"], **IDENTITY)
    file = load_prompt_file(out, expect_backbone="f")
    expected = prompts["shared"] * (prompts["u"][1] @ prompts["v"][1])
    np.testing.assert_allclose(file.prompt("b"), expected, rtol=1e-6)
    assert file.metadata.step == 7 and file.metadata.source_run == str(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda prompts: prompts.clear(), "no parameter matches"),
        (lambda prompts: prompts.pop("v"), "of none of the methods"),
        # prompt-tuning's own (Lester et al.) lies one level deeper.
        (lambda prompts: prompts.update(prompt={"prompt": prompts["shared"]}), "of none of"),
        (lambda prompts: prompts.update(v=np.ones((K, R, D + 1), np.float32)), "of none of"),
    ],
)
def test_other_parameters_are_refused(change, message, prompts, tmp_path):
    change(prompts)
    path = checkpoint(tmp_path, prompts)
    out = tmp_path / "out.safetensors"
    with pytest.raises(UserError, match=message):
        import_t5x_prompts(path, out, task_names=["a", "b"], **IDENTITY)
    assert not out.exists()


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_t5x_prompts(tmp_path / "none")


def test_t5x_is_not_needed():
    code = "import sys; sys.modules['t5x'] = None; import mpt_jax.methods.formats.t5x_prompt"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
