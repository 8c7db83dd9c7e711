"""`mpt params`: the counts that are published or that follow from them, and the files that have them."""

import json

import gin
import numpy as np
import pytest

from mpt_jax import configuration
from mpt_jax.cli import main
from mpt_jax.configuration import GinFlags
from mpt_jax.methods.prompt_file import save_prompt_file
from mpt_jax.methods.prompt_method import PromptMethod
from mpt_jax.methods.registry import METHODS
from mpt_jax.models.t5_sizes import size_named
from mpt_jax.stages import params
from mpt_jax.stages.variants import build_method

# Variant -> numbers per task on T5-Base, P = 100, 8 tasks. A variant of methods.gin that is not here fails.
PROMPT = 100 * 768
FACTORS = 100 + 768
ATTENTION = 2 * 768 * 100  # ATTEMPT's two matrices; its norm would be 2 * 768 more
PER_TASK = {
    "prompt_tuning": PROMPT,  # 76,800
    "shared_prompt": PROMPT,
    "spot": PROMPT,
    "spot_weighted": PROMPT,
    "mpt_no_distillation": PROMPT + FACTORS,
    "mpt": PROMPT + FACTORS,  # 77,668
    "mpt_multi": PROMPT / 8 + FACTORS,  # 10,468
    "mpt_frozen": FACTORS,  # 868
    "full": 222_903_552,
    "bitfit": 280_932
    + 28,  # ATTEMPT's output layer has 32,100 biases, one for each id of the model here
    "full_multi": 222_903_552 / 8,
    "adapter": 1_855_104,
    "adapter_shared": 1_855_104 / 8,
    "adapter_pfeiffer": 24 * (2 * 768 * 48 + 48 + 768),  # behind the feed-forward layers only
    "attempt": PROMPT + ATTENTION,  # 230,400
    "attempt_multi": PROMPT + ATTENTION / 8,  # 96,000
    "lora": 36 * 2 * 8 * (768 + 768),  # 884,736: rank 8 at query and value of all 36 attentions
    "dept": 40 * 768 + 45 * (256 + 768),  # 76,800: 40 slots, rank 45, 256 words
    "ulpt": 100 * 64 + 2 * 768,  # 7,936: rank 64
    "dept_shared": 76_800,
    "ulpt_shared": 7_936,
}
EXACT = {
    "prompt_tuning": 76_800,
    "mpt": 77_668,
    "mpt_multi": 10_468,
    "attempt": 230_400,
    "ulpt": 7_936,
}


def variants():
    configuration.load(GinFlags(("runs/params.gin",)), params)
    return gin.get_bindings(configuration.configured(params.run))["variants"]


