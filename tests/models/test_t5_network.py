"""The T5 network against itself: every way to run it gives the same numbers."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.models.layer_stacking import stack_layers, unstack_layers
from mpt_jax.models.t5 import PAD_ID, T5Config, Transformer, init_params, logical_axes

one_version = pytest.mark.parametrize("version", ["v1_1"])  # Where both would test the same.

V1_0 = dict(mlp_activations=("relu",), logits_via_embedding=True)
BASE = dict(vocab_size=32128, emb_dim=768, num_heads=12, head_dim=64)
SMALL_V1_1 = T5Config(32128, 512, 6, 64, 1024, 8, 8)
BASE_DEPTH = dict(num_encoder_layers=12, num_decoder_layers=12)


def run(config, params, batch, **kwargs):
    """Logits for the seeded batch, compiled."""

    def forward(params, inputs, decoder_inputs):
        return Transformer(config).apply({"params": params}, inputs, decoder_inputs, **kwargs)

    return jax.jit(forward)(params, batch["inputs"], batch["decoder_inputs"])


def value_and_gradients(config, params, batch):
    """A weighted sum of the logits, and its gradients."""

    def loss(params, inputs, decoder_inputs):
        logits = Transformer(config).apply({"params": params}, inputs, decoder_inputs)
        return jnp.sum(jnp.sin(logits))

    return jax.jit(jax.value_and_grad(loss))(params, batch["inputs"], batch["decoder_inputs"])


def assert_trees_close(got, expected, tolerance=5e-5):
    def compare(left, right):
        scale = max(np.abs(right).max(), 1e-3)
        np.testing.assert_allclose(left, right, atol=tolerance * scale, rtol=0)

    jax.tree.map(compare, got, expected)


@pytest.mark.parametrize(
    "config, values, arrays",
    [
        (T5Config(**BASE, mlp_dim=3072, **BASE_DEPTH, **V1_0), 222_903_552, 257),
        (T5Config(**BASE, mlp_dim=2048, **BASE_DEPTH), 247_577_856, 282),
        (SMALL_V1_1, 76_961_152, 190),
    ],
    ids=["1.0 base", "1.1 base", "1.1 small"],
)
def test_parameter_counts_are_those_of_t5x(config, values, arrays):
    leaves = jax.tree.leaves(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
    assert sum(leaf.size for leaf in leaves) == values
    assert len(leaves) == arrays


# T5X's table (t5x.examples.t5.network); E width, J = heads * head_dim, F feed-forward width.
BLOCK = {
    "mlp/wo/kernel": ("mlp", "embed"),
    "mlp/wi_0/kernel": ("embed", "mlp"),
    "mlp/wi_1/kernel": ("embed", "mlp"),
    "pre_mlp_layer_norm/scale": ("embed",),
}
EXPECTED_AXES = {
    "token_embedder/embedding": ("vocab", "embed"),
    "decoder/logits_dense/kernel": ("embed", "vocab"),
}
for stack, attentions in (
    ("encoder", {"attention": "pre_attention_layer_norm"}),
    (
        "decoder",
        {
            "self_attention": "pre_self_attention_layer_norm",
            "encoder_decoder_attention": "pre_cross_attention_layer_norm",
        },
    ),
):
    EXPECTED_AXES[f"{stack}/relpos_bias/rel_embedding"] = ("heads", "relpos_buckets")
    EXPECTED_AXES[f"{stack}/{stack}_norm/scale"] = ("embed",)
    block = dict(BLOCK)
    for attention, norm in attentions.items():
        block[f"{norm}/scale"] = ("embed",)
        block[f"{attention}/out/kernel"] = ("joined_kv", "embed")
        for name in ("query", "key", "value"):
            block[f"{attention}/{name}/kernel"] = ("embed", "joined_kv")
    for path, axes in block.items():
        EXPECTED_AXES[f"{stack}/layers_0/{path}"] = axes

AXIS_SIZES = {
    "vocab": 32, "embed": 16, "joined_kv": 12, "mlp": 24, "heads": 2, "relpos_buckets": 32
}  # fmt: skip


def named_axes(config):
    flat = flax.traverse_util.flatten_dict(dict(logical_axes(config)), sep="/")
    return {path: tuple(axes) for path, axes in flat.items()}


def test_names_shapes_and_logical_axes_are_those_of_t5x():
    config = T5Config(32, 16, 2, 6, 24, 1, 1)
    assert named_axes(config) == EXPECTED_AXES
    abstract = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    shapes = {k: v.shape for k, v in flax.traverse_util.flatten_dict(abstract, sep="/").items()}
    assert shapes == {k: tuple(AXIS_SIZES[a] for a in axes) for k, axes in EXPECTED_AXES.items()}


def test_scanned_parameters_have_a_leading_layers_axis():
    axes = named_axes(T5Config(32, 16, 2, 6, 24, 2, 2, scan_layers=True))
    expected = {
        path.replace("layers_0", "layers"): ("layers", *names) if "layers_0" in path else names
        for path, names in EXPECTED_AXES.items()
    }
    assert axes == expected


@one_version
def test_scanned_equals_unrolled(config, params, batch):
    scanned = dataclasses.replace(config, scan_layers=True)
    value, gradients = value_and_gradients(config, params, batch)
    scanned_value, scanned_gradients = value_and_gradients(scanned, stack_layers(params), batch)
    np.testing.assert_allclose(scanned_value, value, rtol=1e-5)
    assert_trees_close(unstack_layers(scanned_gradients), gradients)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", ["dots", "full"])
def test_rematerialising_changes_no_number(make_params, batch, remat, scan_layers):
    config = T5Config(32, 16, 2, 6, 24, 1, 1, scan_layers=scan_layers)
    params = make_params(dataclasses.replace(config, scan_layers=False))
    params = stack_layers(params) if scan_layers else params
    plain = value_and_gradients(config, params, batch)
    again = value_and_gradients(dataclasses.replace(config, remat=remat), params, batch)
    assert_trees_close(again, plain, tolerance=1e-5)


@one_version
def test_padding_changes_nothing(config, params, batch):
    wider = dict(batch, inputs=np.pad(batch["inputs"], ((0, 0), (0, 4))))
    np.testing.assert_allclose(
        run(config, params, wider), run(config, params, batch), atol=5e-5, rtol=0
    )


def test_packed_rows_equal_unpacked_rows_each_with_its_prompt(config, params, reading):
    """Two examples with different prompts (and lengths) share a row, behind them padding."""
    size = config.vocab_size
    bank = jnp.asarray(np.random.RandomState(3).standard_normal((5, 16)), jnp.float32)
    first = np.array([[size, size + 1, 9, 12, 1, 0]], np.int32)
    second = np.array([[size + 2, size + 3, size + 4, 7, 30, 1]], np.int32)
    first_targets, second_targets = np.array([[0, 6, 14]], np.int32), np.array([[0, 9]], np.int32)

    def forward(inputs, decoder_inputs, segments=None, decoder_segments=None):
        return jax.jit(
            lambda params, bank: Transformer(config).apply(
                {"params": params},
                jnp.asarray(inputs),
                jnp.asarray(decoder_inputs),
                embed=reading(bank),
                encoder_segment_ids=segments,
                decoder_segment_ids=decoder_segments,
            )
        )(params, bank)

    packed = forward(
        np.concatenate([first[:, :5], second, np.zeros((1, 2), np.int32)], axis=1),
        np.concatenate([first_targets, second_targets, np.zeros((1, 1), np.int32)], axis=1),
        jnp.asarray([[1] * 5 + [2] * 6 + [0] * 2], jnp.int32),
        jnp.asarray([[1] * 3 + [2] * 2 + [0]], jnp.int32),
    )
    np.testing.assert_allclose(packed[:, :3], forward(first, first_targets), atol=5e-5, rtol=0)
    np.testing.assert_allclose(packed[:, 3:5], forward(second, second_targets), atol=5e-5, rtol=0)


@one_version
def test_virtual_tokens_equal_the_words_whose_embeddings_they_hold(config, params, batch, reading):
    """A prompt of word embeddings is the words: positions and masks treat both alike."""
    words = np.array([4, 17, 29], np.int32)
    bank = params["token_embedder"]["embedding"][words]
    slots = np.broadcast_to(config.vocab_size + np.arange(3, dtype=np.int32), (3, 3))
    spelled = np.concatenate([np.broadcast_to(words, (3, 3)), batch["inputs"]], axis=1)
    virtual = np.concatenate([slots, batch["inputs"]], axis=1)
    np.testing.assert_array_equal(
        run(config, params, dict(batch, inputs=virtual), embed=reading(bank)),
        run(config, params, dict(batch, inputs=spelled)),
    )


@one_version
def test_bfloat16_is_close_and_gives_float32_logits(config, params, batch):
    half = run(dataclasses.replace(config, dtype="bfloat16"), params, batch)
    full = run(config, params, batch)
    assert half.dtype == jnp.float32
    assert np.isfinite(half).all()
    spread = np.std(np.asarray(full))
    error = np.abs(np.asarray(half) - np.asarray(full))
    assert 0 < np.mean(error) < 0.05 * spread


def test_dropout_only_where_it_is_asked_for(make_params, batch):
    config = T5Config(32, 16, 2, 6, 24, 1, 1, dropout_rate=0.3)
    params = make_params(dataclasses.replace(config, dropout_rate=0.0))
    plain = run(dataclasses.replace(config, dropout_rate=0.0), params, batch)
    np.testing.assert_array_equal(run(config, params, batch), plain)

    inputs, decoder_inputs = jnp.asarray(batch["inputs"]), jnp.asarray(batch["decoder_inputs"])

    @jax.jit
    def noisy(key):
        network = Transformer(config, deterministic=False)
        return network.apply({"params": params}, inputs, decoder_inputs, rngs={"dropout": key})

    first = noisy(jax.random.key(0))
    np.testing.assert_array_equal(noisy(jax.random.key(0)), first)
    assert np.abs(np.asarray(noisy(jax.random.key(1))) - np.asarray(first)).max() > 1e-2
    assert np.abs(np.asarray(plain) - np.asarray(first)).max() > 1e-2


def test_hidden_states_of_every_block_and_the_norm(config, params, batch):
    logits, hidden = run(config, params, batch, return_hidden=True)
    assert len(hidden.encoder) == config.num_encoder_layers + 1
    assert len(hidden.decoder) == config.num_decoder_layers + 1
    head = params["token_embedder"]["embedding"].T / 4.0  # 1 / sqrt(D)
    if not config.logits_via_embedding:
        head = params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_allclose(hidden.decoder[-1] @ head, logits, atol=5e-5)
    visible = (batch["inputs"] != PAD_ID)[..., None].astype(np.float32)
    scanned = dataclasses.replace(config, scan_layers=True)
    _, stacked = run(scanned, stack_layers(params), batch, return_hidden=True)
    for left, right in zip(stacked.encoder, hidden.encoder, strict=True):
        np.testing.assert_allclose(left * visible, right * visible, atol=5e-5)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="mlp_activations.*tanh"):
        T5Config(32, 16, 2, 6, 24, 1, 1, mlp_activations=("tanh",))
    with pytest.raises(ValueError, match="remat.*some"):
        T5Config(32, 16, 2, 6, 24, 1, 1, remat="some")
