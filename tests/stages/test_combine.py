"""`mpt combine` on the prompts of a finished run, and what can be done with the result."""

import re

import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.methods.references import digest

HEAD, TAIL = "toy_head", "toy_tail"


@pytest.fixture
def mpt(capsys):
    """Runs a command that must succeed (or fail, with `code=1`), and returns what it said."""

    def run(*words, code=0):
        assert main([str(word) for word in words]) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return re.sub(r"\s+", " ", captured.out if code == 0 else captured.err)

    return run


@pytest.fixture
def combine(mpt, tmp_path):
    """`mpt combine` into tmp_path/new.safetensors; returns what was said."""

    def run(*prompts, code=0, base=None):
        flags = [f"--prompt={prompt}" for prompt in prompts]
        flags += [] if base is None else [f"--base={base}"]
        return mpt(
            "combine", *flags, "--task_name=new", f"--output={tmp_path / 'new.safetensors'}",
            code=code,
        )  # fmt: skip

    return run


@pytest.fixture
def teachers(whole_job):
    """The teachers' run, and a prompt [P, D] by task."""
    run = whole_job / "teach"
    files = [load_prompt_file(path) for path in (run / "prompts").rglob("*.safetensors")]
    return run, {file.metadata.task_names[0]: file.prompt() for file in files}


@pytest.fixture
def distilled(whole_job):
    return whole_job / "distill" / "prompts" / "mpt" / "seed0.safetensors"


def test_teachers_whose_base_cancels(combine, mpt, teachers, tmp_path):
    run, prompts = teachers
    names = [path.stem for path in sorted((run / "prompts").iterdir())]
    assert HEAD in names and TAIL in names
    said = combine(f"{run}:{HEAD}=1", f"{run}:{TAIL}=1", f"{run}:toy_sound=-1")
    assert "of 3 prompts" in said and "base: none, the weights sum to 1" in said
    new = load_prompt_file(tmp_path / "new.safetensors")
    assert (new.metadata.kind, new.metadata.task_names) == ("prompt_tuning", ("new",))
    expected = prompts[HEAD] + prompts[TAIL] - prompts["toy_sound"]
    np.testing.assert_allclose(new.prompt(), expected, rtol=1e-5, atol=1e-6)
    origin = new.metadata.scores["combined_from"]
    assert origin["base"] is None
    assert [source["weight"] for source in origin["prompts"]] == [1, 1, -1]
    assert [source["task"] for source in origin["prompts"]] == [HEAD, TAIL, "toy_sound"]
    assert origin["prompts"][0]["sha256"] == digest(prompts[HEAD])
    assert "combined_from" in mpt("show", tmp_path / "new.safetensors")


def test_the_shared_prompt_is_the_base_of_its_tasks(combine, distilled, tmp_path):
    said = combine(f"{distilled}#{HEAD}=0.5", f"{distilled}#{TAIL}=-2")
    file = load_prompt_file(distilled)
    shared = file.arrays["shared"]
    assert f"base: the shared prompt that all of them have (SHA-256 {digest(shared)[:16]}" in said
    new = load_prompt_file(tmp_path / "new.safetensors")
    expected = shared + 0.5 * (file.prompt(HEAD) - shared) - 2 * (file.prompt(TAIL) - shared)
    np.testing.assert_allclose(new.prompt(), expected, rtol=1e-5, atol=1e-6)
    assert new.metadata.scores["combined_from"]["base"]["sha256"] == digest(shared)


def test_a_base_that_is_given(combine, distilled, teachers, tmp_path):
    run, prompts = teachers
    shared = load_prompt_file(distilled).take([])
    path = tmp_path / "shared.safetensors"
    save_prompt_file(path, shared.arrays, **shared.metadata.arguments())
    assert f"base: {path}" in combine(f"{run}:{HEAD}=3", base=path)
    found, base = load_prompt_file(tmp_path / "new.safetensors").prompt(), shared.arrays["shared"]
    np.testing.assert_allclose(found, base + 3 * (prompts[HEAD] - base), rtol=1e-5, atol=1e-5)


