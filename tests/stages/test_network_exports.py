"""Network methods through `mpt`: the variants of gin/methods.gin, and what is exported answers alike."""

import re

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mpt_jax.cli import main
from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.models.fingerprint import fingerprint
from mpt_jax.models.formats.loading import load_backbone

METHODS = ("full", "full_multi", "bitfit", "adapter", "adapter_shared", "adapter_pfeiffer", "lora")
NOTHING = {"SOURCE_DIR": None, "TEACHER_DIR": None, "SHOTS": (4,), "SEEDS": (0,)}


@pytest.fixture
def mpt(capsys):
    """Runs a command that must succeed (or fail, with `code=1`), and returns what it said."""

    def run(*words, code=0):
        capsys.readouterr()
        assert main([str(word) for word in words]) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return re.sub(r"\s+", " ", captured.out if code == 0 else captured.err)

    return run


def answers(toy, capsys, *flags, **macros):
    capsys.readouterr()
    assert toy.run("infer", None, *map(str, flags), **macros) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_every_variant_trains_and_what_is_exported_answers_alike(
    toy, mpt, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    rate = {"WEIGHTS_LEARNING_RATE": 0.02, "EVAL_PERIOD": 0, "TRAIN_STEPS": 3}
    assert toy.run("adapt", run, **NOTHING, METHOD=METHODS, **rate) == 0
    members = toy.members(run)
    assert {member["method"] for member in members.values()} == set(METHODS)
    task = next(m["tasks"][0] for m in members.values() if len(m["tasks"]) == 1)
    assert len(members[next(n for n in members if n.endswith("full_multi"))]["tasks"]) > 1
    monkeypatch.setattr("sys.stdin.read", lambda: "badge\nkit\n", raising=False)
    files = {m: run / "prompts" / task / "k4" / "seed0" / f"{m}.safetensors" for m in METHODS}
    backbone = f"--backbone={toy.backbone}"
    for method in ("full", "lora"):
        folder = tmp_path / method
        mpt("export", files[method], "--format=hf", backbone, f"--output={folder}")
        weights = load_backbone(folder)[1]
        assert fingerprint(weights) != load_prompt_file(files[method]).metadata.backbone_fingerprint
        if method == "full":
            assert all(
                np.array_equal(flatten_dict(weights, sep="/")[name], array)
                for name, array in load_prompt_file(files[method]).arrays.items()
            )
    assert "--backbone=FOLDER" in mpt(
        "export", files["lora"], "--format=hf", f"--output={tmp_path / 'x'}", code=1
    )
    adapter = tmp_path / "adapter"
    mpt("export", files["lora"], "--format=peft", f"--output={adapter}")
    expected = answers(toy, capsys, f"--prompts={files['lora']}")
    with pytest.warns(UserWarning, match="cannot be verified"):
        assert answers(toy, capsys, f"--prompts={adapter}") == expected
    back = tmp_path / "back.safetensors"
    flag = f"--gin.INITIAL_CHECKPOINT_PATH={str(toy.backbone)!r}"
    said = mpt("import", adapter, f"--output={back}", flag)
    assert "lora" in said and "P = 0" not in said
    before, after = load_prompt_file(files["lora"]), load_prompt_file(back)
    assert after.metadata.settings == before.metadata.settings
    assert after.metadata.task_names == before.metadata.task_names
    assert all(np.array_equal(after.arrays[n], array) for n, array in before.arrays.items())
    assert answers(toy, capsys, f"--prompts={back}") == expected
    # What has no other form says so, and leaves nothing behind.
    for method in ("bitfit", "adapter", "adapter_pfeiffer"):
        for form in ("hf", "peft", "npy", "factors"):
            more = [backbone] if form == "hf" else []
            out = tmp_path / "none"
            said = mpt(
                "export", files[method], f"--format={form}", *more, f"--output={out}", code=1
            )
            assert not out.exists() and method.partition("_")[0] in said, said
