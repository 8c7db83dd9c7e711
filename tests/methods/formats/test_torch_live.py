"""Files of the real torch.save, in the ways that ATTEMPT and PEFT use it."""

import warnings

import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.formats.torch_archive import read_archive
from mpt_jax.methods.prompt_sources import load_prompts

from .conftest import numbers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the `parity` extra (torch)")


@pytest.fixture
def weights():
    return torch.tensor(numbers(2, 5, 4))


def test_parameters_slices_and_transposes(tmp_path, weights):
    expected = weights.numpy()
    for name, saved, wanted in [
        ("parameter", torch.nn.Parameter(weights[0].clone()), expected[0]),
        ("slice", torch.nn.Parameter(weights)[1], expected[1]),
        ("transpose", weights[0].T, expected[0].T),
        ("every_second", weights[1, ::2], expected[1, ::2]),
    ]:
        torch.save(saved, tmp_path / f"{name}.pt")
        prompt = load_prompts(tmp_path / f"{name}.pt").prompt()
        assert prompt.tobytes() == np.ascontiguousarray(wanted).tobytes(), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats(tmp_path, weights, dtype):
    saved = weights[0].to(getattr(torch, dtype))
    torch.save(saved, tmp_path / "x.pt")
    assert np.array_equal(load_prompts(tmp_path / "x.pt").prompt(), saved.float().numpy())


def test_a_state_dict(tmp_path):
    layer = torch.nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "x.bin")
    found = read_archive(tmp_path / "x.bin")
    assert {n: a.tobytes() for n, a in found.items()} == {
        n: t.numpy().tobytes() for n, t in layer.state_dict().items()
    }


def test_what_is_not_read(tmp_path, weights):
    old = {"_use_new_zipfile_serialization": False}
    torch.save(weights[0], tmp_path / "old.pt", **old)
    with pytest.raises(UserError, match="before 1.6"):
        load_prompts(tmp_path / "old.pt")
    torch.save(torch.nn.Linear(3, 2), tmp_path / "module.pt")
    with pytest.raises(UserError, match="names torch.nn.modules.linear.Linear"):
        load_prompts(tmp_path / "module.pt")
    torch.save(torch.arange(6).reshape(2, 3), tmp_path / "whole_numbers.pt")
    with pytest.raises(UserError, match="names torch.LongStorage"):
        load_prompts(tmp_path / "whole_numbers.pt")
