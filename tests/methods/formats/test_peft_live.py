"""Adapters to and from the real PEFT: same logits, same generations, same numbers.

The model is a tiny random T5 that transformers reads from the folder that `save_backbone` writes.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.methods.bank import Bank
from mpt_jax.methods.formats import peft as peft_form
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_file import PromptFile
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models.decoding import greedy_decode
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.t5 import PAD_ID, T5Config, Transformer, init_params

NEEDS_PARITY = "needs the `parity` extra (torch, transformers and peft)"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=NEEDS_PARITY)
    transformers = pytest.importorskip("transformers", reason=NEEDS_PARITY)
    peft = pytest.importorskip("peft", reason=NEEDS_PARITY)

# PEFT 0.21 asks transformers for a property that transformers 5.24 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

K, P, R, D, V = 3, 4, 2, 16, 40
SIZES = dict(vocab_size=V, emb_dim=D, num_heads=2, head_dim=6, mlp_dim=24)
DEPTHS = dict(num_encoder_layers=2, num_decoder_layers=2)
CONFIGS = {
    "v1_0": T5Config(**SIZES, **DEPTHS, mlp_activations=("relu",), logits_via_embedding=True),
    "v1_1": T5Config(**SIZES, **DEPTHS, mlp_activations=("gelu", "linear")),
}
INPUTS = np.array([[5, 9, 12, 31, 7, 3, 1], [8, 30, 4, 1, 0, 0, 0]], np.int32)
LABELS = np.array([[6, 14, 3, 9], [22, 9, 8, 1]], np.int32)
DECODER_INPUTS = np.pad(LABELS[:, :-1], [(0, 0), (1, 0)])
DECODED = 8


@pytest.fixture(scope="module", params=CONFIGS, ids=str)
def backbone(request, tmp_path_factory):
    """(network, parameters, folder); weights large enough that prompts change what is generated."""
    config = CONFIGS[request.param]
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(3))
    params = jax.tree.map(lambda leaf: leaf * 1.5, params)
    folder = tmp_path_factory.mktemp("models") / request.param
    save_backbone(folder, config, params)
    return Transformer(config), params, folder


def torch_t5(folder):
    return transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()


def ours(backbone, method, prompts: PromptFile, k: int):
    """Our network's logits and greedy decoding with task k's prompt."""
    network, params, _ = backbone
    bank = Bank((method,), V)
    reader = bank.reader(
        {method.name: {name: jnp.asarray(a)[None] for name, a in prompts.arrays.items()}}
    )
    virtual = np.tile(bank.virtual_ids(0, 0, k), (len(INPUTS), 1))
    tokens = np.concatenate([virtual, INPUTS], axis=1)
    logits = network.apply(
        {"params": params}, jnp.asarray(tokens), jnp.asarray(DECODER_INPUTS), embed=reader
    )
    return np.asarray(logits), greedy_decode(network, params, tokens, DECODED, embed=reader)


def theirs(model, **task_ids):
    """PEFT's logits and greedy generation."""
    inputs = torch.tensor(INPUTS).long()
    batch = {"input_ids": inputs, "attention_mask": (inputs != PAD_ID).long(), **task_ids}
    with torch.no_grad():
        # With one submodule PEFT's MPT does not hand decoder_input_ids on; labels it does.
        logits = model(**batch, labels=torch.tensor(LABELS).long()).logits
        ids = model.generate(**batch, max_new_tokens=DECODED, do_sample=False).numpy()[:, 1:]
    ids = np.pad(ids, ((0, 0), (0, DECODED - ids.shape[1])))
    behind_end = np.cumsum(ids == 1, axis=1) - (ids == 1) > 0
    return logits.numpy(), np.where(behind_end, PAD_ID, ids)


