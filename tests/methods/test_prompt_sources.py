import warnings

import jax
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods import initialisers
from mpt_jax.methods.prompt_file import save_prompt_file
from mpt_jax.methods.prompt_sources import ForeignPromptWarning, is_foreign, load_prompts

PROMPT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def array(tmp_path):
    np.save(tmp_path / "boolq.npy", PROMPT)
    return tmp_path / "boolq.npy"


def test_a_foreign_file_names_no_backbone_and_that_is_said(array):
    assert is_foreign(array)
    prompts = load_prompts(array, expect_width=4)
    assert prompts.metadata.backbone_fingerprint is None
    with pytest.warns(ForeignPromptWarning, match="boolq.npy does not say.*only its width"):
        load_prompts(array, expect_backbone="aaaa")
    with pytest.raises(UserError, match="width 4.*width 8"):
        load_prompts(array, expect_backbone="aaaa", expect_width=8)


def test_a_prompt_file_is_verified(tmp_path):
    path = tmp_path / "p.safetensors"
    save_prompt_file(
        path, {"prompt": PROMPT[None]}, kind="prompt_tuning", task_names=["a"],
        backbone_fingerprint="aaaa", backbone_name="tiny", vocabulary_fingerprint="cccc",
    )  # fmt: skip
    assert not is_foreign(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_prompts(path, expect_backbone="aaaa").prompt(), PROMPT)
    with pytest.raises(UserError, match="aaaa.*bbbb"):
        load_prompts(path, expect_backbone="bbbb")


def test_foreign_prompts_are_not_written_without_a_backbone(array, tmp_path):
    prompts = load_prompts(array)
    with pytest.raises(UserError, match="mpt import"):
        save_prompt_file(tmp_path / "x.safetensors", prompts.arrays, **prompts.metadata.arguments())


def test_a_training_starts_from_a_foreign_file(array, tmp_path):
    folder = tmp_path / "run" / "numpy_checkpoints" / "checkpoint_7"
    folder.mkdir(parents=True)
    (folder / "encoder.prompt.prompt.prompt").write_bytes(array.read_bytes())
    embeddings = np.ones((9, 4), np.float32)
    for path in (array, array.with_suffix(""), tmp_path / "run"):
        started = initialisers.from_file(jax.random.key(0), embeddings, 3, path=path)
        assert np.array_equal(started, PROMPT)


@pytest.mark.parametrize("name", ["absent", "absent.npy", "absent.safetensors", "absent.pt"])
def test_absent_files(tmp_path, name):
    with pytest.raises(UserError, match="No prompt file at"):
        load_prompts(tmp_path / name)
