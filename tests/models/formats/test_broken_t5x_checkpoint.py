"""T5X checkpoints that are damaged, cut off, hostile or something else: refused in words, at once."""

import json
import shutil
import time
import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest
import tensorstore
from flax import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint

from .test_t5x_checkpoint import (
    ARRAYS,
    BESIDE,
    INLINE,
    assert_holds,
    write_legacy,
    write_orbax,
    write_zarr,
)


def refused(folder, *words):
    """Opening or reading raises ValueError with these words, at once and in little memory."""
    start = time.process_time()
    tracemalloc.start()
    with pytest.raises(ValueError) as caught:
        for stored in open_checkpoint(folder).arrays.values():
            stored.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22 and time.process_time() - start < 5
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
