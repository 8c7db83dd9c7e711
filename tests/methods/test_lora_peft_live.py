"""LoRA against PEFT's on transformers' T5, and the exports: adapter folders, whole models."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mpt_jax.errors import UserError
from mpt_jax.methods.formats import hf_model
from mpt_jax.methods.formats import peft as peft_form
from mpt_jax.methods.formats.peft_lora import tensors
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.methods.registry import method_named
from mpt_jax.models.fingerprint import fingerprint
from mpt_jax.models.formats.hf_names import hf_tensor
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.t5 import init_params

NEEDS_PARITY = "needs the `parity` extra (torch, transformers and peft)"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=NEEDS_PARITY)
    transformers = pytest.importorskip("transformers", reason=NEEDS_PARITY)
    peft = pytest.importorskip("peft", reason=NEEDS_PARITY)

# PEFT 0.21 asks transformers 5.24 for an attribute's old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

every_version = pytest.mark.parametrize("version", ["v1_0", "v1_1"], indirect=True)
ALL = ("query", "key", "value", "out", "wo")


@pytest.fixture
def version(request) -> str:
    return getattr(request, "param", "v1_1")


@pytest.fixture
def folder(config, backbone, tmp_path):
    save_backbone(tmp_path / "t5", config, backbone)
    (tmp_path / "t5" / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    return tmp_path / "t5"


@pytest.fixture
def make_file(config, backbone, draw, tmp_path):
    """make_file(kind, **options): (method, prompt file with numbers away from the start)."""

    def make(kind, **options):
        method = method_named(kind).build(
            name=kind, members=1, tasks=1, length=1, config=config, **options
        )
        start = method.init_member(jax.random.key(0), backbone)
        noise = draw(method.shapes(), 5, scale=0.1 if kind == "full" else 0.5)
        path = save_prompt_file(
            tmp_path / f"{kind}.safetensors", {n: a + noise[n] for n, a in start.items()},
            kind=kind, task_names=("a",), backbone_fingerprint=fingerprint(backbone),
            backbone_name="tiny", vocabulary_fingerprint="cccc", settings=method.settings,
        )  # fmt: skip
        return method, load_prompt_file(path)

    return make


def torch_t5(folder):
    return transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()


def torch_loss(model, batch):
    """The loss summed over target tokens, and the logits."""
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
    return loss, logits


def assert_same(ours, theirs, what="", tolerance=3e-5):
    theirs = theirs.detach().numpy()
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, rtol=0, err_msg=what)


def value_and_gradients(loss, params):
    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return value, logits, gradients


@every_version
@pytest.mark.parametrize("targets, rank, alpha", [(("query", "value"), 4, 8.0), (ALL, 2, 3.0)])
def test_peft_computes_the_same(make_file, folder, batch, loss_of, tmp_path, targets, rank, alpha):
    method, file = make_file("lora", targets=targets, rank=rank, alpha=alpha)
    peft_form.write(file, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(
        torch_t5(folder), tmp_path / "adapter", is_trainable=True
    )
    loss, logits = torch_loss(model.eval(), batch)
    loss.backward()
    ours, our_logits, gradients = value_and_gradients(loss_of(method), file.arrays)
    assert_same(ours, loss)
    assert_same(our_logits, logits)
    named = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    theirs = {name: named.pop(their_name) for name, their_name in zip(
        file.arrays, tensors(file), strict=True
    )}  # fmt: skip
    assert not named
    for name, gradient in gradients.items():
        assert_same(gradient, theirs[name].T, name)


@every_version
def test_what_peft_writes_is_read_and_written_back(config, folder, batch, loss_of, tmp_path):
    settings = peft.LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=6, target_modules=["q", "v", "wo"]
    )
    model = peft.get_peft_model(torch_t5(folder), settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    model.eval().save_pretrained(tmp_path / "theirs")
    file = peft_form.read(tmp_path / "theirs")
    assert file.metadata.settings == {
        "rank": 3, "alpha": 6.0, "targets": ["query", "value", "wo"]
    }  # fmt: skip
    method = file.method(config=config)
    method.check_shapes(file.arrays, "theirs")
    _, logits = jax.jit(loss_of(method))(file.arrays)
    assert_same(logits, torch_loss(model, batch)[1])
    peft_form.write(file, tmp_path / "back")
    again = peft_form.read(tmp_path / "back")
    assert all(np.array_equal(again.arrays[name], array) for name, array in file.arrays.items())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"use_rslora": True}, "only plain LoRA"),
        ({"r": 5}, "r is 5"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"rank_pattern": {"q": 1}}, "rank_pattern"),
    ],
)
def test_other_kinds_of_lora_are_refused(make_file, tmp_path, changes, message):
    _, file = make_file("lora")
    peft_form.write(file, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        peft_form.read(tmp_path / "adapter")


@every_version
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_whole_model_computes_the_same(make_file, folder, batch, loss_of, tmp_path, kind):
    method, file = make_file(kind)
    hf_model.write(file, tmp_path / "model", str(folder))
    loss, logits = torch_loss(torch_t5(tmp_path / "model"), batch)
    ours, our_logits = jax.jit(loss_of(method))(file.arrays)
    assert_same(ours, loss)
    assert_same(our_logits, logits)
    assert (tmp_path / "model" / "tokenizer_config.json").is_file()
    with pytest.raises(UserError, match="model"):
        hf_model.write(file, tmp_path / "model", str(folder))


@pytest.mark.parametrize("kind", ["adapter", "bitfit"])
def test_what_cannot_be_exported_says_so(make_file, folder, tmp_path, kind):
    _, file = make_file(kind)
    with pytest.raises(UserError, match="no plain T5 computes the same; mpt infer"):
        hf_model.write(file, tmp_path / "model", str(folder))
    with pytest.raises(UserError, match=f"no adapter for the method {kind}"):
        peft_form.write(file, tmp_path / "adapter")
    assert not (tmp_path / "model").exists() and not (tmp_path / "adapter").exists()


def test_a_whole_model_needs_the_backbone_of_the_file(make_file, config, folder, tmp_path, draw):
    _, file = make_file("lora")
    with pytest.raises(UserError, match="--backbone=FOLDER"):
        hf_model.write(file, tmp_path / "model")
    save_backbone(tmp_path / "other", config, init_params(config, jax.random.key(5)))
    with pytest.raises(UserError, match="fingerprint"):
        hf_model.write(file, tmp_path / "model", str(tmp_path / "other"))
    assert not (tmp_path / "model").exists()


@every_version
def test_full_fine_tuning_has_torchs_gradients(make_file, folder, batch, loss_of):
    method, file = make_file("full")
    model = torch_t5(folder)
    named = dict(model.named_parameters())
    places = {path: hf_tensor(path) for path in file.arrays}
    for path, place in places.items():
        if place.name not in named:
            continue
        array = file.arrays[path]
        named[place.name].data.copy_(torch.tensor(np.array(array.T if place.transposed else array)))
    if method.config.logits_via_embedding is False:
        model.lm_head.weight = torch.nn.Parameter(
            torch.tensor(file.arrays["decoder/logits_dense/kernel"].T.copy())
        )
        named["lm_head.weight"] = model.lm_head.weight
    loss, _ = torch_loss(model, batch)
    loss.backward()
    ours, _, gradients = value_and_gradients(loss_of(method), file.arrays)
    assert_same(ours, loss)
    for path, gradient in gradients.items():
        theirs = named[places[path].name].grad
        theirs = theirs.T if places[path].transposed else theirs
        assert_same(gradient, theirs, path, tolerance=1e-4)  # as in test_t5_parity_live.py


@every_version
def test_bitfit_is_t5_with_biases(make_file, folder, batch, loss_of):
    """Biases put behind torch's layers by hooks, at the places where ATTEMPT has them."""
    method, file = make_file("bitfit")
    model = torch_t5(folder)
    biases = {}

    def behind(bias):
        return lambda module, inputs, output: output + bias

    for name, array in file.arrays.items():
        path = name.removesuffix("/bias")
        weight = "/scale" if "norm" in path else "/kernel"
        module = model.get_submodule(hf_tensor(path + weight).name.removesuffix(".weight"))
        biases[name] = torch.nn.Parameter(torch.tensor(array))
        module.register_forward_hook(behind(biases[name]))
    loss, logits = torch_loss(model, batch)
    loss.backward()
    ours, our_logits, gradients = value_and_gradients(loss_of(method), file.arrays)
    assert_same(ours, loss)
    assert_same(our_logits, logits)
    largest = max(float(bias.grad.abs().max()) for bias in biases.values())
    for name, gradient in gradients.items():  # those of keys are zero but for rounding
        np.testing.assert_allclose(
            gradient, biases[name].grad.numpy(), atol=1e-5 * largest, rtol=0, err_msg=name
        )


def test_flat_paths_are_those_of_the_backbone(make_file, backbone):
    _, file = make_file("full")
    assert set(file.arrays) == set(flatten_dict(backbone, sep="/"))
    assert all(jnp.asarray(array).dtype == jnp.float32 for array in file.arrays.values())
