import jax
import numpy as np
import pytest
import safetensors.numpy

from mpt_jax.errors import UserError
from mpt_jax.methods import initialisers
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_file import (
    METADATA_KEY,
    PromptFileError,
    load_prompt_file,
    save_prompt_file,
)
from mpt_jax.methods.prompt_tuning import PromptTuning

EMBEDDINGS = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)


def save(path, method, names, arrays=None, **fields):
    rng = np.random.default_rng(7)
    params = method.init(jax.random.key(0), initialisers.sampled_vocabulary, EMBEDDINGS)
    params = {n: rng.normal(size=a.shape).astype(np.float32) for n, a in params.items()}
    save_prompt_file(
        path,
        method.export(params, 0) if arrays is None else arrays,
        kind=method.kind,
        task_names=names,
        backbone_fingerprint="aaaa",
        backbone_name="tiny",
        vocabulary_fingerprint="cccc",
        **fields,
    )
    return params


@pytest.mark.parametrize(
    "method",
    [
        MPT(members=2, tasks=2, length=8, width=16, rank=2, lengths=(5, 8)),
        PromptTuning(name="spot", members=2, tasks=2, length=8, width=16, lengths=(5, 8)),
    ],
    ids=lambda method: method.kind,
)
def test_round_trip_keeps_prompts_and_metadata(tmp_path, method):
    path = tmp_path / "new" / "p.safetensors"
    scores = {"past": {"validation/exact_match": 0.5}}
    params = save(path, method, ["past", "plural"], scores=scores, step=40, source_run="runs/a")
    file = load_prompt_file(path, expect_backbone="aaaa", expect_width=16)
    for k, name in enumerate(["past", "plural"]):
        assert np.array_equal(file.prompt(name), method.materialise(params, 0, k))
    data = file.metadata
    assert (data.kind, data.length, data.width) == (method.kind, 5, 16)
    assert data.rank == getattr(method, "rank", None)
    assert (data.task_names, data.scores, data.step) == (("past", "plural"), scores, 40)
    assert (data.backbone_name, data.vocabulary_fingerprint) == ("tiny", "cccc")
    assert data.source_run == "runs/a" and data.tool_version
    assert list(path.parent.iterdir()) == [path]  # no temporary file left


def test_stored_size_is_the_numbers_and_a_small_header(tmp_path):
    method = MPT(members=1, tasks=3, length=8, width=16)
    save(tmp_path / "a.safetensors", method, list("abc"))
    size = (tmp_path / "a.safetensors").stat().st_size
    assert 0 < size - 4 * method.count() < 1500
    # A further task costs P*R + R*D numbers.
    save(tmp_path / "b.safetensors", MPT(members=1, tasks=4, length=8, width=16), list("abcd"))
    more = (tmp_path / "b.safetensors").stat().st_size - size
    assert 4 * (8 + 16) <= more < 4 * (8 + 16) + 64


