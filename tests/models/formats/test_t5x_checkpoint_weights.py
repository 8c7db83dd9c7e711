"""A backbone from a T5X checkpoint: each of T5X's forms gives our weights, and nothing else passes."""

import dataclasses
import functools
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mpt_jax.models.formats import t5x_weights, t5x_writer
from mpt_jax.models.formats.t5x_weights import T5XWeights
from mpt_jax.models.formats.t5x_writer import write_checkpoint
from mpt_jax.models.formats.weights import parameter_shapes

SHAPES = functools.cache(parameter_shapes)
PROMPT = {"encoder/prompt/prompt/prompt": np.ones((3, 16), np.float32)}
FORMS = {
    "unrolled": SimpleNamespace(split=False, scan_axis=None),
    "split": SimpleNamespace(split=True, scan_axis=None),
    "scanned": SimpleNamespace(split=True, scan_axis=1),
    "scanned_first": SimpleNamespace(split=True, scan_axis=0),
    "scanned_joined": SimpleNamespace(split=False, scan_axis=1),
}


def in_form(config, flat, form):
    """Our weights as T5X's network of that form names and shapes them."""
    file = {}
    for path, values in flat.items():
        values = np.asarray(values)
        projection = path.split("/")[-2]
        if form.split and projection in ("query", "key", "value"):
            values = values.reshape(-1, config.num_heads, config.head_dim)
        if form.split and projection == "out":
            values = values.reshape(config.num_heads, config.head_dim, -1)
        file[path] = values
    if form.scan_axis is None:
        return file
    layers = {}
    for path in [path for path in file if "/layers_" in path]:
        stack, layer, rest = path.split("/", 2)
        stacked = layers.setdefault(f"{stack}/{stack}/{rest}", {})
        stacked[int(layer.removeprefix("layers_"))] = file.pop(path)
    for name, parts in layers.items():
        file[name] = np.stack([parts[i] for i in range(len(parts))], form.scan_axis)
    return file


@pytest.fixture
def flat(params):
    return flatten_dict(params, sep="/")


@pytest.fixture(params=FORMS, ids=str)
def form(request):
    return FORMS[request.param]


@pytest.fixture(autouse=True)
def shapes_once(monkeypatch):
    """Many checkpoints of one config: its shapes need working out only once."""
    monkeypatch.setattr(t5x_weights, "parameter_shapes", SHAPES)


def write_orbax(folder, file):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as checkpointer:
        tree = {"target": unflatten_dict(file, sep="/"), "state": {"step": np.int32(7)}}
        checkpointer.save(folder / "checkpoint_7" / "state", args=ocp.args.PyTreeSave(tree))


def assert_reads(weights, flat):
    for path, values in flat.items():
        read = weights.read(path)
        assert read.dtype == values.dtype and read.shape == values.shape, path
        assert read.tobytes() == np.asarray(values).tobytes(), path


@pytest.mark.parametrize("storage", ["legacy", "orbax"])
def test_every_form(config, flat, form, storage, tmp_path, monkeypatch):
    monkeypatch.setattr(t5x_writer, "MOST_INLINE", 200)
    file = in_form(config, flat, form) | PROMPT
    if storage == "legacy":
        write_checkpoint(tmp_path, 7, file.items())
        assert (tmp_path / "checkpoint_7" / "target.token_embedder.embedding").is_dir()
    else:
        write_orbax(tmp_path, file)
    weights = T5XWeights(tmp_path)
    assert weights.config == config
    assert weights.prompts == tuple(PROMPT)
    assert weights.checkpoint.step == 7
    assert_reads(weights, dict(sorted(flat.items())))
    assert_reads(weights, dict(sorted(flat.items(), key=lambda item: item[0][::-1])))


def test_half_precision_stays(config, flat, form, tmp_path):
    half = {path: values.astype(jnp.bfloat16) for path, values in flat.items()}
    write_checkpoint(tmp_path, 7, in_form(config, half, form).items())
    assert_reads(T5XWeights(tmp_path), half)


