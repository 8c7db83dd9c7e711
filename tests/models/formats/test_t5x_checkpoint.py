"""Reading T5X checkpoints: every array bit for bit from both forms, and bad ones refused.

The fixtures are written here with msgpack, TensorStore and Orbax, not with our own writer.
"""

import json
import shutil
import time
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax import serialization
from flax.traverse_util import unflatten_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def refused(folder, *words):
    """Opening or reading raises ValueError with these words, at once and in little memory."""
    start = time.monotonic()
    tracemalloc.start()
    with pytest.raises(ValueError) as caught:
        for stored in open_checkpoint(folder).arrays.values():
            stored.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22 and time.monotonic() - start < 5
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("share", [0, 0.0005, 0.01, 0.2, 0.5, 0.8, 0.99, 0.9999])
def test_truncated_msgpack(tmp_path, share):
    folder = write_legacy(tmp_path / "c", inline=tuple(ARRAYS))
    contents = (folder / "checkpoint").read_bytes()
    (folder / "checkpoint").write_bytes(contents[: int(share * len(contents))])
    refused(folder, str(folder / "checkpoint"), "truncated or not a T5X checkpoint")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_msgpack_is_at_most_a_value_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz") / "c"
    file = write_legacy(folder, {INLINE: ARRAYS[INLINE], BESIDE: ARRAYS[BESIDE]}) / "checkpoint"
    contents = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(contents) - 1))
        contents[at] = data.draw(st.integers(0, 255))
    file.write_bytes(contents)
    try:
        for stored in open_checkpoint(folder).arrays.values():
            stored.read()
    except ValueError:
        pass


def ndarray(shape, dtype, data):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
    "leaf, word",
    [
        (ndarray([1 << 40], "float32", b"1234"), "expected 4398046511104"),
        (ndarray([1 << 63], "float32", b"1234"), "target/a"),
        (ndarray([-1], "float32", b"1234"), "target/a"),
        (ndarray([True], "float32", b"1234"), "target/a"),
        (ndarray([1], "object", b"12345678"), "stored as 'object'"),
        (ndarray([1], "float64", b"12345678"), "stored as 'float64'"),
        (ndarray([2], "uint16", b"1234"), "uint16, which T5X before June 2021 wrote for bfloat16"),
        (msgpack.ExtType(1, b"\x93\x91\x01"), "truncated"),
        (msgpack.ExtType(2, msgpack.packb((1.0, 2.0))), "expected an array"),
        ("PLACEHOLDER://target.a", "expected an array"),
        ([1.0, 2.0], "expected an array"),
        ({"__msgpack_chunked_array__": True, "shape": {"0": 1}, "chunks": {}}, "in parts"),
    ],
)
def test_bad_inline_arrays(tmp_path, leaf, word):
    contents = {"version": 3, "optimizer": {"target": {"a": leaf}, "state": {}}}
    (tmp_path / "checkpoint").write_bytes(msgpack.packb(contents))
    refused(tmp_path, word)


HEAD = msgpack.packb("version") + b"\x03" + msgpack.packb("optimizer")


@pytest.mark.parametrize(
    "contents",
    [
        b"\x82" + HEAD + b"\xdf\xff\xff\xff\xff",  # A map of four billion entries.
        b"\x82" + HEAD + b"\xc9\xff\xff\xff\xff\x01",  # An array of four gigabytes.
        b"\x82" + HEAD + b"\xdb\xff\xff\xff\xff",  # A string of four gigabytes.
        b"\x82" + HEAD + b"\xdd\xff\xff\xff\xff",  # A list of four billion entries.
        b"\x82" + HEAD + b"\x81\xa1a" * 100_000,  # Maps in maps in maps.
        b"\x82" + HEAD + b"\x91" * 100_000,
        b"\x81\xc0\x01",
        b"\x80trailing",
        b"\x93\x01\x02\x03",
        b"\xc1",
        b"PK\x03\x04 an archive",
        b"\x80\x04\x95 a pickle",
    ],
)
def test_no_msgpack_of_t5x(tmp_path, contents):
    (tmp_path / "checkpoint").write_bytes(contents)
    refused(tmp_path, "not a T5X checkpoint")


@pytest.mark.parametrize("version", [0, 1, 4, "3", None, [3]])
def test_other_versions(tmp_path, version):
    refused(write_legacy(tmp_path / "c", version=version), "expected version 2 or 3")


def test_other_kinds_of_checkpoints(tmp_path):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-0"\n')
    refused(tmp_path, "Mesh TensorFlow", "convert_tf_checkpoint")
    plain = serialization.msgpack_serialize({"target": {"a": np.zeros(2, np.float32)}})
    (tmp_path / "checkpoint").write_bytes(plain)
    refused(tmp_path, "got version 0 and the entries ['target']")
    refused(write_legacy(tmp_path / "empty", {}), "holds no parameters")


@pytest.mark.parametrize(
    "path",
    ["../secret/", "/etc/", "a/../../b", "..", ".", "", "a\0b", "..\\secret", 5, None],
)
def test_paths_that_leave_the_folder(tmp_path, path):
    write_zarr(tmp_path / "secret", ARRAYS[BESIDE], [40, 6], None)

    def edit(leaves):
        leaves[BESIDE]["kvstore"]["path"] = path

    refused(write_legacy(tmp_path / "c", edit=edit), BESIDE, "expected one in the checkpoint's")


