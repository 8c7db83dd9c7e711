"""Small T5 models with weights from a seed: the same numbers here and in the recorded reference."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.models.formats.hf_config import to_hf_config
from mpt_jax.models.formats.hf_names import hf_tensor
from mpt_jax.models.t5 import T5Config, init_params

SEED = 8  # With it some decoded rows end early, and beams differ from greedy, in both versions.
# H * head_dim differs from D on purpose, and the stacks differ in depth.
SIZES = dict(vocab_size=32, emb_dim=16, num_heads=2, head_dim=6, mlp_dim=24)
# transformers 5.23 cannot decode with more decoder than encoder layers: its cache is too short.
DEPTHS = dict(num_encoder_layers=3, num_decoder_layers=2)
CONFIGS = {
    "v1_0": T5Config(**SIZES, **DEPTHS, mlp_activations=("relu",), logits_via_embedding=True),
    "v1_1": T5Config(**SIZES, **DEPTHS, mlp_activations=("gelu", "linear")),
    "umt5": T5Config(**SIZES, **DEPTHS, relpos_per_layer=True),
}
# Three inputs with padding behind the shorter ones, and their targets.
INPUTS = np.array(
    [[5, 9, 12, 31, 7, 3, 1], [8, 30, 4, 1, 0, 0, 0], [2, 2, 11, 23, 1, 0, 0]], np.int32
)
TARGETS = np.array([[6, 14, 3, 1, 0], [22, 1, 0, 0, 0], [9, 5, 17, 28, 1]], np.int32)
DECODER_INPUTS = np.concatenate([np.zeros((3, 1), np.int32), TARGETS[:, :-1]], axis=1)

# Parameters whose gradients are recorded: one of each kind, early and late.
SHARED_POSITIONS = ("encoder/relpos_bias/rel_embedding", "decoder/relpos_bias/rel_embedding")
# Not of the decoder's last layer: its gradient is 0.17 beside the 2.7 of the first, and float32 rounds it by
# 4e-5 of itself. The live comparison covers every layer, to 1e-4.
OWN_POSITIONS = (
    "encoder/layers_2/relpos_bias/rel_embedding",
    "decoder/layers_0/relpos_bias/rel_embedding",
)
RECORDED_GRADIENTS = (
    "encoder/layers_0/attention/query/kernel",
    "encoder/layers_2/mlp/wo/kernel",
    "decoder/layers_0/encoder_decoder_attention/value/kernel",
    "decoder/layers_1/pre_mlp_layer_norm/scale",
)


def gradients_to_record(config: T5Config) -> tuple[str, ...]:
    return RECORDED_GRADIENTS + (OWN_POSITIONS if config.relpos_per_layer else SHARED_POSITIONS)


@functools.cache
def seeded_params(config: T5Config) -> dict:
    """Unrolled weights of T5's usual scales; numpy's RandomState never changes its stream."""
    stream = np.random.RandomState(SEED)
    abstract = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    flat = flax.traverse_util.flatten_dict(abstract, sep="/")
    weights = {}
    for path, leaf in sorted(flat.items()):
        noise = stream.standard_normal(leaf.shape)
        if path.endswith("/scale"):
            noise = 1.0 + 0.2 * noise
        elif path.endswith("/kernel"):
            noise *= 2.0 / np.sqrt(leaf.shape[0])  # With less, tied models repeat one token.
        if path.endswith("/query/kernel"):
            noise /= 2.0 * np.sqrt(config.head_dim)
        weights[path] = jnp.asarray(noise, jnp.float32)
    return flax.traverse_util.unflatten_dict(weights, sep="/")


def torch_model(config: T5Config, params: dict):
    """transformers' T5 on the same weights."""
    import torch
    import transformers

    values = to_hf_config(config, "float32")
    model_class = getattr(transformers, values["architectures"][0])
    model = model_class(model_class.config_class(**values))
    if not config.logits_via_embedding:
        # transformers 5 ties the output layer of every new model, whatever the config says.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    named = dict(model.named_parameters())
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        tensor = hf_tensor(path)
        values = np.array(leaf).T if tensor.transposed else np.array(leaf)
        named[tensor.name].data.copy_(torch.tensor(np.ascontiguousarray(values)))
    return model.eval()


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
def params(config) -> dict:
    return seeded_params(config)


@pytest.fixture
def batch() -> dict:
    return {"inputs": INPUTS, "targets": TARGETS, "decoder_inputs": DECODER_INPUTS}


@pytest.fixture
def make_params():
    return seeded_params


@pytest.fixture
def make_torch_model():
    return torch_model


@pytest.fixture
def recorded_gradients(config) -> tuple[str, ...]:
    return gradients_to_record(config)


@pytest.fixture
def reading(config):
    """reading(bank): what reads virtual tokens from the rows of `bank` [N, D]."""

    def of(bank):
        def embed(ids, words):
            virtual = ids >= config.vocab_size
            rows = jnp.where(virtual, ids - config.vocab_size, 0)
            return jnp.where(virtual[..., None], bank[rows], words)

        return embed

    return of
