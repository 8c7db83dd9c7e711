"""Addresses: what they mean, what is fetched, what is uploaded, and in which order."""

import os

import pytest

from mpt_jax import fetched, places
from mpt_jax.errors import UserError
from mpt_jax.places import Bucket
from mpt_jax.run_directory import is_unfinished, open_run, read_run, write_json
from mpt_jax.working_copy import WorkingCopy, new_output, shown, tell_bucket, working_copy


def put(bucket, **texts):
    for name, text in texts.items():
        path = bucket / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("gs://b/a", True), ("s3://b", True), ("gs:/b/a", True), ("http://x/a", True), ("a/b", False),
     ("runs/teach:mnli", False), ("/gs://x", False), ("a.gin", False), ("", False)],
)  # fmt: skip
def test_what_is_an_address(path, expected):
    assert places.is_address(path) == expected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gs:/bucket/a", "expected gs://BUCKET/FOLDER"),
        ("gs://", "expected gs://BUCKET/FOLDER"),
        ("http://x/a", "http: are not known"),
        ("gs://other/a", "there is no bucket gs://other"),
    ],
)
def test_a_wrong_address_in_words(bucket, address, message):
    with pytest.raises(UserError, match=message):
        Bucket(address)
    with pytest.raises(UserError, match=message), open_run(address, "teach"):
        pass
    assert list(bucket.iterdir()) == []


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UserError, match=r"needs s3fs .*pip install 'mpt_jax\[s3\]'"):
        Bucket("s3://bucket/a")


def test_no_credentials_in_words(bucket, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError("Forbidden")

    files = type(Bucket("gs://bucket").files)
    monkeypatch.setattr(Bucket, "_checked", set())
    monkeypatch.setattr(files, "ls", refuse)
    with pytest.raises(UserError, match="cannot be reached.*Forbidden.*application-default login"):
        Bucket("gs://bucket/a")


def test_errors_of_the_program_stay_what_they_are(bucket):
    with pytest.raises(TypeError), Bucket("gs://bucket").in_words():
        raise TypeError("a fault")


def test_a_folder_is_fetched_once_and_again_when_it_changed(bucket, monkeypatch):
    put(bucket, a__x="1", a__b__y="2")
    one = fetched.local_copy("gs://bucket/a")
    assert one.name == "a" and (one / "b" / "y").read_text() == "2"
    with monkeypatch.context() as patch:
        patch.setattr(fetched, "_fetch_one", None)  # nothing more is fetched
        assert fetched.local_copy("gs://bucket/a/") == one
    (bucket / "a" / "x").write_text("other")
    two = fetched.local_copy("gs://bucket/a")
    assert (two / "x").read_text() == "other"
    assert (one / "x").read_text() == "1"  # a process may be reading it


def test_half_a_download_does_not_count_and_what_was_whole_is_kept(bucket, monkeypatch):
    put(bucket, a__x="1", a__y="2")
    files = type(Bucket("gs://bucket").files)
    whole, asked = files.get_file, []

    def cut(self, source, target, **options):
        asked.append(os.path.basename(source))
        if asked == ["x", "y"]:
            with open(target, "w") as file:
                file.write("half")
            raise OSError("connection lost")
        whole(self, source, target, **options)

    monkeypatch.setattr(files, "get_file", cut)
    with pytest.raises(UserError, match="connection lost"):
        fetched.local_copy("gs://bucket/a")
    found = fetched.local_copy("gs://bucket/a")
    assert (found / "y").read_text() == "2" and (found / "x").read_text() == "1"
    assert asked == ["x", "y", "y"]


def test_a_copy_that_the_user_deleted_is_fetched_again(bucket):
    import shutil

    put(bucket, a__x="1")
    shutil.rmtree(fetched.local_copy("gs://bucket/a"))
    assert (fetched.local_copy("gs://bucket/a") / "x").read_text() == "1"


def test_nothing_at_the_address(bucket):
    with pytest.raises(UserError, match="prompts gs://bucket/a: nothing is there"):
        fetched.prompts("gs://bucket/a")
    put(bucket, b="")
    with pytest.raises(UserError, match="prompts gs://bucket/a.safetensors: nothing is there"):
        fetched.prompts("gs://bucket/a.safetensors")


def test_which_files_of_a_backbone_are_fetched(bucket):
    put(
        bucket,
        m__config_dot_json="{}",
        m__model_dot_safetensors="",
        m__tf_model_dot_h5="",
        m__onnx__a="",
    )
    put(
        bucket, t__checkpoint_5__x="", t__checkpoint_20__x="", t__checkpoint_100__x="", t__spiece=""
    )

    def names(path):
        return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())

    assert names(fetched.backbone("gs://bucket/m")) == ["config.json", "model.safetensors"]
    expected = ["checkpoint_100/x", "checkpoint_20/x", "spiece"]
    assert names(fetched.backbone("gs://bucket/t")) == expected
    one = fetched.backbone("gs://bucket/t/checkpoint_5")
    assert names(one.parent) == ["checkpoint_5/x", "spiece"] and one.name == "checkpoint_5"


def test_a_prompt_file_comes_with_the_shared_one_that_it_refers_to(bucket):
    put(bucket, p__shared_dot_safetensors="s", p__a_dot_safetensors="a", p__b_dot_safetensors="b")
    found = fetched.prompts("gs://bucket/p/a.safetensors")
    names = {path.name for path in found.parent.iterdir()}
    assert names == {"a.safetensors", "shared.safetensors"}


