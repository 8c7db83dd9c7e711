"""Damaged and hostile backbone folders: a clear error at once, before a weight is read."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mpt_jax.errors import UserError
from mpt_jax.models.formats.hf_folder import HuggingFaceWeights
from mpt_jax.models.formats.hf_writer import save_backbone, save_weights
from mpt_jax.models.formats.loading import load_backbone
from mpt_jax.models.t5 import T5Config


@pytest.fixture
def version():
    return "v1_1"  # All would test the same.


@pytest.fixture
def folder(config, params, tmp_path):
    save_backbone(tmp_path / "model", config, params)
    return tmp_path / "model"


@pytest.fixture
def sharded(folder, tmp_path):
    save_weights(tmp_path / "sharded", HuggingFaceWeights(folder), shard_bytes=5000)
    return tmp_path / "sharded"


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weight_map(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def change_tensor(folder, name, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path)


@pytest.mark.parametrize("kept", [0, 5, 400, -1])
def test_truncated_weights(folder, kept):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match="truncated or not a safetensors file.*Copy it again"):
        HuggingFaceWeights(folder)


def header(values) -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 42) + b"{}",
        struct.pack("<Q", (1 << 64) - 1) + b"{}",
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}) + b"0000",
        header({"a": {"dtype": "F32", "shape": [1 << 33, 1 << 33], "data_offsets": [0, 4]}}) + b"0" * 4,
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}) + b"0" * 8,
        header([]),
        b"\x80\x04\x95" + b"pickle" * 10,
    ],
    ids=["header", "wrapped", "offsets", "shape", "overflow", "backwards", "list", "other file"],
)  # fmt: skip
def test_headers_that_claim_what_is_not_there(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        HuggingFaceWeights(folder)


def test_a_wrong_shape_in_one_of_several_shards(sharded):
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    places = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    path = sharded / places[name]
    tensors = load_file(path)
    tensors[name] = tensors[name][:, :-1].copy()
    save_file(tensors, path)
    with pytest.raises(ValueError, match="wo.weight: got .16, 23., expected .16, 24."):
        HuggingFaceWeights(sharded)


def test_shards_that_are_absent(sharded):
    names = sorted(path.name for path in sharded.glob("model-*.safetensors"))
    (sharded / names[-1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"not in .*{names[-1]}.*Copy all shards"):
        HuggingFaceWeights(sharded)


@pytest.mark.parametrize(
    "name",
    [
        "../model/model.safetensors",
        "/etc/passwd",
        "..",
        "",
        ".",
        "a/../b.safetensors",
        "x\\y",
        "a\0b",
    ],
)
def test_an_index_that_points_elsewhere(sharded, name):
    change_weight_map(sharded, lambda places: places.update({"shared.weight": name}))
    with pytest.raises(ValueError, match="plain file name"):
        HuggingFaceWeights(sharded)


def test_an_index_of_another_model(sharded):
    change_weight_map(sharded, lambda places: places.pop("encoder.final_layer_norm.weight"))
    with pytest.raises(ValueError, match="differ in 1 places.*encoder.final_layer_norm.weight"):
        HuggingFaceWeights(sharded)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_an_index_of_another_form(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="weight_map|JSON object"):
        HuggingFaceWeights(sharded)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\xff", "3"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_files_that_are_not_json(sharded, name, content):
    (sharded / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=name):
        HuggingFaceWeights(sharded)


@pytest.mark.parametrize(
    "key, value",
    [
        ("vocab_size", "32"), ("vocab_size", -32), ("vocab_size", 10**12), ("d_model", 0),
        ("num_layers", 10**9), ("num_heads", 2.5), ("d_ff", True), ("layer_norm_epsilon", "small"),
        ("layer_norm_epsilon", float("nan")), ("dropout_rate", 1.5), ("feed_forward_proj", ["relu"]),
        ("feed_forward_proj", "gated-swish"), ("model_type", "bert"),
    ],
)  # fmt: skip
def test_configurations_that_make_no_sense(folder, key, value):
    change_json(folder / "config.json", **{key: value})
    with pytest.raises(ValueError, match=rf"config.json: .*{key}"):
        HuggingFaceWeights(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(folder, bad):
    def spoil(values):
        values[3, 2] = bad
        return values

    change_tensor(folder, "decoder.block.1.layer.2.DenseReluDense.wi_1.weight", spoil)
    with pytest.raises(ValueError, match="decoder/layers_1/mlp/wi_1/kernel holds 1 of 384 numbers"):
        load_backbone(folder)


def test_quantised_weights(folder):
    change_tensor(folder, "shared.weight", lambda values: values.astype(np.int8))
    with pytest.raises(ValueError, match="shared.weight is stored as I8.*Quantised"):
        HuggingFaceWeights(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "flax_model.msgpack"])
def test_pickles_and_others_are_not_opened(folder, name):
    os.rename(folder / "model.safetensors", folder / name)
    with pytest.raises(FileNotFoundError, match=f"{name}.*save_pretrained"):
        HuggingFaceWeights(folder)


def test_a_head_that_a_tied_model_should_not_have(make_params, tmp_path):
    config = T5Config(32, 16, 2, 6, 24, 1, 1, ("relu",), logits_via_embedding=True)
    save_backbone(tmp_path / "tied", config, make_params(config))
    path = tmp_path / "tied" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["shared.weight"] + 1}, path)
    with pytest.raises(ValueError, match="lm_head.weight differs from shared.weight"):
        HuggingFaceWeights(tmp_path / "tied")


def test_nothing_is_written_where_reading_fails(folder, tmp_path):
    source = HuggingFaceWeights(folder)
    (folder / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(Exception, match="(?i)header|safetensor"):
        save_weights(tmp_path / "new", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_existing_folder_is_left_alone(folder, config, params, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="nothing is overwritten"):
        save_backbone(folder, config, params, "bfloat16")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    save_backbone(folder, config, params, "bfloat16", overwrite=True, files={"note": b"kept"})
    assert (folder / "note").read_bytes() == b"kept"
    assert (folder / "model.safetensors").stat().st_size < len(before["model.safetensors"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
