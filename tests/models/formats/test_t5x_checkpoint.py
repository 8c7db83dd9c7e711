"""Reading T5X checkpoints: every array bit for bit from both forms.

The fixtures are written here with msgpack, TensorStore and Orbax, not with our own writer.
"""

import shutil
import tracemalloc

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax import serialization
from flax.traverse_util import unflatten_dict

from mpt_jax.models.formats.t5x_checkpoint import (
    is_t5x_checkpoint,
    open_checkpoint,
    read_prompts,
)

STREAM = np.random.RandomState(3)
ARRAYS = {
    "token_embedder/embedding": STREAM.standard_normal((40, 6)).astype(np.float32),
    "encoder/layers_0/mlp/wo/kernel": STREAM.standard_normal((12, 6)).astype(jnp.bfloat16),
    "encoder/encoder/mlp/wo/kernel": STREAM.standard_normal((12, 5, 6)).astype(np.float32),
    "encoder/encoder_norm/scale": np.zeros(6, np.float32),
    "encoder/prompt/prompt/prompt": STREAM.standard_normal((4, 6)).astype(np.float16),
    "encoder/prompt/tasks/embedding": np.float32([[1, np.nan], [np.inf, -0.0]]),
}
INLINE = "encoder/encoder_norm/scale"
BESIDE = "token_embedder/embedding"


def write_zarr(folder, values, chunks, compressor):
    metadata = {"shape": values.shape, "chunks": chunks, "compressor": compressor}
    spec = {"driver": "zarr", "dtype": values.dtype.name, "metadata": metadata}
    spec["kvstore"] = {"driver": "file", "path": f"{folder}/"}
    tensorstore.open(spec, create=True).result().write(values).result()


def tensorstore_spec(path, values, driver="file"):
    return {
        "driver": "zarr",
        "dtype": values.dtype.name,
        "kvstore": {"driver": driver, "path": f"{path}/"},
        "metadata": {"shape": list(values.shape), "chunks": [1] * values.ndim, "compressor": None},
    }


