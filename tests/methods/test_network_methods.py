"""What holds for every method that changes the network, whichever the registry has."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mpt_jax.errors import UserError
from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.methods.registry import METHODS
from mpt_jax.models.beam_search import beam_decode
from mpt_jax.models.choice_scoring import score_choices
from mpt_jax.models.decoding import _decode, greedy_decode
from mpt_jax.models.forward import forward
from mpt_jax.models.t5 import Transformer
from mpt_jax.models.t5_sizes import size_named

NETWORK_METHODS = {k: v for k, v in METHODS.items() if issubclass(v, NetworkMethod)}
# Beside each method as it is by default: settings that take other ways through it.
OPTIONS = {
    "adapter": [{"placement": "pfeiffer", "activation": "relu", "train_norms": False}],
    "lora": [{"targets": ("out", "wo"), "rank": 3, "alpha": 5.0}],
}
CASES = {
    f"{kind}{number or ''}": (kind, options)
    for kind in NETWORK_METHODS
    for number, options in enumerate([{}, *OPTIONS.get(kind, [])])
}


def build(case, config, members=1):
    kind, options = CASES[case]
    return NETWORK_METHODS[kind].build(
        name=kind, members=members, tasks=1, length=1, config=config, **options
    )


every_version = pytest.mark.parametrize("version", ["v1_0", "v1_1", "umt5"], indirect=True)


@pytest.fixture
def version(request) -> str:
    return getattr(request, "param", "v1_1")


@pytest.fixture
def config(configs, version):
    """Of one layer a stack: these tests compile a lot."""
    return dataclasses.replace(configs[version], num_encoder_layers=1, num_decoder_layers=1)


@pytest.fixture(params=CASES, ids=str)
def case(request) -> str:
    return request.param


@pytest.fixture
def method(case, config):
    return build(case, config)


@pytest.fixture
def away(method, backbone, draw):
    """Parameters away from the start."""
    start = method.init_member(jax.random.key(0), backbone)
    noise = draw(method.shapes(), 5, scale=0.3)
    return {
        name: array * noise[name] if name.endswith("/scale") else array + noise[name]
        for name, array in start.items()
    }


def run(method, params, backbone, batch, *, network=None, rng=None):
    return _logits(network or Transformer(method.config), method, params, backbone, batch, rng)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(network, method, params, backbone, batch, rng):
    applied = NetworkBank(method).applied(params, backbone)
    return forward(network, applied.weights, batch, edits=applied.edits, rng=rng)[0]


@functools.partial(jax.jit, static_argnums=0)
def plain(config, backbone, batch):
    return forward(Transformer(config), backbone, batch)[0]


def value_and_gradients(loss, params):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@every_version
def test_the_start_is_the_backbone(method, backbone, batch):
    start = method.init_member(jax.random.key(0), backbone)
    got = run(method, start, backbone, batch)
    np.testing.assert_array_equal(got, plain(method.config, backbone, batch))


def test_a_start_draws_from_its_key_alone(method, backbone):
    one, again, other = (method.init_member(jax.random.key(s), backbone) for s in (0, 0, 1))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    drawn = any(not np.array_equal(one[name], other[name]) for name in one)
    assert drawn == (method.kind in ("adapter", "lora"))


def test_shapes_count_and_groups(method, backbone):
    start = method.init_member(jax.random.key(0), backbone)
    assert {name: array.shape for name, array in start.items()} == method.shapes()
    assert all(array.dtype == jnp.float32 for array in start.values())
    assert method.count() == sum(array.size for array in start.values())
    assert method.default_groups() == ((".*", "weights"),)


@every_version
def test_every_parameter_is_trained(method, away, loss_of):
    _, gradients = value_and_gradients(loss_of(method), away)
    assert set(gradients) == set(method.shapes())
    largest = {name: np.abs(gradient).max() for name, gradient in gradients.items()}
    still = {name for name, value in largest.items() if value < 1e-5 * max(largest.values())}
    # A bias of all keys shifts each query's scores alike, which softmax does not see.
    assert still == {name for name in largest if name.endswith("key/bias")}


def test_gradients_at_the_start_move_it(method, backbone, loss_of):
    start = method.init_member(jax.random.key(0), backbone)
    _, gradients = value_and_gradients(loss_of(method), start)
    moved = [name for name, gradient in gradients.items() if np.abs(gradient).max() > 0]
    assert len(moved) >= len(gradients) // 4


def test_a_fleet_is_its_members(case, config, backbone, batch, draw):
    method = build(case, config, members=2)
    bank = NetworkBank(method)
    members = [method.init_member(jax.random.key(0), backbone)] * 2
    noises = [draw(method.shapes(), seed, scale=0.3) for seed in (5, 6)]
    members = [
        {n: a + noise[n] for n, a in member.items()}
        for member, noise in zip(members, noises, strict=True)
    ]
    stacked = {method.name: {n: jnp.stack([m[n] for m in members]) for n in members[0]}}
    bank.check(stacked)
    # Compiled, as the members alone are: one operation at a time rounds otherwise.
    logits = jax.jit(bank.logits, static_argnums=0)
    together = logits(Transformer(config), stacked, backbone, batch)
    for m, rows in enumerate((slice(0, 2), slice(2, 4))):
        part = {name: array[rows] for name, array in batch.items()}
        alone = run(method, members[m], backbone, part)
        np.testing.assert_allclose(together[rows], alone, atol=2e-5)


@every_version
def test_decoding_follows_the_forward_pass(method, away, backbone, batch):
    """Greedy search, token by token from the cache, says what the whole network says."""
    inputs, network = batch["encoder_input_tokens"], Transformer(method.config)
    applied = NetworkBank(method).applied(away, backbone)
    decoded = np.asarray(greedy_decode(network, applied.weights, inputs, 4, None, applied.edits))
    shifted = np.concatenate([np.zeros((len(decoded), 1), np.int32), decoded[:, :-1]], axis=1)
    logits = run(method, away, backbone, {**batch, "decoder_input_tokens": jnp.asarray(shifted)})
    best = np.argmax(np.asarray(logits), axis=-1)
    np.testing.assert_array_equal(best[decoded != 0], decoded[decoded != 0])
    plainly = np.asarray(greedy_decode(network, backbone, inputs, 4))
    assert not np.array_equal(decoded, plainly)


def test_new_parameters_compile_nothing(method, away, backbone, batch):
    inputs, network = batch["encoder_input_tokens"], Transformer(method.config)
    sizes = []
    for factor in (1.0, 0.5):
        params = {name: factor * array for name, array in away.items()}
        applied = NetworkBank(dataclasses.replace(method)).applied(params, backbone)
        greedy_decode(network, applied.weights, inputs, 4, None, applied.edits)
        sizes.append(_decode._cache_size())
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_rematerialising_changes_no_number(method, away, backbone, batch, loss_of, remat):
    again = dataclasses.replace(method, config=dataclasses.replace(method.config, remat=remat))
    (loss, logits), gradients = value_and_gradients(loss_of(method), away)
    (same, same_logits), same_gradients = value_and_gradients(loss_of(again), away)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    np.testing.assert_allclose(logits, same_logits, atol=1e-5)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, same_gradients[name], atol=1e-5 * largest, rtol=0)


def deviation(got, expected):
    return np.abs(got - expected).mean() / np.abs(expected).mean()


def test_bfloat16_and_dropout(method, away, backbone, batch):
    config = dataclasses.replace(method.config, dtype="bfloat16", dropout_rate=0.3)
    half = dataclasses.replace(method, config=config)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), backbone)
    exact = run(method, away, backbone, batch)
    near = run(half, away, rounded, batch)
    assert near.dtype == jnp.float32
    # Rounding costs it about what it costs the backbone alone.
    rough, fine = plain(config, rounded, batch), plain(method.config, backbone, batch)
    assert deviation(near, exact) < 3 * deviation(rough, fine) < 0.5
    network = Transformer(config, deterministic=False)
    dropped = [
        run(half, away, rounded, batch, network=network, rng=jax.random.key(s)) for s in (0, 0, 1)
    ]
    assert np.array_equal(dropped[0], dropped[1]) and not np.array_equal(dropped[0], dropped[2])


def test_choices_are_scored_with_it(method, away, backbone, batch):
    inputs, network = batch["encoder_input_tokens"], Transformer(method.config)
    choices = np.array([[6, 14, 1], [22, 1, 0]], np.int32)
    applied = NetworkBank(method).applied(away, backbone)
    scores = score_choices(network, applied.weights, inputs, choices, None, applied.edits)
    for c, choice in enumerate(choices):
        row = np.tile(np.concatenate([[0], choice[:-1]]).astype(np.int32), (len(inputs), 1))
        logits = run(method, away, backbone, {**batch, "decoder_input_tokens": jnp.asarray(row)})
        log_probs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
        expected = sum(log_probs[:, t, token] for t, token in enumerate(choice) if token)
        np.testing.assert_allclose(np.asarray(scores)[:, c], expected, atol=1e-4)


def test_a_file_holds_all_of_it(method, away, tmp_path, config):
    params = {method.name: {name: jnp.asarray(array)[None] for name, array in away.items()}}
    path = save_prompt_file(
        tmp_path / "x.safetensors", method.export(params[method.name], 0), kind=method.kind,
        task_names=("a", "b"), backbone_fingerprint="aaaa", backbone_name="tiny",
        vocabulary_fingerprint="cccc", settings=method.settings,
    )  # fmt: skip
    file = load_prompt_file(path, expect_width=config.emb_dim)
    again = file.method(config=config)
    assert dataclasses.replace(again, name=method.name, tasks=1) == method
    assert hash(again) is not None
    again.check_shapes(file.arrays, "x")
    assert all(np.array_equal(file.arrays[name], array) for name, array in away.items())
    assert file.take(["b"]).metadata.task_names == ("b",)
    with pytest.raises(UserError, match="no prompts of its own"):
        file.prompt("a")
    # A small header apart, the file is its parameters.
    assert path.stat().st_size < 4 * method.count() + 300 * len(away) + 20_000


def test_arrays_of_another_shape_are_named(method, away):
    name = sorted(away)[0]
    for wrong in (
        {**away, name: np.zeros((3, 3), np.float32)},
        {n: a for n, a in away.items() if n != name},
        {**away, "more": np.zeros(1, np.float32)},
    ):
        with pytest.raises(UserError, match=f"x does not fit {method.kind}"):
            method.check_shapes(wrong, "x")


def test_merged_weights_compute_the_same(method, away, backbone, batch):
    flat = flatten_dict(backbone, sep="/")
    try:
        merged = {path: method.merge(away, path, np.asarray(array)) for path, array in flat.items()}
    except UserError as error:
        assert method.kind in str(error) and method.kind in ("adapter", "bitfit")
        return
    merged = unflatten_dict(merged, sep="/")
    got = plain(method.config, merged, batch)
    np.testing.assert_allclose(got, run(method, away, backbone, batch), atol=1e-4)
    inputs, network = batch["encoder_input_tokens"], Transformer(method.config)
    applied = NetworkBank(method).applied(away, backbone)
    beams = beam_decode(network, applied.weights, inputs, 4, None, applied.edits)
    np.testing.assert_array_equal(beams, beam_decode(network, merged, inputs, 4))
    assert not np.array_equal(beams, beam_decode(network, backbone, inputs, 4))


def test_scanned_backbones_are_refused(case, config):
    with pytest.raises(UserError, match="scan_layers = False"):
        build(case, dataclasses.replace(config, scan_layers=True))


@pytest.mark.parametrize(
    "kind, size, count",
    [
        ("full", "t5-base", 222_903_552),
        ("full", "t5-v1_1-base", 247_577_856),
        ("bitfit", "t5-base", 280_932 + 28),  # 32,128 output biases where ATTEMPT has 32,100
        ("bitfit", "t5-large", 695_652 + 28),
        ("bitfit", "t5-v1_1-base", 24 * (2 * 2048 + 768) + 36 * 4 * 768 + 60 * 768 + 32_128),
        ("lora", "t5-base", 36 * 2 * 8 * (768 + 768)),
        ("lora", "t5-v1_1-xl", 72 * 2 * 8 * (2048 + 2048)),
    ],
)
def test_published_sizes(kind, size, count):
    assert (
        NETWORK_METHODS[kind](name=kind, members=1, tasks=1, config=size_named(size)).count()
        == count
    )
