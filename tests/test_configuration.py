import sys
import types

import pytest

from mpt_jax import configuration, gin_files
from mpt_jax.configuration import GinFlags, joined_flags, split_flags
from mpt_jax.errors import UserError


def run(*, model_dir: str = "nowhere", steps: int = 1, tasks: tuple = (), schedule=None):
    return {"model_dir": model_dir, "steps": steps, "tasks": tasks, "schedule": schedule}


def constant(rate: float = 0.5):
    return rate


@pytest.fixture
def stage(monkeypatch):
    """A stage module that stands for those of mpt_jax.stages, importable while the test runs."""
    package = types.ModuleType("toy_stages")
    package.__path__ = []
    module = types.ModuleType("toy_stages.toy")
    package.toy = module
    module.run, module.constant = run, constant
    monkeypatch.setitem(sys.modules, "toy_stages", package)
    monkeypatch.setitem(sys.modules, "toy_stages.toy", module)
    monkeypatch.setattr(run, "__module__", "toy_stages.toy")
    monkeypatch.setattr(constant, "__module__", "toy_stages.toy")
    return module


HEADER = "from __gin__ import dynamic_registration\nfrom toy_stages import toy\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_flags_in_any_order_and_both_forms():
    flags, rest = split_flags(
        ["--gin_file=a.gin", "teach", "--gin.A=1", "--gin_file", "b.gin", "--gin.t.run.x", "'y=z'"]
        + ["--gin_search_paths=p,q", "--dry_run"]
    )
    assert flags == GinFlags(("a.gin", "b.gin"), ("A = 1", "t.run.x = 'y=z'"), ("p", "q"))
    assert rest == ["teach", "--dry_run"]


def test_flags_joined_are_the_same_flags():
    flags, rest = split_flags(
        ["--gin_search_paths=a,b", "--gin_file=x.gin", "--gin.A='b = c'", "--gin.m/n.f.x={'k': 1}", 
         "--gin_file", "y.gin"]
    )  # fmt: skip
    assert flags.bindings[0] == "A = 'b = c'" and not rest
    assert split_flags(joined_flags(flags)) == (flags, [])


def test_a_flag_without_value():
    with pytest.raises(UserError, match="--gin_file needs a value"):
        split_flags(["--gin_file"])


def test_files_in_order_then_bindings(stage, tmp_path):
    first = write(tmp_path / "a.gin", HEADER + "STEPS = 3\ntoy.run.steps = %STEPS\n")
    second = write(tmp_path / "b.gin", HEADER + "STEPS = 4\ntoy.run.schedule = @toy.constant()\n")
    configuration.load(GinFlags((first, second)), stage)
    assert configuration.configured(run)()["steps"] == 4
    flags = GinFlags(
        (first, second), ("STEPS = 5", "toy.run.tasks = ('x',)", "toy.constant.rate = 2.0")
    )
    configuration.load(flags, stage)
    assert configuration.configured(run)() == {
        "model_dir": "nowhere",
        "steps": 5,
        "tasks": ("x",),
        "schedule": 2.0,
    }


def test_no_file_and_no_flag_means_the_defaults(stage):
    configuration.load(GinFlags(), stage)
    assert configuration.configured(run)()["steps"] == 1
    assert "run.steps = 1" in configuration.operative_text()


def test_operative_text_is_read_again(stage, tmp_path):
    path = write(tmp_path / "a.gin", HEADER + "toy.run.schedule = @toy.constant()\n")
    configuration.load(GinFlags((path,), ("toy.run.steps = 7",)), stage, {"MODEL_DIR": "d"})
    before = configuration.configured(run)()
    text = configuration.operative_text()
    assert "constant.rate = 0.5" in text  # a default that was used
    configuration.load(GinFlags((write(tmp_path / "config.gin", text),)), stage)
    assert configuration.configured(run)() == before


