"""Arrays as prompt-tuning keeps them: `.npy` files and numpy_checkpoints/."""

import struct

import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.formats import numpy_array
from mpt_jax.methods.prompt_sources import load_prompts

from .conftest import D, P, numbers

VARIABLE = "encoder.prompt.prompt.prompt"


@pytest.fixture
def run_folder(tmp_path):
    """What a run of prompt-tuning leaves: steps 9 and 10, and one that was never finished."""
    for step in ("9", "10", "11.tmp-1700000000"):
        folder = tmp_path / "boolq" / "numpy_checkpoints" / f"checkpoint_{step}"
        folder.mkdir(parents=True)
        with open(folder / VARIABLE, "wb") as file:
            np.save(file, numbers(P, D, seed=len(step)))
    return tmp_path / "boolq"


def test_the_latest_step_of_a_run(run_folder):
    checkpoints = run_folder / "numpy_checkpoints"
    for path in (run_folder, checkpoints, checkpoints / "checkpoint_10"):
        prompts = load_prompts(path)
        assert (prompts.metadata.step, prompts.metadata.task_names) == (10, ("boolq",))
        assert np.array_equal(prompts.prompt(), numbers(P, D, seed=2))
    for path in (checkpoints / "checkpoint_9", checkpoints / "checkpoint_9" / VARIABLE):
        assert load_prompts(path).metadata.step == 9
        assert np.array_equal(load_prompts(path).prompt(), numbers(P, D, seed=1))


def test_a_run_without_the_variable_says_what_is_there(tmp_path):
    folder = tmp_path / "numpy_checkpoints" / "checkpoint_5"
    folder.mkdir(parents=True)
    np.save(folder / "decoder.prompt.npy", numbers(P, D))
    with pytest.raises(UserError, match="holds no encoder.prompt.prompt.prompt"):
        load_prompts(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_in_either_order(tmp_path, dtype, order):
    stored = np.asarray(numbers(P, D).astype(dtype), order=order)
    np.save(tmp_path / "sst2.npy", stored)
    prompts = load_prompts(tmp_path / "sst2.npy")
    assert prompts.metadata.task_names == ("sst2",)
    assert np.array_equal(prompts.prompt(), stored.astype(np.float32))


def test_ours_to_npy_to_ours_is_exact(make_prompts, tmp_path):
    prompts = make_prompts("mpt")
    numpy_array.write(prompts.take(["b"]), tmp_path / "b.npy")
    lines = numpy_array.write(prompts.take(["b"]), tmp_path / "run")
    file = tmp_path / "run" / "numpy_checkpoints" / "checkpoint_30" / VARIABLE
    assert lines == [f"b: {file}"]
    for path in (tmp_path / "b.npy", file):
        found = np.load(path)  # as anyone reads it
        assert found.dtype == np.float32 and found.tobytes() == prompts.prompt("b").tobytes()
    assert load_prompts(tmp_path / "run").prompt().tobytes() == prompts.prompt("b").tobytes()
    assert load_prompts(tmp_path / "run").metadata.step == 30
    for place in ("b.npy", "run"):
        with pytest.raises(UserError, match="nothing is overwritten"):
            numpy_array.write(prompts.take(["b"]), tmp_path / place)
    with pytest.raises(UserError, match="there are 3: a, b, c"):
        numpy_array.write(prompts, tmp_path / "all.npy")
    assert not (tmp_path / "all.npy").exists()


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr': '|V2', 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
        "__import__('os').system('true')",
        "{",
    ],
)
def test_hostile_headers_are_refused(tmp_path, header):
    (tmp_path / "x.npy").write_bytes(npy(header, bytes(64)))
    with pytest.raises(UserError):
        load_prompts(tmp_path / "x.npy")


def test_every_cut_is_refused(tmp_path):
    np.save(tmp_path / "whole.npy", numbers(P, D))
    whole = (tmp_path / "whole.npy").read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "cut.npy").write_bytes(whole[:end])
        with pytest.raises(UserError, match="not a whole .npy file"):
            load_prompts(tmp_path / "cut.npy")


def test_values_that_are_not_finite_are_refused(tmp_path):
    stored = numbers(P, D)
    stored[1, 1] = np.inf
    np.save(tmp_path / "x.npy", stored)
    with pytest.raises(UserError, match="NaN or infinite"):
        load_prompts(tmp_path / "x.npy")


def test_a_file_of_unknown_form_is_answered_with_those_that_are_known(tmp_path):
    (tmp_path / "prompt").write_text("no array")
    with pytest.raises(UserError, match=r"known(.|\n)*adapter_config.json(.|\n)*numpy_checkpoints"):
        load_prompts(tmp_path / "prompt")
