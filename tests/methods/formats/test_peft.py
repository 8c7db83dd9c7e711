"""PEFT's adapter folders, made by hand: no torch is needed to read or write them."""

import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mpt_jax.errors import UserError
from mpt_jax.methods import initialisers
from mpt_jax.methods.formats import peft
from mpt_jax.methods.prompt_sources import ForeignPromptWarning

from .conftest import D, K, P, R, arrays_of, numbers

PLAIN = {"peft_type": "PROMPT_TUNING", "num_tasks": None, "num_ranks": None}


def tensors(folder):
    return safetensors.numpy.load_file(folder / "adapter_model.safetensors")


def test_a_multitask_adapter(make_adapter):
    folder = make_adapter()
    assert peft.recognises(folder) and peft.recognises(folder / "adapter_model.safetensors")
    prompts = peft.read(folder)
    about, arrays = prompts.metadata, arrays_of("mpt")
    assert (about.kind, about.length, about.width, about.rank) == ("mpt", P, D, R)
    assert about.backbone_fingerprint is None and about.backbone_name == "some/t5"
    assert about.task_names == ("task0", "task1", "task2") and "task0" in prompts.notes[0]
    for k, task in enumerate(about.task_names):
        expected = arrays["shared"] * (arrays["u"][k] @ arrays["v"][k])
        np.testing.assert_allclose(prompts.prompt(task), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_a_plain_adapter_of_any_float(make_adapter, dtype):
    stored = numbers(P, D).astype(dtype)
    folder = make_adapter({"prompt_embeddings": stored}, name="mnli", **PLAIN)
    prompts = peft.read(folder / "adapter_model.safetensors")
    assert prompts.metadata.task_names == ("mnli",) and not prompts.notes
    assert prompts.prompt().dtype == np.float32
    assert np.array_equal(prompts.prompt(), stored.astype(np.float32))


def test_of_two_submodules_the_encoders_half_is_taken(make_adapter):
    arrays = arrays_of("mpt", length=2 * P)
    two = {
        "prompt_embeddings": arrays["shared"],
        "prefix_task_cols": arrays["u"],
        "prefix_task_rows": arrays["v"],
    }
    for said in (2, None):
        folder = make_adapter(two, name=f"two{said}", num_transformer_submodules=said)
        prompts = peft.read(folder)
        assert any("only the encoder's are taken" in note for note in prompts.notes)
        assert np.array_equal(prompts.arrays["shared"], arrays["shared"][:P])
        assert np.array_equal(prompts.arrays["u"], arrays["u"][:, :P])
        assert np.array_equal(prompts.arrays["v"], arrays["v"])


def test_peft_to_ours_to_peft_is_exact_and_keeps_the_names(make_adapter, tmp_path):
    folder = make_adapter()
    (folder / "tasks.json").write_text(json.dumps({"tasks": ["x", "y", "z"]}))
    prompts = peft.read(folder)
    assert not prompts.notes
    lines = peft.write(prompts, tmp_path / "back")
    assert lines == ["task_ids 0: x", "task_ids 1: y", "task_ids 2: z"]
    before, after = tensors(folder), tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert peft.read(tmp_path / "back").metadata.task_names == ("x", "y", "z")


def test_what_an_exported_config_says(make_prompts, tmp_path):
    peft.write(make_prompts("mpt"), tmp_path / "out", base_model="t5-base")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_type"] == "MULTITASK_PROMPT_TUNING"
    assert config["base_model_name_or_path"] == "t5-base"
    assert config["num_transformer_submodules"] == 1
    assert (config["num_virtual_tokens"], config["token_dim"]) == (P, D)
    assert (config["num_tasks"], config["num_ranks"]) == (K, R)
    listed = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert listed["tasks"] == ["a", "b", "c"] and listed["backbone_fingerprint"] == "aaaa"


def test_chosen_tasks_keep_their_order(make_prompts, tmp_path):
    prompts = make_prompts("mpt")
    peft.write(prompts.take(["c", "a"]), tmp_path / "out")
    assert np.array_equal(
        tensors(tmp_path / "out")["prefix_task_cols"], prompts.arrays["u"][[2, 0]]
    )


def test_plain_prompts_become_one_folder_each(make_prompts, tmp_path):
    prompts = make_prompts("prompt_tuning", ("a", "../b"))
    peft.write(prompts, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_._b", "a"]
    again = peft.read(tmp_path / "out" / "_._b")
    assert again.metadata.task_names == ("../b",)  # a name, no path
    assert np.array_equal(again.prompt(), prompts.prompt("../b"))
    peft.write(prompts.take(["a"]), tmp_path / "one")
    assert np.array_equal(peft.read(tmp_path / "one").prompt(), prompts.prompt("a"))


def test_nothing_is_overwritten_and_nothing_half_written(make_prompts, tmp_path, monkeypatch):
    prompts = make_prompts("mpt")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "note").write_text("kept")
    with pytest.raises(UserError, match="there exists"):
        peft.write(prompts, tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["note"]
    before = sorted(tmp_path.iterdir())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        peft.write(prompts, tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PROMPT_TUNIN"}, "did you mean 'PROMPT_TUNING'"),
        ({"peft_type": ["LORA"]}, "unknown PEFT method"),
        ({"task_type": "CAUSAL_LM"}, "another kind of model than T5"),
        ({"num_virtual_tokens": 3}, "num_virtual_tokens is 3, but the tensors have 4 slots"),
        ({"num_virtual_tokens": None}, "num_virtual_tokens is None"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules is 2"),
        ({"token_dim": 9}, "token_dim is 9 .* but 6"),
        ({"num_tasks": 2}, "num_tasks is 2 .* but 3"),
        (PLAIN, r"are \['prompt_embeddings'\], but this one holds"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(make_adapter, changes, message):
    with pytest.raises(UserError, match=message):
        peft.read(make_adapter(**changes))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numbers(P, D).astype(np.int32), "dtype int32"),
        (np.full((P, D), np.nan, np.float32), "NaN"),
        (np.full((P, D), 1e300), "NaN or infinite"),
        (numbers(P * D), "do not fit each other"),
        (np.zeros((P, 0), np.float32), "token_dim is 6"),
    ],
)
def test_bad_numbers_are_refused(make_adapter, array, message):
    with pytest.raises(UserError, match=message):
        peft.read(make_adapter({"prompt_embeddings": array}, **PLAIN))


def test_damaged_folders_are_refused(make_adapter):
    folder = make_adapter()
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for end in (0, 5, 100, len(whole) - 4):
        weights.write_bytes(whole[:end])
        with pytest.raises(UserError, match="truncated"):
            peft.read(folder)
    claim = {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}
    header = json.dumps({"prompt_embeddings": claim}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header)  # claims 4 TB
    with pytest.raises(UserError, match="truncated"):
        peft.read(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"No prompt file at .*adapter_model\.safetensors"):
        peft.read(folder)
    weights.write_bytes(whole)
    (folder / "tasks.json").write_text('{"tasks": ["a", "a", "b"]}')
    with pytest.raises(UserError, match="3 different task names"):
        peft.read(folder)
    (folder / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read"):
        peft.read(folder)


def test_an_old_adapters_pickle_is_not_run(make_adapter, tmp_path):
    folder = make_adapter()
    (folder / "adapter_model.safetensors").unlink()
    with zipfile.ZipFile(folder / "adapter_model.bin", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"prompt_embeddings": print}))
    with pytest.raises(UserError, match="names builtins.print"):
        peft.read(folder)


def test_a_start_from_two_submodules_says_what_was_left_out(make_adapter):
    folder = make_adapter(
        {"prompt_embeddings": numbers(2 * P, D)}, **PLAIN | {"num_transformer_submodules": 2}
    )
    with pytest.warns(ForeignPromptWarning, match="only the encoder's are taken"):
        prompt = initialisers.from_file(jax.random.key(0), numbers(9, D), P, path=folder)
    assert np.array_equal(prompt, numbers(2 * P, D)[:P])
