"""Other paths of users, at an address: gin files, task files, tables, folders of data sets."""

import shutil

import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.errors import UserError
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.tasks.benchmark import DATA_SETS
from mpt_jax.tasks.readers import data_folder

from .conftest import PAPER_TABLE


def test_a_gin_file_and_a_task_file(toy, bucket, capsys):
    text = "from __gin__ import dynamic_registration\nTRAIN_STEPS = 3\n"
    (bucket / "mine.gin").write_text(text)
    (bucket / "my_tasks.py").write_text("raise RuntimeError('this was run')\n")
    words = [*toy.flags("teach", bucket.parent / "run"), "--gin_file=gs://bucket/mine.gin"]
    words = [word for word in words if "TRAIN_STEPS" not in word]
    assert main([*words, "--dry_run"]) == 0
    assert "TRAIN_STEPS = 3" in capsys.readouterr().out
    assert main([*words, "--dry_run", "--task_module=gs://bucket/my_tasks.py"]) == 1
    assert "this was run" in capsys.readouterr().err
    assert main([*words, "--dry_run", "--gin_file=gs://bucket/none.gin"]) == 1
    assert "gin file gs://bucket/none.gin: nothing is there" in capsys.readouterr().err


def test_a_table_says_its_address_and_has_one_store_on_all_hosts(bucket, monkeypatch, tmp_path):
    from mpt_jax.tasks.table import _rows

    (bucket / "mine.csv").write_text("text,label\na,b\nc,d\n")
    found = _rows("gs://bucket/mine.csv", ("text", "label"))
    assert [row.place for row in found] == [
        "gs://bucket/mine.csv, line 2",
        "gs://bucket/mine.csv, line 3",
    ]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert _rows("gs://bucket/mine.csv", ("text", "label")) == found


def test_of_a_folder_of_data_sets_one_is_fetched(bucket):
    data_set = (
        DATA_SETS["glue_rte_v002"]
        if "glue_rte_v002" in DATA_SETS
        else next(iter(DATA_SETS.values()))
    )
    head = data_set.layouts[0].folders[0].partition("/")[0]
    for name in (f"{head}/train.tsv", "another_set/train.tsv"):
        (bucket / "data" / name).parent.mkdir(parents=True)
        (bucket / "data" / name).write_text("")
    folder = data_folder(data_set, "gs://bucket/data", "folder")
    assert [path.name for path in folder.iterdir()] == [head]
    with pytest.raises(UserError, match="DATA_DIR gs://bucket/none: nothing is there"):
        data_folder(data_set, "gs://bucket/none", "folder")


def test_what_a_backbone_is_read_from_and_written_to(toy, bucket, capsys):
    shutil.copytree(toy.backbone, bucket / "tiny")
    assert main(["convert", "gs://bucket/tiny", "gs://bucket/t5x", "--format=t5x"]) == 0
    back = ["convert", "gs://bucket/t5x", "gs://bucket/hf", "--vocabulary=gs://bucket/tiny"]
    assert main(back) == 0
    name = "model.safetensors"
    assert (bucket / "hf" / name).read_bytes() == (bucket / "tiny" / name).read_bytes()
    assert main(back) == 1
    assert "gs://bucket/hf exists" in capsys.readouterr().err
    assert main(["params", "gs://bucket/tiny", "--gin.METHOD='mpt'"]) == 0
    assert "17,136" in capsys.readouterr().out
    words = ["plan", "teach", "--model=gs://bucket/tiny", "--topology=cpu:1", "--tasks=2"]
    stage = [w for w in toy.flags("teach", bucket.parent / "run") if "--gin" in w]
    assert main([*words, *stage]) == 0
    assert "fits" in capsys.readouterr().out


def test_prompts_are_imported_from_and_exported_to_addresses(toy, bucket, capsys):
    identity = dict(
        kind="prompt_tuning", task_names=("a",), backbone_fingerprint="f", backbone_name="tiny",
        vocabulary_fingerprint="v",
    )  # fmt: skip
    path = bucket / "a.safetensors"
    save_prompt_file(path, {"prompt": np.ones((1, 3, 16), np.float32)}, **identity)
    for form, name in (("peft", "adapter"), ("npy", "array.npy")):
        place = f"gs://bucket/{name}"
        assert (
            main(["export", "gs://bucket/a.safetensors", f"--format={form}", f"--output={place}"])
            == 0
        )
        words = [
            "import", place, f"--output=gs://bucket/{form}.safetensors", "--task_name=a",
            f"--gin.INITIAL_CHECKPOINT_PATH='{toy.backbone}'", "--gin_file=models/embedded.gin",
            "--gin_file=runs/import.gin",
        ]  # fmt: skip
        assert main(words) == 0
        found = load_prompt_file(bucket / f"{form}.safetensors")
        assert np.array_equal(found.prompt("a"), np.ones((3, 16)))
        capsys.readouterr()
        assert main(["show", place]) == 0
        assert "3" in capsys.readouterr().out
    words = [
        "combine",
        "--prompt=gs://bucket/a.safetensors=2",
        "--base=gs://bucket/a.safetensors",
    ]
    assert main([*words, "--task_name=b", "--output=gs://bucket/b.safetensors"]) == 0
    assert (bucket / "b.safetensors").is_file()


def test_a_method_file_and_a_paper_table(toy, bucket, capsys):
    (bucket / "mine.py").write_text("raise RuntimeError('this was run')\n")
    assert main(["params", "--method_module=gs://bucket/mine.py"]) == 1
    assert "this was run" in capsys.readouterr().err
    shutil.copy(PAPER_TABLE, bucket / "table.gin")
    words = [
        "gs://bucket/table.gin" if w == str(PAPER_TABLE) else w
        for w in toy.paper("gs://bucket/paper")
    ]
    assert main([*words, "--status"]) == 0
    assert "gs://bucket/paper" in capsys.readouterr().out
