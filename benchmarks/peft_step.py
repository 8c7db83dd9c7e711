"""PEFT's multitask prompt tuning on the benchmarks' model: the same weights, start and batch."""

from pathlib import Path
from typing import Any

import problem
from turns import Prepared


def train(folder: str, submodules: int | None) -> Prepared:
    """One step: loss, gradient of the prompt's parameters, AdamW.

    Args:
        submodules: 1 puts the prompt before the encoder alone, as MPT does and as we do; None is PEFT's
            default, which puts as many slots before the decoder too.
    """
    import torch

    model, batch = _open(folder, submodules)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.3, weight_decay=0.0)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    first = step()
    step()
    trainable = sum(p.numel() for p in trained)
    return Prepared(step, {"loss": first, "trainable": trainable, "device": device_name(torch)})


def matmul(size: int) -> Prepared:
    """Torch's own best: one product of square matrices."""
    import torch

    a = torch.rand(size, size, device=device_of(torch))

    def turn() -> float:
        return torch.mm(a, a)[0, 0].item()

    turn()
    return Prepared(turn, {"flops": 2 * size**3})


def decode(folder: str, length: int) -> Prepared:
    """Greedy: Hugging Face's `generate`, with its cache, as PEFT calls it for MPT."""
    import numpy as np
    import torch

    model, batch = _open(folder, submodules=1)
    model.eval()
    del batch["labels"]

    def turn() -> np.ndarray:
        with torch.no_grad():
            ids = model.generate(**batch, max_new_tokens=length, do_sample=False)
        return ids[:, 1:].cpu().numpy()  # behind the token that starts every row

    turn()
    ids = turn()
    return Prepared(turn, {"tokens": np.pad(ids, [(0, 0), (0, length - ids.shape[1])]).tolist()})


def _open(folder: str | Path, submodules: int | None) -> tuple[Any, dict[str, Any]]:
    """The model with the problem's prompt, and the batch."""
    import torch
    from peft import MultitaskPromptTuningConfig, TaskType, get_peft_model
    from transformers import T5ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = device_of(torch)
    base = T5ForConditionalGeneration.from_pretrained(Path(folder) / "model", dtype=torch.float32)
    # A model whose output layer is tied to its embeddings would be another one than ours.
    assert base.lm_head.weight.data_ptr() != base.shared.weight.data_ptr()
    start = {name: torch.tensor(a) for name, a in problem.prompt(folder).items()}
    config = MultitaskPromptTuningConfig(
        task_type=TaskType.SEQ_2_SEQ_LM, prompt_tuning_init="RANDOM", num_ranks=1,
        num_tasks=len(start["u"]), num_virtual_tokens=len(start["shared"]),
        num_transformer_submodules=submodules,
    )  # fmt: skip
    model = get_peft_model(base, config).to(device)
    embedding = model.prompt_encoder["default"]
    halves = embedding.embedding.weight.shape[0] // len(start["shared"])
    with torch.no_grad():
        embedding.embedding.weight.copy_(start["shared"].repeat(halves, 1))
        embedding.prefix_task_cols.copy_(start["u"].repeat(1, halves, 1))
        embedding.prefix_task_rows.copy_(start["v"])
    arrays = {n: torch.tensor(a).long().to(device) for n, a in problem.tokens(folder).items()}
    return model, {
        "input_ids": arrays["inputs"], "attention_mask": torch.ones_like(arrays["inputs"]),
        "labels": arrays["targets"], "task_ids": arrays["tasks"],
    }  # fmt: skip


def device_of(torch) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(torch) -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
