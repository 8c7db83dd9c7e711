"""Methods that change the network, on a backbone in int8."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mpt_jax.errors import UserError
from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.registry import METHODS
from mpt_jax.models.t5 import Transformer
from mpt_jax.models.weight_precision import kept

ON_INT8 = [
    kind
    for kind, method in METHODS.items()
    if issubclass(method, NetworkMethod) and not method.trains_kernels
]


@pytest.fixture
def version():
    return "v1_0"


@pytest.fixture
def in_int8(config):
    return dataclasses.replace(config, weights="int8")


def int8_and_floats(backbone, config):
    """The tree in int8, and the float32 tree that it stands for."""
    narrow, wide = {}, {}
    for path, leaf in flatten_dict(backbone, sep="/").items():
        parts = {
            name: jnp.asarray(part) for name, part in kept(path, np.asarray(leaf), config).items()
        }
        narrow |= parts
        wide[path] = parts[path].astype(jnp.float32)
        if len(parts) == 2:
            scale = parts[f"{path}_scale"]
            wide[path] *= scale[None] if path.endswith("kernel") else scale[:, None]
    return unflatten_dict(narrow, sep="/"), unflatten_dict(wide, sep="/")


@pytest.mark.parametrize("kind", ON_INT8)
def test_a_fleet_computes_what_it_does_on_the_floats(kind, config, in_int8, backbone, batch, draw):
    def gradients(config, weights):
        method = METHODS[kind].build(name=kind, members=2, tasks=1, length=1, config=config)
        bank = NetworkBank(method)
        start = method.init(jax.random.key(0), weights)
        noise = draw({n: (2, *shape) for n, shape in method.shapes().items()}, 5, scale=0.1)
        params = {kind: {name: start[name] + noise[name] for name in start}}

        def loss(params):
            logits = bank.logits(Transformer(config), params, weights, batch)
            return jnp.mean(jnp.square(logits)), logits

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    narrow, wide = int8_and_floats(backbone, in_int8)
    found, expected = gradients(in_int8, narrow), gradients(config, wide)
    for ours, theirs in zip(found, expected, strict=True):
        # Of the largest number of all: the biases of keys change nothing, and their gradient is noise.
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
        assert largest > 0
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


def test_whole_weights_are_refused(in_int8):
    with pytest.raises(UserError, match="full trains the weights themselves"):
        METHODS["full"].build(name="full", members=1, tasks=1, length=1, config=in_int8)