def test_include_searches_like_gin_file_and_logs_nothing(stage, tmp_path, monkeypatch, caplog):
    write(tmp_path / "shipped" / "models" / "m.gin", HEADER + "toy.run.steps = 9\n")
    write(tmp_path / "shipped" / "runs" / "r.gin", "include 'models/m.gin'\n")
    monkeypatch.setattr(gin_files, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    configuration.load(GinFlags(("runs/r.gin",)), stage)
    assert configuration.configured(run)()["steps"] == 9
    assert not caplog.records
    write(tmp_path / "mine" / "models" / "m.gin", HEADER + "toy.run.steps = 8\n")
    configuration.load(GinFlags(("runs/r.gin",), (), ("mine",)), stage)
    assert (
        configuration.configured(run)()["steps"] == 8
    )  # a search path stands before the shipped files


def test_include_finds_what_lies_beside_last_of_a_users_places(stage, tmp_path, monkeypatch):
    write(tmp_path / "far" / "top.gin", "include 'parts/a.gin'\n")
    write(tmp_path / "far" / "parts" / "a.gin", "include 'b.gin'\n")
    write(tmp_path / "far" / "parts" / "b.gin", HEADER + "toy.run.steps = 2\n")
    monkeypatch.chdir(tmp_path)
    configuration.load(GinFlags(("far/top.gin",)), stage)
    assert configuration.configured(run)()["steps"] == 2
    write(tmp_path / "parts" / "a.gin", HEADER + "toy.run.steps = 3\n")
    configuration.load(GinFlags(("far/top.gin",)), stage)
    assert configuration.configured(run)()["steps"] == 3


def test_files_at_addresses_include_and_are_included(stage, bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(bucket / "a" / "top.gin", "include 'parts/b.gin'\ninclude 'c.gin'\n")
    write(bucket / "a" / "parts" / "b.gin", HEADER + "toy.run.steps = 4\ninclude 'd.gin'\n")
    write(bucket / "a" / "parts" / "d.gin", HEADER + "toy.run.tasks = (%TASK,)\n")
    write(
        tmp_path / "c.gin", "include 'gs://bucket/e.gin'\n"
    )  # here: it stands before its neighbours
    write(bucket / "e.gin", "TASK = 'x'\n")
    configuration.load(GinFlags(("gs://bucket/a/top.gin",)), stage)
    found = configuration.configured(run)()
    assert (found["steps"], found["tasks"]) == (4, ("x",))
    flags, _ = split_flags(["--gin_search_paths=gs://bucket/a:gs://bucket", "--gin_file=top.gin"])
    assert flags.search_paths == ("gs://bucket/a", "gs://bucket")
    configuration.load(flags, stage)
    assert configuration.configured(run)()["steps"] == 4
    write(bucket / "e.gin", "include 'absent.gin'\n")
    with pytest.raises(UserError, match=r"'absent.gin'(.|\n)*gs://bucket(.|\n)*e.gin.*line 1"):
        configuration.load(GinFlags(("gs://bucket/a/top.gin",)), stage)
    (bucket / "e.gin").unlink()
    with pytest.raises(UserError, match="gs://bucket/e.gin: nothing is there"):
        configuration.load(GinFlags(("gs://bucket/a/top.gin",)), stage)


def test_unknown_file_names_the_nearest_shipped_one(tmp_path, monkeypatch):
    write(tmp_path / "shipped" / "runs" / "teach.gin", "")
    monkeypatch.setattr(gin_files, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(UserError, match="did you mean 'runs/teach.gin'(.|\n)*searched in: .*mine"):
        gin_files.find("runs/teech.gin", ["mine"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy.runn.steps = 1", "unknown name in toy_stages.toy 'runn'; did you mean 'run'"),
        ("toy.run.step = 1", "unknown parameter of toy.run 'step'; did you mean 'steps'"),
        ("tooy.run.steps = 1", "unknown module .* 'tooy'; did you mean 'toy'"),
        ("toy.run.schedule = @toy.constnt()", "'constnt'; did you mean 'constant'"),
        ("toy.run.steps = [1", "invalid|EOF|expected|never closed"),
        ("include 'absent.gin'", "absent.gin"),
        ("import no_such_module", "no_such_module"),
    ],
)
def test_a_wrong_line_is_explained_with_its_place(stage, tmp_path, text, message):
    path = write(tmp_path / "wrong.gin", HEADER + text + "\n")
    with pytest.raises(UserError, match=message) as caught:
        configuration.load(GinFlags((path,)), stage)
    assert "wrong.gin" in str(caught.value)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("TRAIN_STEP = 1", "--gin.TRAIN_STEP: unknown gin macro .*did you mean 'TRAIN_STEPS'"),
        ("toy.run.step = 1", "--gin.toy.run.step: .*did you mean 'steps'"),
        ("toy.run.model_dir = unquoted", "--gin.toy.run.model_dir"),
    ],
)
def test_a_wrong_flag_is_named(stage, tmp_path, binding, message):
    path = write(tmp_path / "a.gin", HEADER + "TRAIN_STEPS = 3\ntoy.run.steps = %TRAIN_STEPS\n")
    with pytest.raises(UserError, match=message):
        configuration.load(GinFlags((path,), (binding,)), stage)


def test_required_macros_are_named_with_their_files(stage, tmp_path):
    base = write(tmp_path / "base.gin", HEADER + "toy.run.tasks = (%TASK,)\n")
    text = f"include '{base}'\nMODEL_DIR = %gin.REQUIRED\n{HEADER}toy.run.model_dir = %MODEL_DIR\n"
    path = write(tmp_path / "top.gin", text)
    with pytest.raises(UserError) as caught:
        configuration.load(GinFlags((path,)), stage)
    lines = str(caught.value).splitlines()
    assert [line.split(",")[0].strip() for line in lines[1:]] == ["MODEL_DIR", "TASK"]
    assert path in lines[1] and base not in lines[1]
    assert base in lines[2] and path not in lines[2]
    configuration.load(GinFlags((path,), ("TASK = 'x'",)), stage, {"MODEL_DIR": "d"})
    assert configuration.configured(run)()["tasks"] == ("x",)
    assert configuration.macro("MODEL_DIR") == "d"
    assert configuration.macro("ABSENT", 3) == 3


def test_arguments_that_nobody_gives_are_named(stage, tmp_path):
    def needy(first, second, *, third, fourth=4, **rest):
        return None

    class Part:
        def __init__(self, size: int, other: int = 1):
            self.size = size

    for thing in (needy, Part):
        thing.__module__ = "toy_stages.toy"
        setattr(stage, thing.__name__, thing)
    text = HEADER + "toy.needy.second = @a/toy.Part()\na/toy.Part.other = 2\n"
    path = write(tmp_path / "a.gin", text)
    configuration.load(GinFlags((path,)), stage)
    with pytest.raises(UserError) as caught:
        configuration.check_arguments(needy, {"third"})
    lines = str(caught.value).splitlines()[1:]
    assert lines == ["  --gin.a/toy.Part.size=VALUE", "  --gin.toy.needy.first=VALUE"]
    configuration.load(GinFlags((path,), ("toy.Part.size = 3",)), stage)
    configuration.check_arguments(needy, {"first", "third"})


def test_many_flags_keep_the_imports_few(stage, tmp_path):
    """gin collects the import statements of every text that it reads."""
    path = write(tmp_path / "a.gin", HEADER + "STEPS = 3\ntoy.run.steps = %STEPS\n")
    bindings = tuple(f"toy.run.steps = {number}" for number in range(40))
    configuration.load(GinFlags((path,), bindings), stage)
    assert configuration.configured(run)()["steps"] == 39
    assert configuration.operative_text().count("import") == 2
