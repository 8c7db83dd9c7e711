"""Our T5 against what transformers' torch T5 computed (recorded by record_reference.py)."""

from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.models.beam_search import beam_decode
from mpt_jax.models.decoding import greedy_decode
from mpt_jax.models.t5 import PAD_ID, Transformer

TOLERANCE = 3e-5  # Of the largest value.


def assert_close(got, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(got) / scale, expected / scale, atol=TOLERANCE)


@pytest.fixture
def reference(version):
    with np.load(Path(__file__).parent / "reference" / f"{version}.npz") as file:
        return dict(file)


def summed_cross_entropy(logits, targets):
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(log_probs, targets[:, :, None], axis=2)[:, :, 0]
    return -jnp.sum(jnp.where(targets != PAD_ID, chosen, 0.0))


def test_logits_and_loss(config, params, batch, reference):
    logits = jax.jit(Transformer(config).apply)(
        {"params": params}, jnp.asarray(batch["inputs"]), jnp.asarray(batch["decoder_inputs"])
    )
    assert_close(logits, reference["logits"])
    assert_close(summed_cross_entropy(logits, jnp.asarray(batch["targets"])), reference["loss"])


def test_gradients_of_parameters(config, params, batch, reference, recorded_gradients):
    def loss(params):
        logits = Transformer(config).apply(
            {"params": params}, jnp.asarray(batch["inputs"]), jnp.asarray(batch["decoder_inputs"])
        )
        return summed_cross_entropy(logits, jnp.asarray(batch["targets"]))

    gradients = flax.traverse_util.flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")
    for path in recorded_gradients:
        assert_close(gradients[path], reference[f"gradient {path}"])


def test_gradient_of_input_embeddings_through_virtual_tokens(config, params, batch, reference):
    inputs = jnp.asarray(batch["inputs"])
    slots = jnp.arange(inputs.size, dtype=jnp.int32).reshape(inputs.shape)
    virtual = jnp.where(inputs == PAD_ID, PAD_ID, config.vocab_size + slots)

    def loss(embedded):
        def embed(ids, words):
            slots = embedded.reshape(-1, config.emb_dim)[ids - config.vocab_size]
            return jnp.where((ids >= config.vocab_size)[..., None], slots, words)

        logits = Transformer(config).apply(
            {"params": params},
            virtual,
            jnp.asarray(batch["decoder_inputs"]),
            embed=embed,
        )
        return summed_cross_entropy(logits, jnp.asarray(batch["targets"]))

    embedded = params["token_embedder"]["embedding"][inputs]
    value, gradient = jax.jit(jax.value_and_grad(loss))(embedded)
    assert_close(value, reference["loss"])
    assert_close(gradient, reference["gradient inputs"])


def test_decoded_tokens(config, params, batch, reference):
    network = Transformer(config)
    length = reference["greedy"].shape[1]
    greedy = greedy_decode(network, params, batch["inputs"], length)
    np.testing.assert_array_equal(greedy, reference["greedy"])
    beam = beam_decode(network, params, batch["inputs"], length, beams=3, alpha=0.7, rules="hf")
    np.testing.assert_array_equal(beam, reference["beam"])
