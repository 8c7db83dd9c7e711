"""torch.save's files, read without torch; a recorded one, and pickles that mean harm."""

import io
import os
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.formats import inert_pickle
from mpt_jax.methods.formats.torch_archive import ALLOWED, read_archive
from mpt_jax.methods.prompt_sources import load_prompts

RECORDED = Path(__file__).parent / "recorded"


def test_a_recorded_prompt_of_attempts_form():
    prompts = load_prompts(RECORDED / "prefix_embeddings_cola.pt")
    assert prompts.metadata.task_names == ("cola",)
    expected = np.load(RECORDED / "prefix_embeddings_cola.npy")
    assert prompts.prompt().tobytes() == expected.tobytes()


def archive(path: Path, pickled: bytes, **entries: bytes) -> Path:
    """A file as torch.save lays it out, of a pickle and storages."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", entries.pop("byteorder", b"little"))
        for name, data in entries.items():
            file.writestr(f"archive/data/{name.removeprefix('s')}", data)
    return path


def tensor(size, stride, offset=0, storage="torch\nFloatStorage", key="0") -> bytes:
    """The pickle of a tensor, opcode by opcode."""
    out = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
    out += b"(X\x07\x00\x00\x00storagec" + storage.encode() + b"\n"
    out += b"X" + len(key).to_bytes(4, "little") + key.encode() + b"X\x03\x00\x00\x00cpuK\x06tQ"
    for number in ([offset], size, stride):
        packed = b"".join(pickle.dumps(int(n), 2)[2:-1] for n in number)
        out += packed if number == [offset] and number is not size else b"(" + packed + b"t"
    return out + b"\x89ccollections\nOrderedDict\n)RtR."


def opcode(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


DATA = np.arange(6, dtype=np.float32)


def test_strides_and_offsets(tmp_path):
    data = DATA.tobytes()
    whole = archive(tmp_path / "a.pt", tensor([2, 3], [3, 1]), s0=data)
    assert np.array_equal(read_archive(whole), DATA.reshape(2, 3))
    turned = archive(tmp_path / "b.pt", tensor([3, 2], [1, 3]), s0=data)
    assert np.array_equal(read_archive(turned), DATA.reshape(2, 3).T)
    part = archive(tmp_path / "c.pt", tensor([1, 3], [3, 1], offset=3), s0=data)
    assert np.array_equal(read_archive(part), DATA[None, 3:])


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ([2, 4], [4, 1], 0),  # more numbers than there are
        ([1 << 20, 1 << 20], [0, 0], 0),  # a terabyte out of one number
        ([2, 2], [5, 1], 0),  # beyond the end
        ([2, 3], [3, 1], 1),
        ([0, 3], [3, 1], 0),
    ],
)
def test_tensors_that_leave_their_storage_are_refused(tmp_path, size, stride, offset):
    path = archive(tmp_path / "x.pt", tensor(size, stride, offset), s0=DATA.tobytes())
    with pytest.raises(UserError, match="does not lie in its storage"):
        read_archive(path)


@pytest.mark.parametrize(
    ("size", "stride"), [([2, 3], [3]), ([-2, 3], [3, 1]), ([2, 3], [-3, 1]), ([1] * 9, [1] * 9)]
)
def test_sizes_and_strides_that_are_none_are_refused(tmp_path, size, stride):
    path = archive(tmp_path / "x.pt", tensor(size, stride), s0=DATA.tobytes())
    with pytest.raises(UserError, match="where a tensor of floats was expected"):
        read_archive(path)


# A tuple of the one before twice, 500 times: 2 ** 500 leaves.
LAUGHS = b")q\x00" + b"h\x00\x86q\x00" * 500


@pytest.mark.parametrize(
    "harmful",
    [
        b"}" + LAUGHS + b"K\x01s",  # as a key
        LAUGHS + b"X\x01\x00\x00\x00a\x93",  # as a module's name
        LAUGHS + b"}b",
        LAUGHS + b"K\x01R",
        LAUGHS,
        b"}X\x01\x00\x00\x00a" + LAUGHS + b"s",
        b"ccollections\nOrderedDict\n" + LAUGHS + b"R",
        tensor([2], [1])[2:-1].replace(b"(K\x02t", LAUGHS),  # as a size
    ],
)
def test_values_too_large_to_look_through_are_refused_quickly(tmp_path, harmful):
    began = time.process_time()
    with pytest.raises(UserError):
        load_prompts(archive(tmp_path / "x.pt", opcode(harmful), s0=DATA.tobytes()))
    assert time.process_time() - began < 5


class Harmful:
    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_calls_the_system_is_refused_and_not_run(tmp_path, protocol):
    proof = tmp_path / "proof"
    harmful = pickle.dumps({"prompt": Harmful(proof)}, protocol)
    with pytest.raises(UserError, match=r"names (posix|nt)\.system.*Nothing was run"):
        load_prompts(archive(tmp_path / "x.pt", harmful))
    # As old torch saved it, without an archive.
    (tmp_path / "old.pt").write_bytes(harmful)
    with pytest.raises(UserError, match="before 1.6.*save it again"):
        load_prompts(tmp_path / "old.pt")
    assert not proof.exists()
    pickle.loads(harmful)
    assert proof.exists()  # it would have done it


@pytest.mark.parametrize(
    "pickled",
    [
        opcode(b"(iposix\nsystem\n"),  # INST
        opcode(b"(cposix\nsystem\no"),  # OBJ
        opcode(b"cbuiltins\neval\n"),
        opcode(b"ctorch._utils\n_rebuild_tensor\n"),
        opcode(b"\x82\x01"),  # EXT1
        opcode(b"ccollections\nOrderedDict\n)\x81"),  # NEWOBJ
        opcode(b"Pfile\n"),  # PERSID by text
        opcode(b"ccollections\nOrderedDict\nK\x01R"),
        opcode(b"K\x01)R"),
        opcode(b"K\x01}b"),  # BUILD on a number
        opcode(b"]K\x01K\x02s"),
        opcode(b"}]K\x02s"),  # a key that has no hash
        opcode(b"}(K\x01u"),
        opcode(b"t"),
        opcode(b"h\x07"),
        opcode(b"0"),
        opcode(),
        b"\x80\x02K\x01",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\xff\xfe",
        b"",
    ],
)
def test_odd_and_broken_pickles_are_refused(pickled, tmp_path):
    with pytest.raises(UserError):
        inert_pickle.parse(pickled, ALLOWED, "x")
    with pytest.raises(UserError):
        load_prompts(archive(tmp_path / "x.pt", pickled))


@pytest.mark.parametrize(
    ("pickled", "entries", "message"),
    [
        (tensor([2, 3], [3, 1]), {}, r"lacks its entry archive/data/0"),
        (tensor([2, 3], [3, 1], key="../../../etc/passwd"), {}, "lacks its entry"),
        (tensor([2, 3], [3, 1]), {"s0": bytes(23)}, "where a tensor of floats"),
        (tensor([2, 3], [3, 1], storage="torch\nLongStorage"), {}, "names torch.LongStorage"),
        (tensor([2, 3], [3, 1]), {"s0": bytes(24), "byteorder": b"big"}, "only little"),
        (pickle.dumps({"a": 1}, 2), {}, "where a tensor of floats was expected"),
        (pickle.dumps([1], 2), {}, "holds list where"),
        (tensor([6], [1]), {"s0": bytes(24)}, r"shape \(6,\), expected \[length, width\]"),
    ],
)
def test_what_is_no_prompt_is_refused(tmp_path, pickled, entries, message):
    with pytest.raises(UserError, match=message):
        load_prompts(archive(tmp_path / "x.pt", pickled, **entries))


def test_a_dict_is_no_lone_prompt(tmp_path):
    one = tensor([2, 3], [3, 1])[2:-1]
    path = archive(tmp_path / "x.pt", opcode(b"}X\x01\x00\x00\x00w", one, b"s"), s0=DATA.tobytes())
    assert np.array_equal(read_archive(path)["w"], DATA.reshape(2, 3))
    with pytest.raises(UserError, match=r"holds the tensors \['w'\]"):
        load_prompts(path)


def test_compressed_and_damaged_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1 << 22))
    with pytest.raises(UserError, match="compressed or claims 4,194,304 bytes"):
        load_prompts(tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("readme.txt", "no tensor")
    with pytest.raises(UserError, match="torch.save did not write it"):
        load_prompts(tmp_path / "other.pt")
    whole = (RECORDED / "prefix_embeddings_cola.pt").read_bytes()
    for end in range(0, len(whole), 50):
        (tmp_path / "cut.pt").write_bytes(whole[:end])
        with pytest.raises(UserError):
            load_prompts(tmp_path / "cut.pt")
    numbers = DATA.tobytes()
    damaged = bytearray(archive(tmp_path / "a.pt", tensor([2, 3], [3, 1]), s0=numbers).read_bytes())
    damaged[damaged.index(numbers) + 5] ^= 0xFF
    (tmp_path / "flipped.pt").write_bytes(bytes(damaged))
    with pytest.raises(UserError, match="not a whole zip archive.*CRC"):
        load_prompts(tmp_path / "flipped.pt")


def test_flipped_bytes_never_raise_anything_else(tmp_path):
    whole = (RECORDED / "prefix_embeddings_cola.pt").read_bytes()
    stream = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[stream.integers(len(whole))] = stream.integers(256)
        try:
            _read_bytes(tmp_path, bytes(changed))
        except UserError:
            pass


def test_flipped_pickles_never_raise_anything_else():
    good = tensor([2, 3], [3, 1])
    stream = np.random.default_rng(0)
    for _ in range(2000):
        changed = bytearray(good)
        for _ in range(stream.integers(1, 4)):
            changed[stream.integers(len(good))] = stream.integers(256)
        try:
            inert_pickle.parse(bytes(changed), ALLOWED, "x")
        except UserError:
            pass


def _read_bytes(folder: Path, content: bytes) -> None:
    path = folder / "x.pt"
    path.write_bytes(io.BytesIO(content).getvalue())
    load_prompts(path)
