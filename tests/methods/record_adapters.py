"""Records what AdapterHub's `adapters` computes on T5 with adapters: `python record_adapters.py`.

`adapters` 1.3 needs transformers 4.57, which the `parity` extra does not have: run this in an
environment of its own, with mpt_jax and `adapters`. Writes `reference/adapters_<case>.npz`, which
test_adapter.py reads: logits, the loss (cross-entropy summed over target tokens), and the gradients of
all of the adapters' parameters by our names.
"""

import tempfile
from pathlib import Path

import adapters
import numpy as np
import torch
import transformers
from conftest import CONFIGS, DECODER_INPUTS, INPUTS, TARGETS, seeded, seeded_backbone

from mpt_jax.methods.adapter import Adapter
from mpt_jax.models.formats.hf_writer import save_backbone

FOLDER = Path(__file__).parent / "reference"
REDUCTION = 4
# Name -> (version, our options, AdapterHub's configuration, its name of an activation of ours).
CASES = {
    f"{placement}_{version}": (version, placement, activation, kind, theirs)
    for version in ("v1_0", "v1_1")
    for placement, activation, kind, theirs in (
        ("houlsby", "gelu", adapters.DoubleSeqBnConfig, "gelu_new"),
        ("pfeiffer", "relu", adapters.SeqBnConfig, "relu"),
    )
}
PARTS = {"down/kernel": "adapter_down.0.weight", "down/bias": "adapter_down.0.bias",
         "up/kernel": "adapter_up.weight", "up/bias": "adapter_up.bias"}  # fmt: skip


def their_name(name: str) -> str:
    """AdapterHub's name of a parameter of ours."""
    stack, layer, place, _, *part = name.split("/")
    sublayer = 0 if "attention" in place else {"encoder": 1, "decoder": 2}[stack]
    block = f"{stack}.block.{layer.removeprefix('layers_')}.layer.{sublayer}"
    return f"{block}.adapters.ours.{PARTS['/'.join(part[-2:])]}"


def record(case: str) -> dict[str, np.ndarray]:
    version, placement, activation, kind, theirs = CASES[case]
    config = CONFIGS[version]
    method = Adapter(
        members=1, tasks=1, config=config, placement=placement, activation=activation,
        reduction=REDUCTION, train_norms=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(folder, config, seeded_backbone(config), overwrite=True)
        model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    adapters.init(model)
    model.add_adapter("ours", config=kind(reduction_factor=REDUCTION, non_linearity=theirs))
    model.train_adapter("ours")
    model.eval()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    values = seeded(method.shapes(), 7)
    assert len(named) == len(values), (sorted(named), sorted(values))
    ours = {name: named[their_name(name)] for name in values}
    for name, array in values.items():
        ours[name].data.copy_(torch.tensor(array.T.copy()))
    logits = model(
        input_ids=torch.tensor(INPUTS).long(),
        attention_mask=torch.tensor(INPUTS != 0).long(),
        decoder_input_ids=torch.tensor(DECODER_INPUTS).long(),
    ).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        torch.tensor(TARGETS).long().flatten(),
        ignore_index=0,
        reduction="sum",
    )
    loss.backward()
    found = {"logits": logits, "loss": loss}
    recorded = {name: value.detach().numpy() for name, value in found.items()}
    recorded |= {f"gradient {name}": tensor.grad.numpy().T for name, tensor in ours.items()}
    return {name: value.astype(np.float32) for name, value in recorded.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        recorded = record(case)
        np.savez_compressed(FOLDER / f"adapters_{case}.npz", **recorded)
        print(case, recorded["loss"], len(recorded))
