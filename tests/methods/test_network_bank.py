"""A fleet of a method that changes the network is its members one by one, trained or decoding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mpt_jax import partitioning
from mpt_jax.errors import UserError
from mpt_jax.methods.method import member
from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.methods.network_method import NetworkMethod, linear_layers, norms, residual_sums
from mpt_jax.methods.registry import METHODS
from mpt_jax.models import t5
from mpt_jax.models.decoding import greedy_decode, start_decoding
from mpt_jax.models.edits import LOGITS, Edits, edited
from mpt_jax.models.forward import Applied, forward

M, ROWS, T, L, V = 4, 4, 5, 4, 32
SIZES = dict(
    vocab_size=V, emb_dim=8, num_heads=2, head_dim=3, mlp_dim=12, num_encoder_layers=1,
    num_decoder_layers=1,
)  # fmt: skip
CONFIGS = {
    "tied": t5.T5Config(**SIZES, mlp_activations=("relu",), logits_via_embedding=True),
    "untied": t5.T5Config(**SIZES),
}
KINDS = sorted(kind for kind, method in METHODS.items() if issubclass(method, NetworkMethod))


@pytest.fixture(autouse=True)
def quick_compilation():
    """These tests compile far longer than they compute."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def build(kind, config):
    return METHODS[kind].build(name=kind, members=M, tasks=1, length=1, config=config)


@functools.cache
def weights_of(config):
    return jax.jit(t5.init_params, static_argnums=0)(config, jax.random.key(0))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def method(kind):
    return build(kind, CONFIGS["untied"])


@pytest.fixture
def backbone():
    return weights_of(CONFIGS["untied"])


def moved(method, backbone, scale=0.3):
    """Parameters of a fleet, all different and away from where they start."""
    params = jax.tree.map(np.asarray, method.init(jax.random.key(1), backbone))
    random = np.random.default_rng(2)
    noise = {n: scale * random.standard_normal(a.shape) for n, a in params.items()}
    return {method.name: {n: jnp.asarray(a + noise[n], jnp.float32) for n, a in params.items()}}


def make_batch(seed=0, rows=M * ROWS):
    random = np.random.default_rng(seed)
    tokens = random.integers(2, V, (rows, T)).astype(np.int32)
    tokens[::3, -2:] = 0
    targets = random.integers(2, V, (rows, L)).astype(np.int32)
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    batch = {"encoder_input_tokens": tokens, "decoder_input_tokens": inputs}
    return {name: jnp.asarray(array) for name, array in batch.items()}


def rows_of(batch, m, rows=ROWS):
    return {name: array[m * rows : (m + 1) * rows] for name, array in batch.items()}


def logits_of(bank, params, backbone, batch):
    network = t5.Transformer(bank.method.config)
    return jax.jit(lambda p, w, b: bank.logits(network, p, w, b))(params, backbone, batch)


