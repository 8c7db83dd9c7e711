"""Weights in int8 and bfloat16: rounded as said, loaded as wanted, and right in every way through them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mpt_jax.models.decoding import greedy_decode
from mpt_jax.models.fingerprint import fingerprint
from mpt_jax.models.formats.hf_folder import HuggingFaceWeights
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.formats.loading import load
from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.layer_stacking import unstack_layers
from mpt_jax.models.t5 import T5Config, Transformer
from mpt_jax.models.weight_precision import (
    SCALE,
    count_weights,
    is_quantised,
    kept,
    product,
    quantise,
    widened,
)
from mpt_jax.partitioning import fetch, make_mesh


def with_weights(config, weights="int8", **more):
    return dataclasses.replace(config, weights=weights, **more)


def kept_tree(params, config):
    """The tree as loading makes it, on the default device."""
    flat = {}
    for path, leaf in flatten_dict(params, sep="/").items():
        flat |= kept(path, np.asarray(leaf), config)
    return unflatten_dict({path: jnp.asarray(part) for path, part in flat.items()}, sep="/")


def float_tree(tree):
    """The float32 weights that a kept tree stands for."""
    modules = flatten_dict(tree, sep="/")
    wide = {}
    for path in modules:
        if not path.endswith(SCALE):
            module, _, name = path.rpartition("/")
            own = {
                n: modules[f"{module}/{n}"]
                for n in (name, name + SCALE)
                if f"{module}/{n}" in modules
            }
            wide[path] = jnp.asarray(widened(own, name)) if is_quantised(path) else modules[path]
    return unflatten_dict(wide, sep="/")


@pytest.fixture
def prompt(config):
    return jnp.asarray(np.random.RandomState(1).standard_normal((3, config.emb_dim)), jnp.float32)


@pytest.fixture
def with_prompt(config, batch):
    ids = np.broadcast_to(np.arange(3, dtype=np.int32) + config.vocab_size, (3, 3))
    return {**batch, "inputs": np.concatenate([ids, batch["inputs"]], axis=1)}


@pytest.fixture
def gradient(reading, with_prompt):
    """gradient(config, params, prompt): logits, and the prompt's gradient of a loss on them."""

    @functools.partial(jax.jit, static_argnums=0)
    def of(config, params, prompt):
        def loss(prompt):
            logits = Transformer(config).apply(
                {"params": params}, jnp.asarray(with_prompt["inputs"]),
                jnp.asarray(with_prompt["decoder_inputs"]),
                embed=reading(prompt),
            )  # fmt: skip
            picked = jnp.take_along_axis(
                jax.nn.log_softmax(logits), with_prompt["targets"][..., None], axis=-1
            )
            return -jnp.sum(picked), logits

        found, logits = jax.grad(loss, has_aux=True)(prompt)
        return logits, found

    return of


@pytest.mark.parametrize("channels", [0, 1])
def test_no_number_is_moved_by_more_than_half_a_step(channels):
    stream = np.random.RandomState(0)
    spread = 10.0 ** stream.uniform(-30, 30, (40, 30))
    values = (stream.standard_normal((40, 30)) * spread).astype(np.float32)
    integers, scale = quantise(values, channels)
    assert integers.dtype == np.int8 and scale.dtype == np.float32
    assert scale.shape == (values.shape[channels],)
    by_number = np.expand_dims(scale.astype(np.float64), 1 - channels)
    assert np.all(np.abs(integers * by_number - values) <= 0.5001 * by_number)
    assert np.all(np.abs(integers).max(axis=1 - channels) == 127)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 3e38])
def test_channels_of_nothing_of_subnormals_and_of_the_largest_numbers(largest):
    values = np.array([[largest, -largest], [0.0, 1.0]], np.float32)
    integers, scale = quantise(values, 0)
    np.testing.assert_allclose(
        integers * scale[:, None].astype(np.float64), values, atol=1e-37, rtol=1e-6
    )


def test_what_is_quantised(config):
    settings = with_weights(config)
    shapes = parameter_shapes(settings)
    plain = parameter_shapes(config)
    assert {path: shape for path, shape in shapes.items() if not path.endswith(SCALE)} == plain
    floats = {path.rpartition("/")[2] for path in plain if f"{path}{SCALE}" not in shapes}
    assert floats == {"scale", "rel_embedding"}
    assert shapes["encoder/layers_0/mlp/wo/kernel_scale"] == (config.emb_dim,)
    assert shapes["token_embedder/embedding_scale"] == (config.vocab_size,)


