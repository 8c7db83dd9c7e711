"""Records what transformers' T5 computes on the seeded models: `python record_reference.py`.

Needs the `parity` extra. Writes `reference/<version>.npz`, which test_t5_parity_recorded.py reads:
logits, the loss (cross-entropy summed over target tokens), its gradients, and decoded tokens.
"""

from pathlib import Path

import numpy as np
import torch
from conftest import (
    CONFIGS,
    DECODER_INPUTS,
    INPUTS,
    TARGETS,
    gradients_to_record,
    seeded_params,
    torch_model,
)

from mpt_jax.models.formats.hf_names import hf_tensor

FOLDER = Path(__file__).parent / "reference"
DECODED_LENGTH = 8


def record(version: str) -> dict[str, np.ndarray]:
    config = CONFIGS[version]
    model = torch_model(config, seeded_params(config))
    inputs = torch.tensor(INPUTS).long()
    mask = (inputs != 0).long()
    embedded = model.shared(inputs).detach().requires_grad_()
    logits = model(
        inputs_embeds=embedded,
        attention_mask=mask,
        decoder_input_ids=torch.tensor(DECODER_INPUTS).long(),
    ).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        torch.tensor(TARGETS).long().flatten(),
        ignore_index=0,
        reduction="sum",
    )
    loss.backward()
    outputs = {"logits": logits, "loss": loss, "gradient inputs": embedded.grad}
    named = dict(model.named_parameters())
    for path in gradients_to_record(config):
        tensor = hf_tensor(path)
        gradient = named[tensor.name].grad
        outputs[f"gradient {path}"] = gradient.T if tensor.transposed else gradient
    recorded = {k: v.detach().numpy().astype(np.float32) for k, v in outputs.items()}
    for name, settings in (
        ("greedy", {}),
        ("beam", {"num_beams": 3, "length_penalty": 0.7, "early_stopping": "never"}),
    ):
        tokens = model.generate(
            inputs, attention_mask=mask, max_new_tokens=DECODED_LENGTH, do_sample=False, **settings
        )[:, 1:]
        tokens = torch.nn.functional.pad(tokens, (0, DECODED_LENGTH - tokens.shape[1]))
        behind_end = torch.cumsum(tokens == 1, dim=1) - (tokens == 1).long() > 0
        tokens = tokens.masked_fill(behind_end, 0)  # transformers' beams are filled up with EOS.
        recorded[name] = tokens.numpy().astype(np.int32)
    return recorded


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for version in CONFIGS:
        recorded = record(version)
        np.savez_compressed(FOLDER / f"{version}.npz", **recorded)
        print(version, {name: values.shape for name, values in recorded.items()})
        print(recorded["greedy"], recorded["beam"], sep="\n")
