"""The closed form against XLA's own count on unrolled networks."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from mpt_jax.models.t5 import T5Config, Transformer, init_params
from mpt_jax.planning.matmul_flops import Shape, attention_flops, backward_flops, forward_flops

SHAPE = Shape(rows=4, inputs=96, targets=48)
# Wide, so that what is no matrix product counts for little.
V1_1 = T5Config(
    vocab_size=512, emb_dim=512, num_heads=2, head_dim=128, mlp_dim=1024, num_encoder_layers=2,
    num_decoder_layers=3,
)  # fmt: skip
V1_0 = dataclasses.replace(V1_1, mlp_activations=("relu",), logits_via_embedding=True)
TOLERANCE = 0.01


def counted(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("config", [V1_1, V1_0], ids=["v1.1", "v1.0"])
def test_against_xla(config):
    network = Transformer(config)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    inputs = jax.ShapeDtypeStruct((SHAPE.rows, SHAPE.inputs), jnp.int32)
    targets = jax.ShapeDtypeStruct((SHAPE.rows, SHAPE.targets), jnp.int32)
    embedded = jax.ShapeDtypeStruct((SHAPE.rows, SHAPE.inputs, config.emb_dim), jnp.float32)

    def loss(params, embedded, inputs, targets):
        logits = network.apply(
            {"params": params}, inputs, targets, embed=lambda ids, words: words + embedded
        )
        return jnp.sum(jnp.square(logits))

    arguments = params, embedded, inputs, targets
    forward, backward = forward_flops(config, SHAPE), backward_flops(config, SHAPE)
    whole = backward_flops(config, SHAPE, of_weights=True)
    assert counted(loss, *arguments) == pytest.approx(forward, rel=TOLERANCE)
    found = counted(jax.grad(loss, argnums=1), *arguments)
    assert found == pytest.approx(forward + backward, rel=TOLERANCE)
    found = counted(jax.grad(loss), *arguments)
    assert found == pytest.approx(forward + whole, rel=TOLERANCE)


def test_the_tolerance_tells_what_needs_no_gradient():
    """With a gradient through the first self-attention and its like, the count would be off."""
    whole = backward_flops(V1_1, SHAPE, of_weights=True)
    weights = forward_flops(V1_1, SHAPE) - attention_flops(V1_1, SHAPE)
    found = forward_flops(V1_1, SHAPE) + backward_flops(V1_1, SHAPE)
    assert forward_flops(V1_1, SHAPE) + whole - weights > (1 + 2 * TOLERANCE) * found