@pytest.mark.parametrize("mesh_shape", [(8, 1), (4, 2)])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_onto_a_mesh(config, params, tmp_path, mesh_shape, scan_layers):
    save_backbone(tmp_path, config, params)
    wanted = with_weights(config, scan_layers=scan_layers)
    loaded = load(HuggingFaceWeights(tmp_path), wanted, make_mesh(mesh_shape))
    found = fetch(unstack_layers(loaded.params))
    jax.tree.map(np.testing.assert_array_equal, found, fetch(kept_tree(params, wanted)))
    assert loaded.stored == fingerprint(params)
    assert loaded.placed == fingerprint(loaded.params, fetch) != loaded.stored
    assert count_weights(loaded.params) == count_weights(params)
    mlp = unstack_layers(loaded.params)["encoder"]["layers_1"]["mlp"]["wi"
        if len(config.mlp_activations) == 1 else "wi_0"]  # fmt: skip
    assert mlp["kernel"].dtype == jnp.int8
    assert mlp["kernel"].sharding.shard_shape((16, 24)) == (16, 24 // mesh_shape[1])
    assert mlp["kernel_scale"].sharding.shard_shape((24,)) == (24 // mesh_shape[1],)


@pytest.mark.parametrize(
    ("weights", "form"),
    [("int8", "plain"), ("int8", "scanned"), ("int8", "rematerialised"), ("int8", "on eight devices"),
     ("bfloat16", "plain")],
)  # fmt: skip
def test_the_same_as_the_float_weights_that_they_stand_for(
    config, params, prompt, gradient, tmp_path, weights, form
):
    """Logits and the prompt's gradient; the way back is another product than the way there."""
    save_backbone(tmp_path, config, params)
    more = {"scanned": {"scan_layers": True}, "rematerialised": {"remat": "full"}}.get(form, {})
    wanted = with_weights(config, weights, **more)
    mesh = make_mesh((4, 2)) if form == "on eight devices" else make_mesh((1, 1), jax.devices()[:1])
    given = load(HuggingFaceWeights(tmp_path), wanted, mesh).params
    exact = float_tree(kept_tree(params, with_weights(config, weights)))
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), exact)
    for found, expected in zip(
        gradient(wanted, given, prompt), gradient(config, exact, prompt), strict=True
    ):
        assert found.dtype == expected.dtype == jnp.float32
        tolerance = 2e-5 * float(np.abs(expected).max())
        np.testing.assert_allclose(fetch(found), expected, rtol=2e-5, atol=tolerance)


def test_decoding(config, params, prompt, reading, with_prompt):
    wanted = with_weights(config)
    given = kept_tree(params, wanted)
    exact = float_tree(given)
    tokens = with_prompt["inputs"]
    found = greedy_decode(Transformer(wanted), given, tokens, 5, reading(prompt))
    expected = greedy_decode(Transformer(config), exact, tokens, 5, reading(prompt))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("inward", [0, 1])
def test_a_batched_product_shares_its_kernel(inward):
    """As fleets of network methods call it; a kernel for each member would be their number times as large."""
    x = jnp.asarray(np.random.RandomState(0).standard_normal((5, 2, 3, 8)), jnp.float32)
    integers, scale = quantise(
        np.random.RandomState(1).standard_normal((8, 4)).astype(np.float32), 1
    )
    kernel = jnp.asarray(integers if inward == 0 else integers.T)
    call = functools.partial(product, kernel=kernel, scale=jnp.asarray(scale), inward=inward)
    np.testing.assert_allclose(jax.vmap(call)(x), x @ (integers * scale), rtol=1e-5, atol=1e-5)
    text = str(jax.make_jaxpr(jax.vmap(call))(x))
    assert "f32[8,4]" in text or "f32[4,8]" in text
    assert "f32[5,8,4]" not in text and "f32[5,4,8]" not in text


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("teacher", [False, True])
def test_no_float_copy_of_all_weights(scan_layers, teacher):
    """On the way back, and beside a second pass, kernels are widened anew, one by one."""
    jax.config.update("jax_disable_most_optimizations", False)  # of the package's tests
    config = T5Config(
        vocab_size=64, emb_dim=128, num_heads=2, head_dim=64, mlp_dim=512, num_encoder_layers=6,
        num_decoder_layers=6, scan_layers=scan_layers,
    )  # fmt: skip
    ids = jax.ShapeDtypeStruct((2, 8), np.int32)
    prompt = jax.ShapeDtypeStruct((2, 8, 128), np.float32)

    def loss(prompt, params, ids, network):
        run = functools.partial(network.apply, {"params": params}, ids, ids)
        logits = run(embed=lambda ids, words: words + prompt)
        return jnp.mean((logits - (run() if teacher else 0.0)) ** 2)

    def planned(config):
        network = Transformer(config)
        params = jax.eval_shape(
            lambda: network.init(
                jax.random.key(0), jnp.ones((1, 2), jnp.int32), jnp.ones((1, 2), jnp.int32)
            )
        )["params"]
        step = jax.jit(jax.grad(functools.partial(loss, network=network)))
        return step.lower(prompt, params, ids).compile().memory_analysis()

    wide, narrow = planned(config), planned(with_weights(config))
    assert narrow.argument_size_in_bytes < 0.27 * wide.argument_size_in_bytes
    more = narrow.temp_size_in_bytes - wide.temp_size_in_bytes
    assert more < 0.15 * wide.argument_size_in_bytes


def test_unknown_precisions_are_refused(config):
    with pytest.raises(ValueError, match="expected one of .*int8"):
        with_weights(config, "int4")