def counted(capsys, *words):
    assert main(["params", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["model"]: {row["variant"]: row for row in m["rows"]} for m in found["models"]}


def test_the_table_of_expected_numbers_is_the_known_one_and_whole():
    assert {name: PER_TASK[name] for name in EXACT} == EXACT
    assert {v.name for v in variants()} <= set(PER_TASK)
    assert {v.method for v in variants()} == set(METHODS)  # each method is counted


def test_numbers_per_task_on_t5_base(capsys):
    rows = counted(capsys, "t5-base", "--tasks=8")["t5-base"]
    assert {name: row["per_task"] for name, row in rows.items()} == {
        name: PER_TASK[name] for name in rows
    }
    for row in rows.values():
        assert row["trainable"] == 8 * row["per_task"]
        assert row["share"] == pytest.approx(row["per_task"] / 222_903_552)
        assert row["files"] == (1 if row["multi_target"] else 8)
        assert row["file_bytes"] == 4 * row["file_numbers"]
    assert rows["mpt_multi"]["file_numbers"] == 83_744
    assert (
        rows["mpt_frozen"]["file_numbers"] == 77_668
    )  # the shared prompt is in the file all the same


def test_other_sizes_and_settings(capsys, tiny_backbone):
    models = ("t5-small", "t5-large", "embedded", str(tiny_backbone))
    found = counted(capsys, *models, "--gin.ULPT_RANK=4")  # below the tiny width
    assert found["t5-small"]["mpt"]["per_task"] == 51_812
    assert found["t5-large"]["mpt"]["per_task"] == 103_524
    assert found["t5-large"]["bitfit"]["per_task"] == 695_652 + 28
    assert found["embedded"]["mpt"]["per_task"] == 101 * 128 + 100
    assert found[str(tiny_backbone)]["mpt"]["per_task"] == 101 * 16 + 100
    only = counted(
        capsys, "t5-base", "--gin.METHOD='mpt'", "--gin.PROMPT_LENGTH=20", "--gin.RANK=3"
    )
    assert set(only["t5-base"]) == {"mpt"}
    assert only["t5-base"]["mpt"]["per_task"] == 20 * 768 + 3 * (20 + 768)


def test_a_variant_that_cannot_exist_on_a_model_is_a_row_that_says_why(capsys, tiny_backbone):
    """ULPT's rank of 64 is more than the tiny width; LoRA's layer is one that only T5 v1.1 has."""
    tiny, lora = str(tiny_backbone), "--gin.lora/adapt.Variant.options={'targets': ('wi_0',)}"
    found = counted(capsys, tiny, "t5-base", lora)
    assert set(found[tiny]) == set(found["t5-base"]) == {v.name for v in variants()}
    refused = {
        (model, name): row["reason"]
        for model, rows in found.items()
        for name, row in rows.items()
        if "reason" in row
    }
    assert refused.keys() == {(tiny, "ulpt"), (tiny, "ulpt_shared"), ("t5-base", "lora")}
    assert "rank is 64; it has to be below the width 16" in refused[tiny, "ulpt"]
    assert "unknown target layer of lora 'wi_0'; known are: key," in refused["t5-base", "lora"]
    assert all(
        "per_task" in row or "reason" in row for rows in found.values() for row in rows.values()
    )
    assert "per_task" not in found[tiny]["ulpt"]

    assert main(["params", tiny]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ulpt not possible – – –" in [" " + " ".join(line.split()) for line in lines]
    assert [
        line
        for line in lines
        if line.startswith("not possible: variant ulpt: options {'rank': 64}")
    ]
    assert lines.index(next(x for x in lines if "not possible: " in x)) > lines.index(
        next(x for x in lines if x.startswith(" ulpt_shared"))
    )


def test_the_only_variant_that_is_asked_for_has_to_exist(capsys, tiny_backbone):
    assert main(["params", str(tiny_backbone), "--gin.METHOD='ulpt'"]) == 1
    assert "below the width 16" in capsys.readouterr().err
    # A mistake in the options is one on any model.
    assert main(["params", "t5-base", "--gin.lora/adapt.Variant.options={'rnk': 4}"]) == 1
    assert "unexpected keyword argument 'rnk'" in capsys.readouterr().err


def test_as_a_table_of_all_sizes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # as most terminals: no number may break
    assert main(["params"]) == 0
    shown = capsys.readouterr().out
    assert all(m in shown for m in ("t5-small: 60,506,624", "t5-base: 222,903,552", "t5-large:"))
    line = next(row for row in shown.splitlines() if row.startswith(" bitfit") and "280,960" in row)
    assert line.split() == ["bitfit", "280,960", "280,960", "0.1260%", "1,123,840"]
    assert shown.count("222,903,552") == 5 and "891,614,208" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["t5-bse"], "did you mean 't5-base'"),
        (["t5-base", "--tasks=0"], "params.run.tasks is 0; expected 1 or more"),
        (["t5-base", "--gin.METHOD='bitfti'"], "did you mean 'bitfit'"),
    ],
)
def test_what_is_wrong_is_said(words, message, capsys):
    assert main(["params", *words]) == 1
    assert message in capsys.readouterr().err


def test_stored_files_are_of_that_size(tmp_path, capsys):
    """A header says what the file is (below 1 kB), and of each tensor twice its name and its shape:
    safetensors' own entry, with dtype and offsets, and ours. That is below 100 bytes beside the names."""
    rows = counted(capsys, "t5-small", "--tasks=3")["t5-small"]
    for variant in variants():
        tasks = 3 if variant.multi_target else 1
        method = build_method(variant, 1, tasks, 100, 1, size_named("t5-small"))
        arrays = {name: np.zeros(shape, np.float32) for name, shape in method.shapes().items()}
        path = save_prompt_file(
            tmp_path / f"{variant.name}.safetensors", arrays, kind=variant.method,
            task_names=[f"glue_task_{k}" for k in range(tasks)], backbone_fingerprint="0" * 64,
            backbone_name="t5-small", vocabulary_fingerprint="0" * 64, settings=method.settings,
            source_run="runs/adapt", step=1000,
        )  # fmt: skip
        row = rows[variant.name]
        header = path.stat().st_size - row["file_bytes"]
        assert 0 < header < 1000 + sum(100 + 2 * len(name) for name in arrays), variant.name
        assert header < 2000 or not isinstance(method, PromptMethod)
        assert row["trainable"] <= row["files"] * row["file_numbers"]  # what is trained is stored
