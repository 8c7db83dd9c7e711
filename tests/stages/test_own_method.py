"""The user's own method (examples/ia3.py): trained, scored, asked and exported without touching mpt_jax."""

import json
from pathlib import Path

import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.errors import UserError
from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.methods.registry import METHODS, method_named, register
from mpt_jax.models.formats.loading import load_backbone

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULE = f"--method_module={EXAMPLES / 'ia3.py'}"


def test_the_example_is_short():
    assert len((EXAMPLES / "ia3.py").read_text().splitlines()) < 60


@pytest.mark.slow
def test_a_method_from_outside_takes_the_whole_way(toy, own_methods, tmp_path, capsys, monkeypatch):
    run, scores = tmp_path / "ia3", tmp_path / "scores"
    gin = f"--gin_file={EXAMPLES / 'ia3.gin'}"
    # Without its module nobody knows it.
    assert toy.run("adapt", run, gin) == 1
    assert "unknown method 'ia3'" in (said := capsys.readouterr().err) and "--method_module" in said
    assert not run.exists()
    assert toy.run("adapt", run, gin, MODULE, **{"ia3/adapt.Variant.learning_rate": 0.1}) == 0
    members = toy.members(run)
    assert {member["kind"] for member in members.values()} == {"ia3"}
    arrays = toy.prompts(run)
    assert arrays and any(
        not np.array_equal(array, np.ones_like(array)) for array in arrays.values()
    )
    assert toy.run("evaluate", scores, MODULE, SOURCES=(str(run),), MAX_EXAMPLES=4) == 0
    found = json.loads((scores / "results.json").read_text())["scores"]
    assert {score["method"] for score in found} == {"ia3"}
    name = sorted(members)[0]
    monkeypatch.setattr("sys.stdin.read", lambda: "badge\nkit\n", raising=False)
    assert toy.run("infer", None, MODULE, f"--prompts={run}", f"--name={name}") == 0
    file = run / "prompts" / f"{name}.safetensors"
    assert main(["show", str(file), MODULE]) == 0
    model = tmp_path / "model"
    words = [str(file), "--format=hf", f"--backbone={toy.backbone}", f"--output={model}"]
    assert main(["export", *words, MODULE]) == 0
    (scale,) = (
        array
        for place, array in load_prompt_file(file).arrays.items()
        if place.startswith("encoder") and place.endswith("key/scale")
    )
    before, after = (
        load_backbone(folder)[1]["encoder"]["layers_0"]["attention"]["key"]["kernel"]
        for folder in (toy.backbone, model)
    )
    np.testing.assert_allclose(after, np.asarray(before) * scale[None], rtol=1e-6)


def test_names_are_taken_once(own_methods):
    bitfit = method_named("bitfit")
    assert register(bitfit) is bitfit  # once more changes nothing
    other = type("Other", (bitfit,), {})
    with pytest.raises(UserError, match="'bitfit' of .*Other is taken by .*BitFit"):
        register(other)
    assert METHODS["bitfit"] is bitfit


def test_a_missing_method_module(capsys):
    assert main(["show", "x", "--method_module=no/such.py"]) == 1
    assert "No method file" in capsys.readouterr().err
    assert main(["show", "x", "--method_module=no_such_module"]) == 1
    assert "No method module 'no_such_module'" in capsys.readouterr().err