def test_a_fleet_starts_as_the_backbone(method, backbone):
    bank, batch = NetworkBank(method), make_batch()
    params = {method.name: method.init(jax.random.key(1), backbone)}
    bank.check(params)
    network = t5.Transformer(method.config)
    plain = jax.jit(lambda w: forward(network, w, batch)[0])(backbone)
    np.testing.assert_allclose(
        logits_of(bank, params, backbone, batch), plain, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("layout", ["no mesh", "members", "rows", "neither"])
def test_logits_are_those_of_the_members_one_by_one(method, backbone, layout):
    """Members laid over `data` where they divide, else their rows, else whole."""
    shape, rows = {"members": ((4, 2), ROWS), "rows": ((8, 1), 8), "neither": ((8, 1), 2)}.get(
        layout, (None, ROWS)
    )
    mesh = None if shape is None else partitioning.make_mesh(shape)
    params, batch = moved(method, backbone), make_batch(rows=M * rows)
    alone = NetworkBank(dataclasses.replace(method, members=1))
    expected = [
        logits_of(
            alone, {method.name: {n: a[m : m + 1] for n, a in params[method.name].items()}},
            backbone, rows_of(batch, m, rows),
        )
        for m in range(M)
    ]  # fmt: skip
    distance = [np.abs(expected[0] - other).max() for other in expected[1:]]
    assert min(distance) > 1e-2 or rows != ROWS  # else mixing members up would not show
    if mesh is not None:
        batch = partitioning.shard_batch(mesh, jax.tree.map(np.asarray, batch))
        params, backbone = partitioning.place((params, backbone), partitioning.replicated(mesh))
    found = logits_of(NetworkBank(method, mesh), params, backbone, batch)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_gradients_of_a_member_come_from_its_own_rows(method, backbone):
    bank, batch = NetworkBank(method), make_batch()
    network = t5.Transformer(method.config)

    def loss(params):
        own = bank.logits(network, params, backbone, batch)[ROWS : 2 * ROWS]  # member 1's
        return jnp.sum(jnp.square(own))

    gradients = jax.jit(jax.grad(loss))(moved(method, backbone))[method.name]
    for name, gradient in gradients.items():
        assert not np.any(np.delete(np.asarray(gradient), 1, axis=0)), name
    assert all(np.any(gradient[1]) for gradient in gradients.values())


@pytest.mark.parametrize("version", CONFIGS)
def test_decoding_steps_give_the_logits_of_the_whole_network(kind, version):
    """The cache, and keys and values that are made once, are edited as the whole network is."""
    config = CONFIGS[version]
    method, backbone = build(kind, config), weights_of(config)
    bank, batch = NetworkBank(method), rows_of(make_batch(), 0)
    applied = bank.applied(bank.select(moved(method, backbone), 2), backbone)

    @jax.jit
    def by_steps(applied, tokens, inputs):
        with edited(applied.edits):
            step, cache = start_decoding(config, applied.weights, tokens, None, L)
            logits = []
            for position in range(L):
                found, cache = step(inputs[:, position], jnp.int32(position), cache)
                logits.append(found)
        return jnp.stack(logits, axis=1)

    @jax.jit
    def at_once(applied, batch):
        network = t5.Transformer(config)
        return forward(network, applied.weights, batch, edits=applied.edits)[0]

    expected = at_once(applied, batch)
    found = by_steps(applied, batch["encoder_input_tokens"], batch["decoder_input_tokens"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    unchanged = at_once(Applied(backbone), batch)
    assert np.abs(expected - unchanged).max() > 0.1
    tokens = batch["encoder_input_tokens"]
    written = greedy_decode(t5.Transformer(config), applied.weights, tokens, 1, None, applied.edits)
    np.testing.assert_array_equal(written[:, 0], np.argmax(expected[:, 0], axis=-1))


def test_recomputing_changes_no_number(method, backbone):
    def gradients(config):
        changed = dataclasses.replace(method, config=config)
        bank, network = NetworkBank(changed), t5.Transformer(config)
        loss = lambda p: jnp.mean(jnp.square(bank.logits(network, p, backbone, make_batch())))  # noqa: E731
        return jax.jit(jax.grad(loss))(moved(changed, backbone))

    found = gradients(dataclasses.replace(method.config, remat="full"))
    expected = gradients(method.config)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, expected
    )


def test_half_precision_activations_leave_the_trained_numbers_whole(method, backbone):
    config = dataclasses.replace(method.config, dtype="bfloat16")
    half = dataclasses.replace(method, config=config)
    frozen = jax.tree.map(lambda a: a.astype(jnp.bfloat16), backbone)
    params = half.init(jax.random.key(1), frozen)
    assert {a.dtype.name for a in params.values()} == {"float32"}
    network, bank = t5.Transformer(config), NetworkBank(half)
    loss = lambda p: jnp.sum(bank.logits(network, p, frozen, make_batch()))  # noqa: E731
    gradients = jax.jit(jax.grad(loss))({half.name: params})
    assert {a.dtype.name for a in jax.tree.leaves(gradients)} == {"float32"}


@pytest.mark.parametrize("version", CONFIGS)
def test_edits_see_every_layer_once_with_its_own_path(version):
    """Under the paths of the parameters, so that a method can name a layer by what is stored."""
    config, seen = CONFIGS[version], []
    backbone = weights_of(config)

    class Watch:
        def edit(self, params, path, inputs, outputs):
            seen.append((path, inputs.shape[-1], outputs.shape[-1]))
            return outputs

    with edited(Edits({}, Watch())):
        forward(t5.Transformer(config), backbone, rows_of(make_batch(), 0))
    expected = [(path, *widths) for path, widths in linear_layers(config).items()]
    same_width = (*norms(config), *residual_sums(config))
    expected += [(path, config.emb_dim, config.emb_dim) for path in same_width]
    expected += [(LOGITS, config.emb_dim, V)]
    assert sorted(seen) == sorted(expected)
    stored = set(flatten_dict(backbone, sep="/"))
    assert {f"{path}/kernel" for path in linear_layers(config)} <= stored
    assert {f"{path}/scale" for path in norms(config)} <= stored


def test_parameters_of_another_fleet_are_refused(method, backbone):
    bank, params = NetworkBank(method), moved(method, backbone)
    bank.check(params)
    with pytest.raises(ValueError, match="4 members"):
        bank.check({method.name: {n: a[:3] for n, a in params[method.name].items()}})
    with pytest.raises(ValueError, match=method.kind):
        bank.check({"other": params[method.name]})
    arrays = member(params[method.name], 0)
    method.check_shapes(arrays, "a file")
    name = next(iter(arrays))
    with pytest.raises(UserError, match=f"a file does not fit {method.kind}"):
        method.check_shapes({**arrays, name: arrays[name][..., :-1]}, "a file")


def test_stacked_layers_are_refused(kind):
    with pytest.raises(UserError, match="scan_layers = False"):
        build(kind, dataclasses.replace(CONFIGS["untied"], scan_layers=True))