def test_as_many_layers_as_wide(make_params, config, tmp_path):
    """Then nothing tells the axis of layers from the model's; T5X's default is taken."""
    square = dataclasses.replace(config, emb_dim=3)
    flat = flatten_dict(make_params(square), sep="/")
    write_checkpoint(tmp_path, 7, in_form(square, flat, FORMS["scanned"]).items())
    weights = T5XWeights(tmp_path)
    assert weights.config == square
    assert_reads(weights, flat)


def refused(tmp_path, file, *words):
    write_checkpoint(tmp_path, 7, file.items())
    start = time.process_time()
    with pytest.raises(ValueError) as caught:
        T5XWeights(tmp_path)
    assert time.process_time() - start < 5
    for word in ("checkpoint_7 is not the checkpoint of a T5", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("form", [FORMS["unrolled"], FORMS["scanned"]], ids=["unrolled", "scanned"])
def test_each_weight_is_needed(config, flat, form, tmp_path):
    file = in_form(config, flat, form)
    # A model without an output layer is one that ties it to the embeddings.
    for step, name in enumerate(sorted(file.keys() - {"decoder/logits_dense/kernel"})):
        others = {other: values for other, values in file.items() if other != name}
        refused(tmp_path / str(step), others, f"missing {name}")


def test_a_missing_layer(config, flat, tmp_path):
    file = {path: values for path, values in flat.items() if "/layers_1/" not in path}
    refused(
        tmp_path,
        {path: np.asarray(values) for path, values in file.items()},
        "missing encoder/layers_1/attention/key/kernel (16, 12)",
        "unexpected encoder/layers_2/attention/key/kernel (16, 12)",
    )


@pytest.mark.parametrize(
    "name",
    [
        "encoder/layers_0/attention/query/bias",
        "encoder/layers_9999999999/mlp/wo/kernel",
        "decoder/prompt/prompt/prompt",
        "adapter/kernel",
    ],
)
def test_unexpected_arrays(config, flat, form, name, tmp_path):
    file = in_form(config, flat, form) | {name: np.zeros(3, np.float32)}
    refused(tmp_path, file, f"unexpected {name} (3,)")


@pytest.mark.parametrize("form", [FORMS["unrolled"], FORMS["scanned"]], ids=["unrolled", "scanned"])
def test_each_shape_is_checked(config, flat, form, tmp_path):
    file = in_form(config, flat, form)
    for step, (name, values) in enumerate(sorted(file.items())):
        wrong = np.zeros((*values.shape[:-1], values.shape[-1] + 1), np.float32)
        refused(tmp_path / str(step), file | {name: wrong})
    name = "token_embedder/embedding"
    refused(tmp_path / "more", file | {name: file[name][None]}, f"{name}: got (1, 32, 16)")
    refused(tmp_path / "none", file | {name: file[name][:0]}, f"{name}: got (0, 16)")


def test_transposed_weights(config, flat, tmp_path):
    name = "decoder/layers_1/mlp/wo/kernel"
    file = {path: np.asarray(values) for path, values in flat.items()}
    refused(tmp_path, file | {name: file[name].T}, f"{name}: got (16, 24), expected (24, 16)")


def test_heads_that_do_not_fit(config, flat, tmp_path):
    file = {path: np.asarray(values) for path, values in flat.items()}
    for name in file:
        if name.endswith("rel_embedding"):
            file[name] = np.zeros((5, 32), np.float32)
    refused(tmp_path, file, "12 columns, which the 5 heads")


def test_absurdly_many_layers(config, flat, tmp_path):
    file = in_form(config, flat, FORMS["scanned"])
    name = "encoder/encoder/pre_mlp_layer_norm/scale"
    refused(tmp_path, file | {name: np.zeros((16, 5000), np.float32)}, "5000", "expected 1 to 1000")
