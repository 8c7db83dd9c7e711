"""Stages on a backbone in int8: what is recorded, what is refused, and what only gets a note."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.stages import backbone as backbone_stage
from mpt_jax.stages.backbone import BackboneSource

INT8 = "--gin.backbone.BackboneSource.weights='int8'"
ALONE = {"SOURCE_DIR": None, "TEACHER_DIR": None, "SEEDS": (0,)}


@pytest.fixture(scope="module")
def in_int8(toy, tmp_path_factory):
    """A run of adapt whose methods change the network, and one that does not."""
    folder = tmp_path_factory.mktemp("int8") / "adapt"
    methods = ("prompt_tuning", "bitfit", "lora", "adapter")
    assert toy.run("adapt", folder, INT8, METHOD=methods, **ALONE) == 0
    return folder


def test_prompts_say_on_what_they_were_trained(toy, in_int8, whole_job, capsys):
    found = {
        path.stem: load_prompt_file(path).metadata
        for path in (in_int8 / "prompts").rglob("*.safetensors")
    }
    assert set(found) == {"prompt_tuning", "bitfit", "lora", "adapter"}
    before = load_prompt_file(next((whole_job / "adapt/prompts").rglob("*.safetensors"))).metadata
    for about in found.values():
        assert (about.backbone_precision, about.format_version) == ("int8 in float32", 4)
        assert about.backbone_fingerprint == before.backbone_fingerprint
    assert before.backbone_precision == "float32"
    assert toy.run("show", None, str(next((in_int8 / "prompts").rglob("lora.safetensors")))) == 0
    assert "in int8 in float32" in capsys.readouterr().out


def test_prompts_run_in_another_precision_with_a_note(toy, in_int8, tmp_path, capfd):
    """And evaluation says in which."""
    for folder, words, precision in (
        ("same", (INT8,), "int8 in float32"),
        ("other", (), "float32"),
    ):
        sources = {"SOURCES": (str(in_int8),)}
        assert toy.run("evaluate", tmp_path / folder, *words, **sources) == 0
        noted = "were trained on the backbone in int8 in float32" in capfd.readouterr().err
        assert noted == (folder == "other")
        results = json.loads((tmp_path / folder / "results.json").read_text())
        assert results["backbone"]["precision"] == precision
        assert ("in int8" in (tmp_path / folder / "report.md").read_text()) == (folder == "same")


def test_a_run_is_not_resumed_in_another_precision(toy, tmp_path, capsys):
    assert toy.run("teach", tmp_path / "run") == 0
    assert toy.run("teach", tmp_path / "run", INT8) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "was trained on the backbone in float32" in said and "int8 in float32" in said


def test_int8_trains_other_prompts_than_float32(toy, tmp_path, whole_job):
    assert toy.run("teach", tmp_path / "run", INT8) == 0
    found, exact = toy.prompts(tmp_path / "run"), toy.prompts(whole_job / "teach")
    assert set(found) == set(exact)
    assert any(not np.array_equal(found[name], exact[name]) for name in exact)


def test_whole_weights_are_refused_before_anything_is_loaded(toy, tmp_path, monkeypatch, capsys):
    def never(folder):
        raise AssertionError("loaded")

    monkeypatch.setattr(backbone_stage, "open_weights", never)
    assert toy.run("adapt", tmp_path / "run", INT8, METHOD="full", **ALONE) == 1
    assert "full trains the weights themselves" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_an_unknown_precision_and_the_nearest(toy, tmp_path, capsys):
    wrong = "--gin.backbone.BackboneSource.weights='int9'"
    assert toy.run("teach", tmp_path / "run", wrong) == 1
    assert "did you mean 'int8'" in " ".join(capsys.readouterr().err.split())


def logits_and_gradient(source, prompt):
    """Of four words behind a prompt, on the shipped backbone."""
    backbone = source.open()
    words, vocabulary = ("walk", "inflect", "houses", "beautifully"), backbone.vocabulary
    inputs = np.zeros((4, len(prompt) + 14), np.int32)
    for row, word in zip(inputs, words, strict=True):
        ids = [*vocabulary.encode(word), 1]
        row[: len(prompt)] = vocabulary.vocab_size  # virtual
        row[len(prompt) : len(prompt) + len(ids)] = ids
    targets = np.array([vocabulary.encode(word[:4]) for word in words], np.int32)
    starts = np.concatenate([np.zeros((4, 1), np.int32), targets[:, :-1]], axis=1)

    def loss(prompt):
        def embed(ids, words):
            return words.astype(jnp.float32).at[:, : len(prompt)].set(prompt)

        logits = backbone.network.apply(
            {"params": backbone.params}, jnp.asarray(inputs), jnp.asarray(starts), embed=embed
        )
        scores = jax.nn.log_softmax(logits)
        return -jnp.sum(
            jnp.take_along_axis(scores, jnp.asarray(targets)[..., None], axis=-1)
        ), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(prompt)
    return logits, gradient


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [({"weights": "int8"}, (0.015, 0.1)), ({"weights": "bfloat16"}, (0.01, 0.03)),
     ({"weights": "int8", "dtype": "bfloat16"}, (0.03, 0.2))],
)  # fmt: skip
def test_logits_and_gradients_are_close_to_float32s(settings, bounds):
    """On the shipped, trained backbone, as root mean squares: logits, and the gradient of a prompt."""
    table = BackboneSource().open().embeddings
    prompt = jnp.asarray(table[np.random.RandomState(0).randint(3, 200, 12)])
    exact = logits_and_gradient(BackboneSource(), prompt)
    found = logits_and_gradient(BackboneSource(**settings), prompt)
    for close, expected, bound in zip(found, exact, bounds, strict=True):
        assert 0 < np.linalg.norm(close - expected) < bound * np.linalg.norm(expected)
