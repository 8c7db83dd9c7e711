"""Other paths of users, at an address: gin files, task files, tables, folders of data sets."""

import pytest

from mpt_jax.cli import main
from mpt_jax.errors import UserError
from mpt_jax.tasks.benchmark import DATA_SETS
from mpt_jax.tasks.readers import data_folder


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