def test_uploads_in_an_order_that_leaves_half_a_thing_unmarked(bucket, monkeypatch):
    order = []
    upload = WorkingCopy._upload

    def noted(self, name):
        order.append(name)
        upload(self, name)

    monkeypatch.setattr(WorkingCopy, "_upload", noted)
    with working_copy("gs://bucket/run") as copy:
        names = (
            "run.json",
            "checkpoints/p/4/record/metadata",
            "checkpoints/p/4/arrays/d/1",
            "z",
            ".lock.1",
        )
        for name in names:
            (copy.path / name).parent.mkdir(parents=True, exist_ok=True)
            (copy.path / name).write_text(name)
        tell_bucket(copy.path / "checkpoints")
        assert set(order[:2]) == {"z", "checkpoints/p/4/arrays/d/1"}
        assert order[2:] == ["checkpoints/p/4/record/metadata", "run.json"]
        assert shown(copy.path / "z") == "gs://bucket/run/z"
        (copy.path / "z").unlink()
        (copy.path / "w").write_text("new")
    assert order[4:] == ["w"]  # at the end: only what changed
    assert not (bucket / "run" / "z").exists() and not (bucket / "run" / ".lock.1").exists()
    assert not copy.path.exists()


def test_half_a_checkpoint_does_not_count(bucket):
    put(bucket, run__checkpoints__4__arrays="", run__checkpoints__4__record__metadata="")
    put(bucket, run__checkpoints__8__arrays="", run__other="")
    with working_copy("gs://bucket/run", writes=False) as copy:
        assert not (copy.path / "checkpoints" / "8").exists()
        (copy.path / "new").write_text("")
    assert (bucket / "run/checkpoints/8/arrays").exists() and not (bucket / "run" / "new").exists()
    with working_copy("gs://bucket/run", wanted=lambda name: name == "other"):
        pass
    assert (bucket / "run/checkpoints/8/arrays").exists()  # not this one's to remove
    with working_copy("gs://bucket/run") as copy:
        assert (copy.path / "checkpoints" / "4" / "arrays").exists()
    assert not (bucket / "run/checkpoints/8/arrays").exists()


def test_what_another_process_removes_meanwhile_is_left_out(bucket, monkeypatch):
    put(bucket, run__a="1", run__b="2", run__c="3")
    fetch = WorkingCopy._fetch

    def late(self, name):
        (bucket / "run/b").unlink(missing_ok=True)
        fetch(self, name)

    monkeypatch.setattr(WorkingCopy, "_fetch", late)
    with working_copy("gs://bucket/run") as copy:
        assert sorted(path.name for path in copy.path.iterdir()) == ["a", "c"]
    assert sorted(path.name for path in (bucket / "run").iterdir()) == ["a", "c"]


def test_what_is_not_fetched_stays(bucket):
    put(bucket, run__prompts__a="1", run__b="2")
    with working_copy("gs://bucket/run", wanted=lambda name: name == "b") as copy:
        (copy.path / "b").unlink()
    assert (bucket / "run/prompts/a").exists() and not (bucket / "run/b").exists()


def test_a_run_directory_in_a_bucket(bucket):
    address = "gs://bucket/runs/a"
    assert is_unfinished(address)
    with open_run(address, "teach") as run:
        assert (bucket / "runs/a/run.json").is_file()  # claimed at once
        assert is_unfinished(address)
        with pytest.raises(UserError, match="run of 'teach' that did not finish"):
            read_run(address)
        run.write_config("a = 1")
        assert (bucket / "runs/a/config.gin").read_text() == "a = 1"
        write_json(run.path / "results.json", 1)
        run.finish(members=[])
        assert (bucket / "runs/a/results.json").is_file()
    assert not is_unfinished(address)
    assert read_run(address, ("teach",)).record()["complete"]
    with open_run(address, "teach") as run:
        run.write_config("a = 2")
    assert (bucket / "runs/a/config.gin.1").read_text() == "a = 1"
    with (
        pytest.raises(UserError, match="gs://bucket/runs/a belongs to a run of 'teach'"),
        open_run(address, "adapt"),
    ):
        pass


def test_strangers_files_are_refused_before_they_are_fetched(bucket, monkeypatch):
    put(bucket, data__large="x")
    monkeypatch.setattr(WorkingCopy, "_fetch", None)
    with (
        pytest.raises(UserError, match="has no run.json but holds large"),
        open_run("gs://bucket/data", "teach"),
    ):
        pass
    assert sorted(path.name for path in (bucket / "data").iterdir()) == ["large"]


def test_a_new_output_appears_when_it_is_whole(bucket):
    with pytest.raises(RuntimeError), new_output("gs://bucket/o/x.txt") as path:
        path.write_text("half")
        raise RuntimeError
    assert not (bucket / "o").exists()
    with new_output("gs://bucket/o/x.txt") as path:
        path.write_text("whole")
    assert (bucket / "o/x.txt").read_text() == "whole"
    with (
        pytest.raises(UserError, match="gs://bucket/o/x.txt exists"),
        new_output("gs://bucket/o/x.txt"),
    ):
        pass
