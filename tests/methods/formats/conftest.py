"""Prompts with known numbers, as our prompt files and as folders made by hand."""

import json

import numpy as np
import pytest
import safetensors.numpy

from mpt_jax.methods.prompt_file import PromptFile, load_prompt_file, save_prompt_file

K, P, D, R = 3, 4, 6, 2


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def arrays_of(kind: str, tasks: int = K, length: int = P, width: int = D) -> dict:
    """One member's parameters."""
    if kind == "prompt_tuning":
        return {"prompt": numbers(tasks, length, width)}
    return {
        "shared": numbers(length, width, seed=1),
        "u": numbers(tasks, length, R, seed=2),
        "v": numbers(tasks, R, width, seed=3),
    }


@pytest.fixture
def make_prompts(tmp_path):
    """A prompt file of a kind, written and read."""

    def make(kind: str, names=("a", "b", "c"), name: str = "ours", **sizes) -> PromptFile:
        path = tmp_path / f"{name}.safetensors"
        save_prompt_file(
            path, arrays_of(kind, len(names), **sizes), kind=kind, task_names=names,
            backbone_fingerprint="aaaa", backbone_name="tiny", vocabulary_fingerprint="cccc", step=30,
        )  # fmt: skip
        return load_prompt_file(path)

    return make


@pytest.fixture
def make_adapter(tmp_path):
    """A PEFT adapter's folder, made by hand: what PEFT 0.21 writes, less what nobody reads."""

    def make(tensors: dict | None = None, name: str = "adapter", **changes):
        if tensors is None:
            arrays = arrays_of("mpt")
            tensors = {
                "prompt_embeddings": arrays["shared"],
                "prefix_task_cols": arrays["u"],
                "prefix_task_rows": arrays["v"],
            }
        config = {
            "base_model_name_or_path": "some/t5",
            "inference_mode": True,
            "num_attention_heads": 2,
            "num_layers": 2,
            "num_ranks": R,
            "num_tasks": K,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": P,
            "peft_type": "MULTITASK_PROMPT_TUNING",
            "prompt_tuning_init": "RANDOM",
            "task_type": "SEQ_2_SEQ_LM",
            "token_dim": D,
        } | changes
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        content = safetensors.numpy.save(tensors, {"format": "pt"})
        (folder / "adapter_model.safetensors").write_bytes(content)
        return folder

    return make
