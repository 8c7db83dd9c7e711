"""Tiny T5 backbones and methods' parameters with numbers from a seed, the same wherever they are made."""

from collections.abc import Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.forward import forward
from mpt_jax.models.t5 import Transformer
from mpt_jax.models.t5_config import T5Config
from mpt_jax.training.losses import token_cross_entropy

SIZES = dict(vocab_size=32, emb_dim=16, num_heads=2, head_dim=6, mlp_dim=24)
DEPTHS = dict(num_encoder_layers=2, num_decoder_layers=2)
CONFIGS = {
    "v1_0": T5Config(**SIZES, **DEPTHS, mlp_activations=("relu",), logits_via_embedding=True),
    "v1_1": T5Config(**SIZES, **DEPTHS),
    "umt5": T5Config(**SIZES, **DEPTHS, relpos_per_layer=True),
}
INPUTS = np.array(
    [[5, 9, 12, 31, 7, 3, 1], [8, 30, 4, 1, 0, 0, 0], [2, 2, 11, 23, 1, 0, 0], [6, 1] + 5 * [0]],
    np.int32,
)
TARGETS = np.array([[6, 14, 3, 1], [22, 1, 0, 0], [9, 5, 17, 28], [4, 3, 1, 0]], np.int32)
DECODER_INPUTS = np.concatenate([np.zeros((4, 1), np.int32), TARGETS[:, :-1]], axis=1)


def seeded(shapes: Mapping[str, tuple[int, ...]], seed: int, scale: float = 1.0) -> dict:
    """Arrays of usual scales; numpy's RandomState never changes its stream."""
    stream = np.random.RandomState(seed)
    arrays = {}
    for name, shape in sorted(shapes.items()):
        noise = scale * stream.standard_normal(shape)
        if len(shape) > 1 and not name.endswith("embedding"):
            noise *= 1.5 / np.sqrt(shape[0])
        if name.endswith("/query/kernel"):
            noise /= 4  # T5's heads are not scaled otherwise
        arrays[name] = (1 + 0.2 * noise if name.endswith("/scale") else noise).astype(np.float32)
    return arrays


def seeded_backbone(config: T5Config) -> dict:
    flat = {k: jnp.asarray(v) for k, v in seeded(parameter_shapes(config), 3).items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


@pytest.fixture(autouse=True)
def quick_compilation():
    """These tests compile far longer than they compute."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(params=CONFIGS, ids=str)
def version(request) -> str:
    return request.param


@pytest.fixture
def config(version) -> T5Config:
    return CONFIGS[version]


@pytest.fixture
def backbone(config) -> dict:
    return seeded_backbone(config)


@pytest.fixture
def draw():
    """draw(shapes, seed): numbers for a method's parameters."""
    return seeded


@pytest.fixture
def batch() -> dict:
    return {
        "encoder_input_tokens": jnp.asarray(INPUTS),
        "decoder_input_tokens": jnp.asarray(DECODER_INPUTS),
        "decoder_target_tokens": jnp.asarray(TARGETS),
        "decoder_loss_weights": jnp.asarray(TARGETS != 0, jnp.float32),
    }


@pytest.fixture
def configs() -> dict[str, T5Config]:
    return CONFIGS


@pytest.fixture
def backbones():
    """backbones(version): its weights."""
    return lambda version: seeded_backbone(CONFIGS[version])


@pytest.fixture
def loss_of(batch):
    """loss_of(method)(one member's parameters): the loss summed over target tokens, and the logits."""

    def of(method):
        bank = NetworkBank(method)
        backbone = seeded_backbone(method.config)

        def loss(params):
            applied = bank.applied(params, backbone)
            network = Transformer(method.config)
            logits, _ = forward(network, applied.weights, batch, edits=applied.edits)
            losses = token_cross_entropy(logits, batch["decoder_target_tokens"])
            return jnp.sum(losses * batch["decoder_loss_weights"]), logits

        return loss

    return of
