"""Where prompts in T5X start: from prompt files, arrays, and the embeddings of a checkpoint."""

import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.initialisers import sampled_vocabulary
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_file import save_prompt_file
from mpt_jax.methods.prompt_tuning import PromptTuning

pytest.importorskip("t5x", reason="needs T5X from its repository (docs/t5x.md)")

from mpt_jax.t5x import starts  # noqa: E402

TASKS, P, D = ("a", "b"), 3, 16


def save_file(path, arrays, kind, tasks):
    identity = dict(backbone_fingerprint="f", backbone_name="n", vocabulary_fingerprint="v")
    return save_prompt_file(path, arrays, kind=kind, task_names=tasks, **identity)


def test_a_file_of_another_method_starts_with_finished_prompts(tmp_path):
    stream = np.random.RandomState(0)
    plain = {"prompt": stream.randn(2, P, D).astype(np.float32)}
    factors = {"shared": stream.randn(P, D), "u": stream.randn(2, P, 1), "v": stream.randn(2, 1, D)}
    plain_file = save_file(tmp_path / "plain.safetensors", plain, "prompt_tuning", ["a", "b"])
    mpt_file = save_file(tmp_path / "mpt.safetensors", factors, "mpt", ["a", "b"])
    sizes = dict(members=1, tasks=2, length=P, width=D)
    shared = starts.FromPromptFile(plain_file)(MPT(**sizes), TASKS)["shared"]
    np.testing.assert_allclose(shared, plain["prompt"].mean(axis=0), rtol=1e-6)
    prompts = starts.FromPromptFile(mpt_file)(PromptTuning(**sizes), TASKS)["prompt"]
    expected = [
        factors["shared"] * (u @ v) for u, v in zip(factors["u"], factors["v"], strict=True)
    ]
    np.testing.assert_allclose(prompts, np.stack(expected), rtol=1e-5)


def test_an_array_starts_all_tasks(tmp_path):
    prompt = np.random.RandomState(0).randn(P, D).astype(np.float32)
    np.save(tmp_path / "p.npy", prompt)
    start = starts.FromPromptFile(tmp_path / "p.npy")
    sizes = dict(members=1, tasks=2, width=D)
    arrays = start(PromptTuning(**sizes, length=P), TASKS)
    np.testing.assert_array_equal(arrays["prompt"], np.stack([prompt, prompt]))
    np.testing.assert_array_equal(start(MPT(**sizes, length=P), TASKS)["shared"], prompt)
    with pytest.raises(UserError, match=r"shape \(3, 16\), expected \(4, 16\)"):
        start(MPT(**sizes, length=P + 1), TASKS)


@pytest.mark.parametrize(
    ("names", "sizes", "message"),
    [
        (("a", "x"), {}, "none for \\['x'\\]"),
        (TASKS, {"length": 5}, "holds prompts of 3 vectors, the network is set to 5"),
        (TASKS, {"width": 8}, "holds prompts of width 16"),
    ],
)
def test_a_prompt_file_that_does_not_fit_is_refused(names, sizes, message, tmp_path):
    path = save_file(
        tmp_path / "p.safetensors", {"prompt": np.ones((2, P, D))}, "prompt_tuning", TASKS
    )
    method = MPT(**dict(members=1, tasks=2, length=P, width=D) | sizes)
    with pytest.raises(UserError, match=message):
        starts.FromPromptFile(path)(method, names)


def test_embeddings_of_another_checkpoint_are_refused(plain_checkpoint, tmp_path):
    wide = MPT(members=1, tasks=2, length=P, width=D + 1)
    with pytest.raises(UserError, match="network's width is 17"):
        starts.FromEmbeddings(plain_checkpoint, sampled_vocabulary)(wide, TASKS)
    with pytest.raises(UserError, match="cannot be read"):
        starts.FromEmbeddings(tmp_path / "none", sampled_vocabulary)(wide, TASKS)
