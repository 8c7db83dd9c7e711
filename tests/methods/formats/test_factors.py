"""Shared prompt and task factors in files of their own."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from mpt_jax.errors import UserError
from mpt_jax.methods import references
from mpt_jax.methods.formats import factors
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_file import METADATA_KEY, load_prompt_file

from .conftest import K, P, R


@pytest.fixture
def folder(make_prompts, tmp_path):
    factors.write(make_prompts("mpt"), tmp_path / "tasks")
    return tmp_path / "tasks"


def test_small_files_give_the_same_prompts(make_prompts, folder):
    prompts = make_prompts("mpt", name="again")
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.safetensors", "b.safetensors", "c.safetensors", "shared.safetensors",
    ]  # fmt: skip
    for task in "abc":
        small = load_prompt_file(folder / f"{task}.safetensors", expect_backbone="aaaa")
        assert small.metadata.task_names == (task,) and small.metadata.step == 30
        assert small.prompt().tobytes() == prompts.prompt(task).tobytes()
        stored = safetensors.numpy.load_file(folder / f"{task}.safetensors")
        assert stored.keys() == {"u", "v"}  # and no shared prompt
    shared = load_prompt_file(folder / "shared.safetensors")
    assert shared.metadata.task_names == () and shared.metadata.rank == R
    assert np.array_equal(shared.arrays["shared"], prompts.arrays["shared"])


def test_fifty_tasks_take_the_shared_prompt_once(make_prompts, tmp_path):
    length, width, count = 100, 768, 50
    names = tuple(f"task{k}" for k in range(count))
    factors.write(make_prompts("mpt", names, length=length, width=width), tmp_path / "tasks")
    sizes = {path.stem: path.stat().st_size for path in (tmp_path / "tasks").iterdir()}
    header = 1500
    assert len(sizes) == count + 1
    assert 0 <= sizes.pop("shared") - 4 * length * width < header
    assert all(0 <= size - 4 * R * (length + width) < header for size in sizes.values())


def test_a_shared_file_has_no_factors_to_average(folder):
    shared = load_prompt_file(folder / "shared.safetensors")
    method = MPT(members=1, tasks=1, length=P, width=shared.metadata.width, rank=R)
    with pytest.raises(UserError, match="no factors to average"):
        method.start_from_average(0, shared.arrays)


def test_the_shared_file_has_to_be_there_and_the_same(make_prompts, folder, tmp_path):
    small, shared = folder / "a.safetensors", folder / "shared.safetensors"
    content = shared.read_bytes()
    shared.unlink()
    with pytest.raises(UserError, match=r"a\.safetensors takes its 'shared' from .*shared\.safet"):
        load_prompt_file(small)
    other = make_prompts("mpt", name="other", length=P + 1)
    factors.write(other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "shared.safetensors", shared)
    with pytest.raises(
        UserError, match=r"a\.safetensors needs .*SHA-256.*shared\.safetensors holds"
    ):
        load_prompt_file(small)
    shutil.copy(folder / "b.safetensors", shared)  # which refers to another file itself
    with pytest.raises(UserError, match="does not hold it"):
        load_prompt_file(small)
    shared.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"shared\.safetensors is truncated"):
        load_prompt_file(small)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "x/../../outside", ""])
def test_references_that_lead_out_are_refused(folder, file):
    small = folder / "a.safetensors"
    tensors = safetensors.numpy.load_file(small)
    with safetensors.safe_open(small, "numpy") as opened:
        metadata = json.loads(opened.metadata()[METADATA_KEY])
    metadata["references"]["shared"]["file"] = file
    content = safetensors.numpy.save(tensors, {METADATA_KEY: json.dumps(metadata)})
    small.write_bytes(content)
    message = "which does not exist" if file == "" else "leads out of its folder"
    with pytest.raises(UserError, match=message):
        load_prompt_file(small)


def test_a_file_cannot_refer_to_its_parents_folder(folder):
    with pytest.raises(UserError, match="in or below its own folder"):
        references.refer(folder / "below" / "x.safetensors", "shared", folder / factors.FILE)


def test_an_old_reader_is_told_of_the_version(folder):
    """Files without references stay as they were, so that older versions read them."""
    for name, version in (("shared", 1), ("a", 2)):
        file = load_prompt_file(folder / f"{name}.safetensors")
        assert file.metadata.format_version == version
        assert bool(file.metadata.references) == (version == 2)
    with safetensors.safe_open(folder / "shared.safetensors", "numpy") as opened:
        assert "references" not in json.loads(opened.metadata()[METADATA_KEY])


def test_only_the_very_same_shared_prompt_is_referred_to(make_prompts, folder):
    changed = make_prompts("mpt", ("d",), name="d")
    changed.arrays["shared"][0, 0] += 1e-3
    with pytest.raises(UserError, match="'shared' is not the one in"):
        factors.add(folder, changed, folder / "d.safetensors")
    assert not (folder / "d.safetensors").exists()
    factors.add(folder, make_prompts("mpt", ("d",), name="e"), folder / "d.safetensors")
    assert load_prompt_file(folder / "d.safetensors").metadata.task_names == ("d",)


def test_what_cannot_be_kept_apart(make_prompts, tmp_path):
    with pytest.raises(UserError, match="prompt_tuning have no shared part"):
        factors.write(make_prompts("prompt_tuning"), tmp_path / "x")
    with pytest.raises(UserError, match="too alike"):
        factors.write(make_prompts("mpt", ("a/b", "a b"), name="alike"), tmp_path / "x")
    with pytest.raises(UserError, match="too alike|exists"):
        factors.write(make_prompts("mpt", ("shared",), name="named"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_taking_tasks(make_prompts):
    prompts = make_prompts("mpt")
    taken = prompts.take(["c", "a"])
    assert taken.metadata.shapes["u"] == (2, P, R) and len(prompts.metadata.task_names) == K
    assert np.array_equal(taken.prompt("a"), prompts.prompt("a"))
    with pytest.raises(UserError, match="did you mean|known are"):
        prompts.take(["aa"])
    with pytest.raises(UserError, match="once"):
        prompts.take(["a", "a"])
