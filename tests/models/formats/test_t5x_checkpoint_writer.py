"""Writing T5X checkpoints: whole or not at all, one array at a time, and nothing overwritten."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from mpt_jax.models.formats import t5x_writer
from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint
from mpt_jax.models.formats.t5x_writer import write_checkpoint

STREAM = np.random.RandomState(4)
ARRAYS = {
    "encoder/prompt/prompt/prompt": STREAM.standard_normal((100, 64)).astype(np.float32),
    "encoder/layers_0/mlp/wo/kernel": STREAM.standard_normal((7, 11, 130)).astype(jnp.bfloat16),
    "encoder/encoder_norm/scale": STREAM.standard_normal(8).astype(np.float16),
    "temperature": np.full((), 0.5, np.float32),
}


@pytest.mark.parametrize("most_inline", [0, 1 << 12, 1 << 30])
@pytest.mark.parametrize("chunk_bytes", [1, 6000, 1 << 26])
def test_written_arrays_are_read(tmp_path, monkeypatch, most_inline, chunk_bytes):
    monkeypatch.setattr(t5x_writer, "MOST_INLINE", most_inline)
    monkeypatch.setattr(t5x_writer, "CHUNK_BYTES", chunk_bytes)
    folder = write_checkpoint(tmp_path / "new", 1_100_000, ARRAYS.items())
    assert folder == tmp_path / "new" / "checkpoint_1100000"
    checkpoint = open_checkpoint(tmp_path / "new")
    assert checkpoint.step == 1_100_000 and checkpoint.arrays.keys() == ARRAYS.keys()
    for path, values in ARRAYS.items():
        read = checkpoint.arrays[path].read()
        assert (read.dtype, read.shape) == (values.dtype, values.shape)
        assert read.tobytes() == values.tobytes(), path


def test_what_t5x_expects_in_the_file(tmp_path):
    folder = write_checkpoint(tmp_path, 12, ARRAYS.items())
    contents = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    assert contents["version"] == 3 and contents.keys() == {"version", "optimizer"}
    step = contents["optimizer"]["state"]["step"]
    assert step.dtype == np.int32 and step == 12
    spec = contents["optimizer"]["target"]["encoder"]["prompt"]["prompt"]["prompt"]
    assert spec == {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": "file", "path": "target.encoder.prompt.prompt.prompt/"},
        "metadata": {
            "shape": [100, 64],
            "chunks": [100, 64],
            "compressor": {"id": "gzip", "level": 1},
        },
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint",
        "target.encoder.layers_0.mlp.wo.kernel",
        "target.encoder.prompt.prompt.prompt",
    ]


def test_one_array_at_a_time(tmp_path):
    size = 1 << 22

    def arrays():
        for i in range(8):
            yield f"a_{i}", np.full(size // 4, i, np.float32)

    tracemalloc.start()
    write_checkpoint(tmp_path, 0, arrays())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * size


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failed_write(tmp_path, error):
    def arrays():
        yield from ARRAYS.items()
        raise error

    with pytest.raises(error):
        write_checkpoint(tmp_path, 5, arrays())
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    folder = write_checkpoint(tmp_path, 5, ARRAYS.items())
    before = (folder / "checkpoint").read_bytes()
    with pytest.raises(FileExistsError, match="checkpoint_5 exists already"):
        write_checkpoint(tmp_path, 5, [("a", np.zeros(3, np.float32))])
    assert (folder / "checkpoint").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "arrays, word",
    [
        ([], "got none"),
        ([("a.b", np.zeros(2, np.float32))], "'a.b'"),
        ([("../a", np.zeros(2, np.float32))], "'../a'"),
        ([("/a", np.zeros(2, np.float32))], "'/a'"),
        ([("", np.zeros(2, np.float32))], "''"),
        ([("a/b", np.zeros(2, np.float32))] * 2, "'a/b' after 'a/b'"),
        ([("a", np.zeros(2, np.float32)), ("a/b", np.zeros(2, np.float32))], "'a/b' after 'a'"),
        ([("a/b", np.zeros(2, np.float32)), ("a", np.zeros(2, np.float32))], "'a' after 'a/b'"),
        ([("a", np.zeros(2, np.float64))], "float64"),
        ([("a", np.zeros(2, object))], "object"),
    ],
)
def test_bad_arrays(tmp_path, arrays, word):
    with pytest.raises(ValueError, match="got") as caught:
        write_checkpoint(tmp_path / "new", 5, arrays)
    assert word in str(caught.value)
    assert not list((tmp_path / "new").iterdir())


def test_a_negative_step(tmp_path):
    with pytest.raises(ValueError, match="step: got -1"):
        write_checkpoint(tmp_path / "new", -1, ARRAYS.items())
    assert not (tmp_path / "new").exists()