def write_legacy(
    folder, arrays=ARRAYS, inline=(INLINE,), version=3, driver="file", compressor=None, edit=None
):
    """`edit` changes the leaves of the msgpack file before it is written."""
    folder.mkdir(parents=True)
    compressor = compressor or {"id": "gzip", "level": 1}
    leaves = {}
    for path, values in arrays.items():
        leaves[path] = values
        if path not in inline:
            name = "target." + path.replace("/", ".")
            chunks = [-(-size // 2) for size in values.shape]
            write_zarr(folder / name, values, chunks, compressor)
            leaves[path] = tensorstore_spec(name, values, driver)
    if edit is not None:
        edit(leaves)
    states = {"encoder": {"m": tensorstore_spec("absent", np.zeros(3))}, "decoder": None}
    state = {"step": np.int32(7), "param_states": states}
    optimizer = {"target": unflatten_dict(leaves, sep="/"), "state": state}
    contents = {"version": version, "optimizer": optimizer}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(contents))
    return folder


def write_orbax(folder, arrays=ARRAYS):
    tree = {"target": unflatten_dict(dict(arrays), sep="/"), "state": {"step": np.int32(7)}}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as checkpointer:
        checkpointer.save(folder / "state", args=ocp.args.PyTreeSave(tree))
    return folder


def assert_holds(checkpoint, arrays=ARRAYS):
    assert checkpoint.arrays.keys() == arrays.keys()
    for path, values in arrays.items():
        stored = checkpoint.arrays[path]
        assert (stored.shape, stored.dtype) == (values.shape, values.dtype), path
        assert stored.read().tobytes() == values.tobytes(), path
        for axis in range(values.ndim):
            read_layer = stored.layers(axis)
            for layer in range(values.shape[axis]):
                expected = values.take(layer, axis)
                assert read_layer(layer).tobytes() == expected.tobytes(), (path, axis, layer)


@pytest.mark.parametrize("inline", [(INLINE,), tuple(ARRAYS), ()], ids=["mixed", "all", "none"])
def test_legacy(tmp_path, inline):
    assert_holds(open_checkpoint(write_legacy(tmp_path / "checkpoint_7", inline=inline)))


@pytest.mark.parametrize("driver", ["gfile", "gcs"])
@pytest.mark.parametrize("compressor", [{"id": "zstd", "level": 1}, {"id": "zlib", "level": 9}])
def test_legacy_variants(tmp_path, driver, compressor):
    folder = write_legacy(tmp_path / "c", driver=driver, compressor=compressor, version=2)
    assert_holds(open_checkpoint(folder))


def test_path_outside_of_kvstore(tmp_path):
    """As TensorStore before 0.1.14 had it."""

    def edit(leaves):
        leaves[BESIDE]["path"] = leaves[BESIDE]["kvstore"].pop("path")

    assert_holds(open_checkpoint(write_legacy(tmp_path / "c", edit=edit)))


def test_array_in_parts(tmp_path, monkeypatch):
    """flax cuts arrays above a gigabyte; here, above 100 bytes."""
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    folder = write_legacy(tmp_path / "c", inline=tuple(ARRAYS))
    assert b"__msgpack_chunked_array__" in (folder / "checkpoint").read_bytes()
    assert_holds(open_checkpoint(folder))


def test_orbax(tmp_path):
    write_orbax(tmp_path / "checkpoint_7")
    assert_holds(open_checkpoint(tmp_path))
    assert_holds(open_checkpoint(tmp_path / "checkpoint_7" / "state"))


def test_opening_reads_no_numbers(tmp_path):
    big = {"token_embedder/embedding": np.ones((4096, 512), np.float32)}
    for folder in (
        write_legacy(tmp_path / "inline", big, inline=tuple(big)),
        write_legacy(tmp_path / "beside", big),
        write_orbax(tmp_path / "orbax", big),
    ):
        tracemalloc.start()
        open_checkpoint(folder)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20, folder


def test_latest_is_taken_and_said(tmp_path):
    for step in (5, 100, 20):
        write_legacy(tmp_path / f"checkpoint_{step}", {INLINE: np.full(3, step, np.float32)})
    (tmp_path / "checkpoint_900.tmp-1").mkdir()
    (tmp_path / "config.gin").touch()
    assert is_t5x_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.path == tmp_path / "checkpoint_100"
    assert (checkpoint.step, checkpoint.passed_over) == (100, (5, 20))
    assert checkpoint.arrays[INLINE].read()[0] == 100
    one = open_checkpoint(tmp_path / "checkpoint_5")
    assert (one.step, one.passed_over, one.arrays[INLINE].read()[0]) == (5, (), 5)
    shutil.move(tmp_path / "checkpoint_5" / "checkpoint", tmp_path / "weights")
    bare = open_checkpoint(tmp_path / "weights")
    assert (bare.step, bare.arrays[INLINE].read()[0]) == (None, 5)
    (tmp_path / "checkpoint_901").mkdir()
    with pytest.raises(ValueError, match="checkpoint_901 is incomplete"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("made", [True, False])
def test_nothing_there(tmp_path, made):
    folder = tmp_path / "empty"
    if made:
        folder.mkdir()
    assert not is_t5x_checkpoint(folder)
    with pytest.raises(FileNotFoundError, match="is no T5X checkpoint: expected a folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("write", [write_legacy, write_orbax])
def test_prompts(tmp_path, write):
    checkpoint = open_checkpoint(write(tmp_path / "checkpoint_7"))
    prompts = read_prompts(checkpoint)
    assert list(prompts) == ["encoder/prompt/prompt/prompt", "encoder/prompt/tasks/embedding"]
    for path, values in prompts.items():
        assert values.tobytes() == ARRAYS[path].tobytes()
    assert list(read_prompts(checkpoint, ".*/tasks/.*")) == ["encoder/prompt/tasks/embedding"]
    with pytest.raises(ValueError, match=r"no parameter matches 'prompt'; it has 6: encoder/"):
        read_prompts(checkpoint, "prompt")
