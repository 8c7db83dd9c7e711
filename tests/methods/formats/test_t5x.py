"""T5X checkpoints that hold a prompt. The form itself is tested with `models/formats`."""

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
