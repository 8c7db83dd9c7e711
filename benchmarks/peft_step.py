"""PEFT's multitask prompt tuning on the benchmarks' model: the same weights, start and batch."""

from pathlib import Path

import problem
from turns import Prepared


def train(folder: str, submodules: int | None) -> Prepared:
    """One step: loss, gradient of the prompt's parameters, AdamW.

    Args:
        submodules: 1 puts the prompt before the encoder alone, as MPT does and as we do; None is PEFT's
            default, which puts as many slots before the decoder too.
    """
    import torch
    from peft import MultitaskPromptTuningConfig, TaskType, get_peft_model

    device = device_of(torch)
    start = {name: torch.tensor(a) for name, a in problem.prompt(folder).items()}
    config = MultitaskPromptTuningConfig(
        task_type=TaskType.SEQ_2_SEQ_LM, prompt_tuning_init="RANDOM", num_ranks=1,
        num_tasks=len(start["u"]), num_virtual_tokens=len(start["shared"]),
        num_transformer_submodules=submodules,
    )  # fmt: skip
    model = get_peft_model(open_model(folder), config).to(device).train()
    embedding = model.prompt_encoder["default"]
    halves = embedding.embedding.weight.shape[0] // len(start["shared"])
    with torch.no_grad():
        embedding.embedding.weight.copy_(start["shared"].repeat(halves, 1))
        embedding.prefix_task_cols.copy_(start["u"].repeat(1, halves, 1))
        embedding.prefix_task_rows.copy_(start["v"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.3, weight_decay=0.0)
    arrays = {n: torch.tensor(a).long().to(device) for n, a in problem.tokens(folder).items()}
    batch = {
        "input_ids": arrays["inputs"], "attention_mask": torch.ones_like(arrays["inputs"]),
        "labels": arrays["targets"], "task_ids": arrays["tasks"],
    }  # fmt: skip

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


def open_model(folder: str | Path):
    import torch
    from transformers import T5ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = T5ForConditionalGeneration.from_pretrained(Path(folder) / "model", dtype=torch.float32)
    # A model whose output layer is tied to its embeddings would be another one than ours.
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    return model.requires_grad_(False)


def device_of(torch) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(torch) -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
