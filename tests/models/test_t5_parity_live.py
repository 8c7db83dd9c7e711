"""Our T5 against transformers' torch T5, computed side by side on random inputs."""

import warnings

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.models.beam_search import beam_decode
from mpt_jax.models.decoding import greedy_decode
from mpt_jax.models.formats.hf_names import hf_tensor
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.relative_position import relative_position_buckets
from mpt_jax.models.t5 import PAD_ID, Transformer

NEEDS_PARITY = "needs the `parity` extra (torch and transformers)"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=NEEDS_PARITY)
    transformers = pytest.importorskip("transformers", reason=NEEDS_PARITY)

BATCH, INPUTS, TARGETS, DECODED = 4, 150, 9, 12  # Inputs reach the last, open relative bucket.


@pytest.fixture
def tokens():
    stream = np.random.RandomState(5)
    inputs = stream.randint(1, 32, size=(BATCH, INPUTS)).astype(np.int32)
    for row, length in enumerate((INPUTS, 3, 77, 140)):
        inputs[row, length:] = PAD_ID
    targets = stream.randint(1, 32, size=(BATCH, TARGETS)).astype(np.int32)
    return inputs, np.concatenate([np.zeros((BATCH, 1), np.int32), targets[:, :-1]], 1), targets


def torch_logits(model, inputs, decoder_inputs):
    return model(
        input_ids=torch.tensor(inputs).long(),
        attention_mask=torch.tensor(inputs != PAD_ID).long(),
        decoder_input_ids=torch.tensor(decoder_inputs).long(),
    ).logits


def test_logits_and_gradients(config, params, make_torch_model, tokens):
    inputs, decoder_inputs, targets = tokens
    model = make_torch_model(config, params)
    logits = torch_logits(model, inputs, decoder_inputs)
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets).long().flatten()
    )
    loss.backward()

    def ours(params):
        logits = Transformer(config).apply(
            {"params": params}, jnp.asarray(inputs), jnp.asarray(decoder_inputs)
        )
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.take_along_axis(log_probs, jnp.asarray(targets)[:, :, None], axis=2)
        return -jnp.mean(chosen), logits

    gradients, our_logits = jax.jit(jax.grad(ours, has_aux=True))(params)
    np.testing.assert_allclose(our_logits, logits.detach().numpy(), atol=1e-4)
    named = dict(model.named_parameters())
    for path, gradient in flax.traverse_util.flatten_dict(gradients, sep="/").items():
        tensor = hf_tensor(path)
        expected = named[tensor.name].grad.numpy()
        expected = expected.T if tensor.transposed else expected
        tolerance = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, atol=tolerance, rtol=0, err_msg=path)


@pytest.mark.parametrize("beams, alpha", [(1, None), (4, 0.0), (4, 1.0)])
def test_decoded_tokens(config, params, make_torch_model, tokens, beams, alpha):
    inputs = tokens[0]
    model = make_torch_model(config, params)
    settings = {}
    if beams > 1:
        settings = {"num_beams": beams, "length_penalty": alpha, "early_stopping": "never"}
    theirs = model.generate(
        torch.tensor(inputs).long(),
        attention_mask=torch.tensor(inputs != PAD_ID).long(),
        max_new_tokens=DECODED,
        do_sample=False,
        **settings,
    ).numpy()[:, 1:]
    theirs = np.pad(theirs, ((0, 0), (0, DECODED - theirs.shape[1])))
    network = Transformer(config)
    if beams == 1:
        ours = greedy_decode(network, params, inputs, DECODED)
    else:
        ours = beam_decode(network, params, inputs, DECODED, beams=beams, alpha=alpha, rules="hf")
    behind_end = np.cumsum(theirs == 1, axis=1) - (theirs == 1) > 0
    np.testing.assert_array_equal(ours, np.where(behind_end, PAD_ID, theirs))


def test_transformers_reads_our_folder(config, params, tokens, tmp_path):
    save_backbone(tmp_path, config, params)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    inputs, decoder_inputs, _ = tokens
    theirs = torch_logits(model, inputs, decoder_inputs).detach().numpy()
    ours = jax.jit(Transformer(config).apply)(
        {"params": params}, jnp.asarray(inputs), jnp.asarray(decoder_inputs)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (16, 100)])
def test_relative_position_buckets(bidirectional, buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-300, 301, dtype=np.int32)[None]
    theirs = T5Attention._relative_position_bucket(
        torch.tensor(distance).long(), bidirectional, buckets, max_distance
    )
    ours = relative_position_buckets(
        jnp.asarray(distance),
        bidirectional=bidirectional,
        num_buckets=buckets,
        max_distance=max_distance,
    )
    np.testing.assert_array_equal(ours, theirs.numpy())
