"""The guide's own method, (IA)^3, against PEFT's on transformers' T5: forward and gradient."""

import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from mpt_jax.methods.registry import method_named
from mpt_jax.models.formats.hf_names import hf_tensor
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.user_modules import load_modules

NEEDS_PARITY = "needs the `parity` extra (torch, transformers and peft)"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=NEEDS_PARITY)
    transformers = pytest.importorskip("transformers", reason=NEEDS_PARITY)
    peft = pytest.importorskip("peft", reason=NEEDS_PARITY)

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
EXAMPLE = Path(__file__).parents[2] / "examples" / "ia3.py"


@pytest.fixture
def method(config, own_methods):
    load_modules([EXAMPLE], "method")
    return method_named("ia3").build(name="ia3", members=1, tasks=1, length=1, config=config)


@pytest.mark.parametrize("version", ["v1_0", "v1_1"], indirect=True)
def test_peft_computes_the_same(method, config, backbone, batch, draw, loss_of, tmp_path):
    save_backbone(tmp_path, config, backbone)
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
    model = peft.get_peft_model(
        model,
        peft.IA3Config(
            task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wo"], feedforward_modules=["wo"]
        ),
    ).eval()
    params = draw(method.shapes(), 5)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    theirs = {}
    for name, scale in params.items():
        layer = hf_tensor(name.replace("/scale", "/kernel")).name.removesuffix(".weight")
        theirs[name] = named.pop(f"base_model.model.{layer}.ia3_l.default")
        theirs[name].data.copy_(torch.tensor(scale).reshape(theirs[name].shape))
    assert not named
    inputs, decoder_inputs, targets = (
        torch.tensor(np.array(batch[name])).long()
        for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    )
    logits = model(
        input_ids=inputs, attention_mask=(inputs != 0).long(), decoder_input_ids=decoder_inputs
    ).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=0, reduction="sum"
    )
    loss.backward()
    (ours, our_logits), gradients = jax.jit(jax.value_and_grad(loss_of(method), has_aux=True))(
        params
    )
    np.testing.assert_allclose(ours, loss.item(), rtol=3e-5)
    np.testing.assert_allclose(our_logits, logits.detach().numpy(), atol=1e-4)
    for name, gradient in gradients.items():
        expected = theirs[name].grad.numpy().flatten()
        tolerance = 3e-5 * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, atol=tolerance, rtol=0, err_msg=name)