@pytest.mark.parametrize(
    "change, word",
    [
        ({"driver": "n5"}, "expected 'zarr'"),
        ({"kvstore": {"driver": "http", "base_url": "http://localhost", "path": "x"}}, "'http'"),
        ({"kvstore": "file:///etc/"}, "drivers"),
        ({"metadata": {"shape": [6, 40]}}, "says shape [6, 40], its .zarray [40, 6]"),
        ({"metadata": {"shape": [240]}}, "says shape [240]"),
        ({"metadata": None}, "says shape None"),
        ({"dtype": "bfloat16"}, "says 'bfloat16', its .zarray 'float32'"),
    ],
)
def test_specs_that_do_not_fit(tmp_path, change, word):
    folder = write_legacy(tmp_path / "c", edit=lambda leaves: leaves[BESIDE].update(change))
    refused(folder, BESIDE, word)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"shape": [1 << 40, 1 << 10], "chunks": [1 << 40, 1 << 10]}, "lie on disk for it"),
        ({"chunks": [1 << 30, 1 << 20]}, "lie on disk for it"),
        ({"chunks": [1, 1]}, "chunks are missing"),
        ({"chunks": [0, 0]}, "expected zarr version 2"),
        ({"shape": [40]}, "expected zarr version 2"),
        ({"shape": [-40, 6]}, "expected zarr version 2"),
        ({"shape": [1e99, 6]}, "expected zarr version 2"),
        ({"dtype": "<u2"}, "wrote for bfloat16"),
        ({"dtype": ">f4"}, "stored as '>f4'"),
        ({"dtype": [["a", "<f4"]]}, "expected zarr version 2"),
        ({"zarr_format": 3}, "expected zarr version 2"),
        ({"compressor": {"id": "lzma"}}, "cannot be read"),
        ({"compressor": None}, "cannot be read"),
        ({"filters": [{"id": "delta"}]}, "cannot be read"),
    ],
)
def test_bad_zarr_metadata(tmp_path, change, word):
    folder = write_legacy(tmp_path / "c")
    file = folder / "target.token_embedder.embedding" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(folder, BESIDE, word)


@pytest.mark.parametrize("contents", [b"", b"{", b"[" * 100_000, b"null", b"\xff\xfe"])
def test_zarr_metadata_that_are_no_json(tmp_path, contents):
    folder = write_legacy(tmp_path / "c")
    (folder / "target.token_embedder.embedding" / ".zarray").write_bytes(contents)
    refused(folder, BESIDE, ".zarray")


@pytest.mark.parametrize("what", ["", ".zarray", "0.0", "1.1"])
def test_missing_folders_and_chunks(tmp_path, what):
    folder = write_legacy(tmp_path / "c")
    path = folder / "target.token_embedder.embedding" / what
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(folder, BESIDE, "copy the checkpoint" if "." in what[1:] else "incomplete")


@pytest.mark.parametrize("keep", [0, 1, 20, -12])
def test_truncated_chunks(tmp_path, keep):
    folder = write_legacy(tmp_path / "c")
    chunk = folder / "target.token_embedder.embedding" / "1.0"
    chunk.write_bytes(chunk.read_bytes()[:keep])
    refused(folder, BESIDE, "cannot be read")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_damaged_chunks(tmp_path, share):
    folder = write_legacy(tmp_path / "c")
    chunk = folder / "target.token_embedder.embedding" / "1.0"
    contents = bytearray(chunk.read_bytes())
    contents[int(share * len(contents))] ^= 4
    chunk.write_bytes(contents)
    refused(folder, BESIDE, "cannot be read")


def orbax_files(folder) -> list[Path]:
    state = folder / "state"
    return [state / "manifest.ocdbt", *sorted(state.rglob("d/*"))]


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_damaged_orbax(tmp_path, share):
    """A damaged file is refused, unless nothing that is read is in it."""
    count = len(orbax_files(write_orbax(tmp_path / "sound")))
    refusals = 0
    for index in range(count):
        folder = tmp_path / f"damaged_{index}"
        shutil.copytree(tmp_path / "sound", folder)
        file = orbax_files(folder)[index]
        contents = file.read_bytes()
        file.write_bytes(contents[: int(share * len(contents))])
        try:
            assert_holds(open_checkpoint(folder))
        except ValueError as error:
            assert "damaged or incomplete" in str(error)
            refusals += 1
    assert refusals >= 2  # The manifest, and the data.


def test_orbax_without_its_parts(tmp_path):
    folder = write_orbax(tmp_path / "c")
    for file in orbax_files(folder)[1:]:
        file.unlink()
    refused(folder, "damaged or incomplete")
    (folder / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(FileNotFoundError):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"shape": [1 << 40, 6], "chunks": [1 << 40, 6]}, "lie on disk for it"),
        ({"shape": [41, 6]}, "chunks are missing"),
        ({"dtype": "<i4"}, "stored as '<i4'"),
        (None, "has no .zarray"),
    ],
)
def test_bad_orbax_metadata(tmp_path, change, word):
    folder = write_orbax(tmp_path / "c", {BESIDE: ARRAYS[BESIDE]})
    base = {"driver": "file", "path": f"{folder / 'state'}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    key = "target.token_embedder.embedding/.zarray"
    metadata = json.loads(store.read(key).result().value)
    store.write(key, change and json.dumps(metadata | change)).result()
    refused(folder, "target.token_embedder.embedding", word)