def test_an_exported_mpt_file_works_in_peft_as_here(backbone, make_prompts, tmp_path):
    method = MPT(members=1, tasks=K, length=P, width=D, rank=R)
    prompts = make_prompts("mpt", ("a", "b", "c"), length=P, width=D)
    peft_form.write(prompts, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(torch_t5(backbone[2]), tmp_path / "adapter").eval()
    assert isinstance(model, peft.PeftModelForSeq2SeqLM)
    generated = []
    for k in range(K):
        logits, ids = theirs(model, task_ids=torch.tensor([k]))
        our_logits, our_ids = ours(backbone, method, prompts, k)
        np.testing.assert_allclose(our_logits, logits, atol=1e-4, rtol=0)
        np.testing.assert_array_equal(our_ids, ids)
        generated.append(ids.tolist())
    assert generated[0] != generated[1] or generated[1] != generated[2]  # the task does matter


def test_an_exported_plain_prompt_works_in_peft_as_here(backbone, make_prompts, tmp_path):
    method = PromptTuning(members=1, tasks=2, length=P, width=D)
    prompts = make_prompts("prompt_tuning", ("a", "b"), length=P, width=D)
    peft_form.write(prompts, tmp_path / "adapters", base_model=str(backbone[2]))
    for k, task in enumerate("ab"):
        folder = tmp_path / "adapters" / task
        model = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(folder).eval()
        logits, ids = theirs(model)
        our_logits, our_ids = ours(backbone, method, prompts, k)
        np.testing.assert_allclose(our_logits, logits, atol=1e-4, rtol=0)
        np.testing.assert_array_equal(our_ids, ids)


@pytest.mark.parametrize("submodules", [1, 2])
@pytest.mark.parametrize("multitask", [True, False], ids=["mpt", "prompt_tuning"])
def test_what_peft_writes_is_read_and_written_back(tmp_path, submodules, multitask):
    model = _fresh_model()
    settings = dict(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P, num_transformer_submodules=submodules
    )
    if multitask:
        config = peft.MultitaskPromptTuningConfig(num_tasks=K, num_ranks=R, **settings)
    else:
        config = peft.PromptTuningConfig(**settings)
    model = peft.get_peft_model(model, config)
    encoder = model.prompt_encoder["default"]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path / "theirs")
    prompts = peft_form.read(tmp_path / "theirs")
    assert len(prompts.metadata.task_names) == (K if multitask else 1)
    assert any("only the encoder's are taken" in note for note in prompts.notes) == (
        submodules == 2
    )
    for k, task in enumerate(prompts.metadata.task_names):
        task_ids = torch.tensor([k]) if multitask else None
        with torch.no_grad():
            expected = model.get_prompt(batch_size=1, task_ids=task_ids)[0, :P].numpy()
        np.testing.assert_allclose(prompts.prompt(task), expected, atol=1e-6, rtol=0)
    # And back: the encoder's numbers bit for bit.
    peft_form.write(prompts, tmp_path / "back")
    again = _tensors(tmp_path / "back")
    for name, array in _tensors(tmp_path / "theirs").items():
        if array.shape[-2] == P * submodules and name != "prefix_task_rows":
            array = array[..., :P, :]
        assert np.array_equal(again.pop(name), array), name
    assert not again
    loaded = peft.PeftModel.from_pretrained(_fresh_model(), tmp_path / "back")
    assert loaded.peft_config["default"].num_transformer_submodules == 1


def test_an_adapter_in_torchs_own_file_is_read(tmp_path):
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P)
    model = peft.get_peft_model(_fresh_model(), config)
    model.save_pretrained(tmp_path / "old", safe_serialization=False)
    model.save_pretrained(tmp_path / "new")
    old, new = (peft_form.read(tmp_path / name) for name in ("old", "new"))
    assert not list((tmp_path / "old").glob("*.safetensors"))
    assert np.array_equal(old.prompt(), new.prompt())


def _fresh_model():
    config = transformers.T5Config(
        vocab_size=V, d_model=D, num_heads=2, d_kv=6, d_ff=24, num_layers=1
    )
    return transformers.T5ForConditionalGeneration(config)


def _tensors(folder):
    import safetensors.numpy

    return safetensors.numpy.load_file(folder / "adapter_model.safetensors")