def test_what_is_wrong_is_said(combine, teachers, distilled, tmp_path):
    run, _ = teachers
    assert "sum to 2" in combine(f"{run}:{HEAD}=1", f"{run}:{TAIL}=1", code=1)
    assert "did you mean 'toy_head'" in combine(f"{run}:toy_haed=1", code=1)
    assert f"{run}:{HEAD}" in combine(f"{run}=1", code=1)
    assert "did you mean 'toy_tail'" in combine(f"{distilled}#toy_tial=1", code=1)
    assert "name one of them" in combine(f"{distilled}=1", code=1)
    assert "expected SOURCE[:NAME][#TASK]=WEIGHT" in combine(f"{run}:{HEAD}", code=1)
    assert "expected SOURCE[:NAME][#TASK]=WEIGHT" in combine(f"{run}:{HEAD}=much", code=1)
    assert "holds no prompt files" in combine(f"{tmp_path / 'nowhere'}:{HEAD}=1", code=1)
    np.save(tmp_path / "x.npy", np.zeros((3, 16), np.float32))
    assert "mpt import" in combine(f"{tmp_path / 'x.npy'}=1", code=1)
    file = load_prompt_file(run / "prompts" / f"{HEAD}.safetensors")
    about = file.metadata.arguments()
    for name, arrays, changed in (
        ("other", file.arrays, {"backbone_fingerprint": "0" * 64}),
        ("short", {"prompt": file.arrays["prompt"][:, :2]}, {}),
    ):
        save_prompt_file(tmp_path / f"{name}.safetensors", arrays, **about | changed)
    half = f"{run}:{HEAD}=0.5"
    said = combine(half, f"{tmp_path / 'other.safetensors'}=0.5", code=1)
    assert "backbone_fingerprint" in said and "0" * 64 in said
    assert "(3, 16), (2, 16)" in combine(half, f"{tmp_path / 'short.safetensors'}=0.5", code=1)
    assert not (tmp_path / "new.safetensors").exists()
    combine(f"{run}:{HEAD}=1")
    before = (tmp_path / "new.safetensors").read_bytes()
    assert "exists" in combine(f"{run}:{TAIL}=1", code=1)
    assert (tmp_path / "new.safetensors").read_bytes() == before


def test_the_result_answers_and_is_a_start(combine, toy, teachers, tmp_path):
    run, _ = teachers
    combine(f"{run}:{HEAD}=0.5", f"{run}:{TAIL}=0.5")
    new = tmp_path / "new.safetensors"
    texts, answers = tmp_path / "texts.txt", tmp_path / "answers.txt"
    texts.write_text("badge\nkit\n")
    assert (
        toy.run("infer", None, f"--prompts={new}", f"--input={texts}", f"--output={answers}") == 0
    )
    assert answers.read_bytes().count(b"\n") == 2

    # As the only teacher, and as the initialiser of plain prompts; without a step it is the result.
    own = tmp_path / "own.gin"
    own.write_text(
        "from __gin__ import dynamic_registration\n"
        "from mpt_jax.methods import initialisers\n"
        "from mpt_jax.stages import adapt\n"
        "adapt.run.initialiser = @initialisers.from_file\n"
        f"initialisers.from_file.path = {str(new)!r}\n"
    )
    expected = load_prompt_file(new).arrays["prompt"]
    for name, *flags in (("spot",), ("prompt_tuning", f"--gin_file={own}")):
        sources = {"SOURCE_DIR": None, "TEACHER_DIR": str(new) if name == "spot" else None}
        code = toy.run(
            "adapt", tmp_path / name, *flags, METHOD=name, MIXTURE_OR_TASK_NAME="toy_turn",
            SEEDS=(0,), LEARNING_RATE=0.0, TRAIN_STEPS=1, EVAL_PERIOD=1, CHECKPOINT_PERIOD=1, **sources,
        )  # fmt: skip
        assert code == 0
        (found,) = toy.prompts(tmp_path / name).values()
        np.testing.assert_array_equal(found, expected)
