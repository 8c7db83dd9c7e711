"""Backbone folders: round trips, and errors that name the tensors."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mpt_jax.models.fingerprint import fingerprint
from mpt_jax.models.formats.hf_config import from_hf_config, to_hf_config
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.formats.loading import load_backbone
from mpt_jax.models.layer_stacking import stack_layers, unstack_layers
from mpt_jax.models.t5 import T5Config


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_round_trip(config, params, tmp_path):
    save_backbone(tmp_path, config, params)
    loaded_config, loaded = load_backbone(tmp_path)
    assert loaded_config == config
    assert_same(loaded, params)
    assert fingerprint(loaded) == fingerprint(params)


def test_bfloat16_halves_the_file_and_keeps_eight_bits(config, params, tmp_path):
    save_backbone(tmp_path / "full", config, params)
    save_backbone(tmp_path / "half", config, params, dtype="bfloat16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    _, loaded = load_backbone(tmp_path / "half")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded)} == {"float32"}
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=2**-8), loaded, params
    )


def test_scanned_parameters_make_the_same_folder(config, params, tmp_path):
    stacked = stack_layers(params)
    assert_same(unstack_layers(stacked), params)
    assert_same(stack_layers(stacked), stacked)
    save_backbone(tmp_path, dataclasses.replace(config, scan_layers=True), stacked)
    assert_same(load_backbone(tmp_path)[1], params)
    assert fingerprint(stacked) == fingerprint(params)


def test_eleven_layers_stay_in_order():
    layers = {f"layers_{i}": {"scale": np.full(2, i, np.float32)} for i in range(11)}
    stacked = stack_layers({"encoder": layers})["encoder"]["layers"]["scale"]
    np.testing.assert_array_equal(stacked[:, 0], np.arange(11))


def test_fingerprint_sees_a_single_changed_value(config, params):
    embedding = params["token_embedder"]["embedding"]
    changed = params | {"token_embedder": {"embedding": embedding.at[3, 4].add(1e-3)}}
    assert fingerprint(changed) != fingerprint(params)


def test_misfits_are_listed_by_name_and_shape(config, params, tmp_path):
    save_backbone(tmp_path, config, params)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.final_layer_norm.weight"]
    weights["shared.weight"] = weights["shared.weight"][:-1]
    weights["visual.weight"] = np.zeros((2, 3), np.float32)
    save_file(weights, path)
    with pytest.raises(ValueError) as error:
        load_backbone(tmp_path)
    message = str(error.value)
    assert "missing encoder.final_layer_norm.weight (16,)" in message
    assert "unexpected visual.weight (2, 3)" in message
    assert "shared.weight: got (31, 16), expected (32, 16)" in message


def test_saving_refuses_parameters_of_another_shape(config, params, tmp_path):
    with pytest.raises(ValueError, match="token_embedder/embedding: got .32, 16., expected .33"):
        save_backbone(tmp_path, dataclasses.replace(config, vocab_size=33), params)
    with pytest.raises(ValueError, match="float16"):
        save_backbone(tmp_path, config, params, dtype="float16")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_backbone(tmp_path)


def test_tied_copies_in_the_file_are_passed_over(make_params, tmp_path):
    config = T5Config(32, 16, 2, 6, 24, 1, 1, ("relu",), logits_via_embedding=True)
    params = make_params(config)
    save_backbone(tmp_path, config, params)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    for name in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        weights[name] = weights["shared.weight"].copy()
    save_file(weights, path)
    assert_same(load_backbone(tmp_path)[1], params)


@pytest.mark.parametrize(
    "projection, activations",
    [
        ("relu", ("relu",)),
        ("gated-gelu", ("gelu", "linear")),
        ("gated-silu", ("silu", "linear")),
        ("gelu_new", ("gelu",)),
    ],
)
def test_activation_names(projection, activations):
    config = T5Config(32, 16, 2, 6, 24, 1, 2, activations)
    values = json.loads(json.dumps(to_hf_config(config, "float32")))
    assert values["feed_forward_proj"] == projection
    assert from_hf_config(values) == config


def test_configurations_that_are_no_t5_are_refused():
    values = to_hf_config(T5Config(32, 16, 2, 6, 24, 1, 2), "float32")
    with pytest.raises(ValueError, match="longt5"):
        from_hf_config(values | {"model_type": "longt5"})
    with pytest.raises(ValueError, match="gated-swish"):
        from_hf_config(values | {"feed_forward_proj": "gated-swish"})
    with pytest.raises(ValueError, match="d_model"):
        from_hf_config({k: v for k, v in values.items() if k != "d_model"})