def test_files_are_never_overwritten_silently(tmp_path):
    path = tmp_path / "p.safetensors"
    method = PromptTuning(members=1, tasks=1, length=3, width=16)
    save(path, method, ["old"])
    with pytest.raises(PromptFileError, match="overwrite=True"):
        save(path, method, ["new"])
    assert load_prompt_file(path).metadata.task_names == ("old",)
    save(path, method, ["new"], overwrite=True)
    assert load_prompt_file(path).metadata.task_names == ("new",)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "p.safetensors"
    method = PromptTuning(members=1, tasks=1, length=3, width=16)
    save(path, method, ["old"])
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(path, method, ["new"], overwrite=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_writing_twice_gives_the_same_bytes(tmp_path):
    method = MPT(members=1, tasks=2, length=3, width=16)
    for name in "ab":
        save(tmp_path / f"{name}.safetensors", method, ["x", "y"], scores={"y": 1, "x": 2})
    a, b = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
    assert a == b


def test_another_backbone_is_refused_with_both_fingerprints(tmp_path):
    path = tmp_path / "p.safetensors"
    save(path, PromptTuning(members=1, tasks=1, length=3, width=16), ["past"])
    with pytest.raises(PromptFileError, match="aaaa.*bbbb"):
        load_prompt_file(path, expect_backbone="bbbb")
    with pytest.raises(PromptFileError, match="width 16.*width 32"):
        load_prompt_file(path, expect_width=32)


def test_unknown_task_names_the_nearest(tmp_path):
    path = tmp_path / "p.safetensors"
    save(path, PromptTuning(members=1, tasks=2, length=3, width=16), ["past", "plural"])
    file = load_prompt_file(path)
    with pytest.raises(UserError, match="did you mean 'plural'"):
        file.prompt("plurl")
    with pytest.raises(UserError, match="name one of them"):
        file.prompt()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    save(path, PromptTuning(members=1, tasks=1, length=3, width=16), ["past"])
    whole = path.read_bytes()
    for end in (0, 5, 100, len(whole) - 4):
        path.write_bytes(whole[:end])
        with pytest.raises(PromptFileError, match="truncated"):
            load_prompt_file(path)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(
        safetensors.numpy.save({"prompt_embeddings": np.zeros((3, 16), np.float32)})
    )
    with pytest.raises(PromptFileError, match="not one of mpt_jax's.*prompt_embeddings"):
        load_prompt_file(foreign)
    path.write_bytes(whole.replace(b'format_version\\": 1', b'format_version\\": 9'))
    with pytest.raises(PromptFileError, match="format version 9"):
        load_prompt_file(path)
    path.write_bytes(whole.replace(b'task_names\\"', b'task_mames\\"'))
    with pytest.raises(PromptFileError, match="unreadable metadata"):
        load_prompt_file(path)
    nested = {METADATA_KEY: "[" * 100_000}
    path.write_bytes(safetensors.numpy.save({"prompt": np.zeros((1, 3, 16), np.float32)}, nested))
    with pytest.raises(PromptFileError, match="unreadable metadata"):
        load_prompt_file(path)
    save(path, PromptTuning(members=1, tasks=1, length=3, width=16), ["past"], overwrite=True)
    whole = bytearray(path.read_bytes())
    whole[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(whole)
    with pytest.raises(PromptFileError, match="'prompt' holds values that are NaN"):
        load_prompt_file(path)
    with pytest.raises(PromptFileError, match="No prompt file"):
        load_prompt_file(tmp_path / "absent.safetensors")


def test_what_does_not_fit_together_is_not_written(tmp_path):
    path = tmp_path / "p.safetensors"
    method = PromptTuning(members=1, tasks=2, length=3, width=16)
    with pytest.raises(PromptFileError, match="2 prompts need as many different task names"):
        save(path, method, ["past"])
    with pytest.raises(PromptFileError, match="one member's parameters"):
        save(path, method, ["past", "plural"], arrays={"prompt": np.zeros((1, 2, 3, 16))})
    mpt = MPT(members=1, tasks=2, length=3, width=16)
    arrays = {"shared": np.zeros((3, 16)), "u": np.zeros((2, 3, 1)), "v": np.zeros((2, 2, 16))}
    with pytest.raises(PromptFileError, match="one member's parameters"):
        save(path, mpt, ["past", "plural"], arrays=arrays)
    with pytest.raises(PromptFileError, match="end in .safetensors"):
        save(tmp_path / "p.npy", method, ["past", "plural"])
    assert not list(tmp_path.iterdir())


def test_a_prompt_starts_from_a_prompt_file(tmp_path):
    path = tmp_path / "p.safetensors"
    method = MPT(members=1, tasks=2, length=3, width=16)
    params = save(path, method, ["past", "plural"])
    started = initialisers.from_file(jax.random.key(0), EMBEDDINGS, 3, path=path, task="plural")
    assert np.array_equal(started, method.materialise(params, 0, 1))
    # The paper's start for a target task, straight from the file.
    target = MPT(members=1, tasks=1, length=3, width=16)
    start = target.start_from_average(0, load_prompt_file(path).arrays)
    assert np.array_equal(start["shared"], params["shared"][0])
