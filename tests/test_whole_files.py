import os

import pytest

from mpt_jax.errors import UserError
from mpt_jax.whole_files import file_names, new_folder, refuse_existing, write_whole


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_its_block_ends_well(tmp_path):
    with new_folder(tmp_path / "a" / "new") as folder:
        (folder / "file").write_text("1")
        assert not (tmp_path / "a" / "new").exists()
    assert listing(tmp_path / "a") == ["new"] and listing(tmp_path / "a" / "new") == ["file"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "new") as folder:
        (folder / "file").write_text("1")
        raise RuntimeError
    assert listing(tmp_path) == []


def test_what_is_there_stays(tmp_path):
    (tmp_path / "old").mkdir()
    with new_folder(tmp_path / "old") as folder:  # an empty one may be filled
        (folder / "file").write_text("1")
    with pytest.raises(UserError, match="old exists"), new_folder(tmp_path / "old"):
        pass
    with pytest.raises(UserError, match="exists"):
        refuse_existing(tmp_path / "old" / "file")
    assert (tmp_path / "old" / "file").read_text() == "1"


def test_overwriting_is_all_or_nothing(tmp_path, monkeypatch):
    old = tmp_path / "old"
    old.mkdir()
    (old / "file").write_text("1")
    with pytest.raises(RuntimeError), new_folder(old, overwrite=True):
        raise RuntimeError
    rename = os.rename

    def fail_once(source, target):
        monkeypatch.setattr(os, "rename", second)
        rename(source, target)

    def second(source, target):
        monkeypatch.setattr(os, "rename", rename)
        raise OSError("disk full")

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="disk full"), new_folder(old, overwrite=True):
        pass
    assert listing(tmp_path) == ["old"] and (old / "file").read_text() == "1"
    with new_folder(old, overwrite=True) as folder:
        (folder / "other").write_text("2")
    assert listing(tmp_path) == ["old"] and listing(old) == ["other"]


def test_a_file_is_replaced_whole(tmp_path):
    write_whole(tmp_path / "deep" / "file", b"1")
    write_whole(tmp_path / "deep" / "file", b"2")
    assert (tmp_path / "deep" / "file").read_bytes() == b"2" and listing(tmp_path / "deep") == [
        "file"
    ]


def test_names_of_tasks_as_names_of_files():
    assert file_names(["a/b", "..", "x y"]) == {"a/b": "a_b", "..": "_.", "x y": "x_y"}
    with pytest.raises(UserError, match="too alike"):
        file_names(["a/b", "a_b"])
