"""A user's own table through the commands, with flags or a short gin file and no Python."""

import json
import re
import zlib
from pathlib import Path

import pytest

from mpt_jax.cli import main

ROOT = Path(__file__).parents[2]
UNITS = {"weight": "kg", "volume": "litres", "length": "km", "time": "hours"}
SMALL = {
    "TASK_FEATURE_LENGTHS": {"inputs": 26, "targets": 8}, "TRAIN_STEPS": 2, "BATCH_SIZE": 4,
    "EVAL_PERIOD": 2, "CHECKPOINT_PERIOD": 2, "PROMPT_LENGTH": 3,
    "fleet.Training.validation_examples": 8, "fleet.Training.eval_batch_size": 16,
}  # fmt: skip
SCORING = {
    "TASK_FEATURE_LENGTHS": SMALL["TASK_FEATURE_LENGTHS"],
    "evaluate.run.eval_batch_size": 16,
}

TWO_TABLES = """
from __gin__ import dynamic_registration
from mpt_jax.stages import data
from mpt_jax.tasks import mixture
from mpt_jax.tasks import table

kind/table.Table:
  name = "own_kind"
  file = "kinds.csv"
  inputs = "{text}"
  targets = "{kind}"
  stratify = True
opposite/table.Table:
  name = "own_opposite"
  train = "train.jsonl"
  validation = "validation.tsv"
  test = "test.tsv"
  inputs = "not {a}"
  targets = "{b}"
  metrics = ("exact_match", "squad_f1")
mixture.Mixture:
  name = "own_tables"
  tasks = ("own_kind", "own_opposite")
data.Data.families = (@kind/table.Table(), @opposite/table.Table(), @mixture.Mixture())
MIXTURE_OR_TASK_NAME = "own_tables"
"""


@pytest.fixture
def run(toy, tmp_path, monkeypatch):
    """`mpt <stage>` on the tiny backbone with no task file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of the token stores

    def command(stage, folder, *more, **macros):
        words = [
            stage, "--gin_file=models/embedded.gin", f"--gin_file=runs/{stage}.gin", *more,
            *([] if folder is None else [f"--model_dir={folder}"]),
        ]  # fmt: skip
        values = {"INITIAL_CHECKPOINT_PATH": str(toy.backbone)}
        values |= {"evaluate": SCORING, "infer": {}, "tasks": {}}.get(stage, SMALL) | macros
        return main([*words, *(f"--gin.{name}={value!r}" for name, value in values.items())])

    return command


@pytest.fixture
def kinds(tmp_path):
    """96 rows of four classes."""
    path = tmp_path / "kinds.csv"
    rows = [f"{number} {unit},{kind}" for number in range(1, 25) for kind, unit in UNITS.items()]
    path.write_text("\n".join(["text,kind", *rows]))
    return str(path)


def with_flags(name, file, **macros):
    return {
        "TABLE_NAME": name, "TABLE_FILE": file, "TABLE_INPUTS": "{text}",
        "TABLE_TARGETS": "{kind}", "TABLE_STRATIFY": True, **macros,
    }  # fmt: skip


@pytest.mark.slow
def test_flags_alone(run, kinds, tmp_path, capsys):
    gin, own = (
        "--gin_file=runs/table.gin",
        with_flags("own_flags", kinds, TABLE_METRIC=("accuracy", "f1_macro")),
    )
    assert run("tasks", None, gin, "--name=own_flags", **own) == 0
    assert "1 kg" in capsys.readouterr().out
    assert run("teach", tmp_path / "teach", gin, "--dry_run", **own) == 0
    assert not (tmp_path / "teach").exists()
    assert run("teach", tmp_path / "teach", gin, **own) == 0
    assert run("evaluate", tmp_path / "scores", gin, **own, SOURCES=(str(tmp_path / "teach"),)) == 0
    (score,) = json.loads((tmp_path / "scores" / "results.json").read_text())["scores"]
    assert (score["task"], score["metric"]) == ("own_flags", "accuracy")
    assert list(score["metrics"]) == ["accuracy", "f1_macro"]
    assert (score["train_examples"], score["num_examples"]) == (77, 9)
    assert score["majority"] == score["majorities"]["accuracy"] == 3 / 9
    # The configuration that was used is one file that is read again.
    saved = tmp_path / "teach" / "config.gin"
    assert main(["teach", "--dry_run", f"--gin_file={saved}", f"--model_dir={tmp_path / 'b'}"]) == 0


@pytest.mark.slow
def test_two_tables_and_their_mixture_from_source_to_answer(run, kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [("big", "small"), ("hot", "cold"), ("new", "old"), ("wet", "dry")]
    lines = [json.dumps({"a": a, "b": b}) for a, b in [*pairs, *(pair[::-1] for pair in pairs)]]
    Path("train.jsonl").write_text("\n".join(lines))
    Path("validation.tsv").write_text("a\tb\nfast\tslow\n")
    Path("test.tsv").write_text("b\ta\nlate\tearly\n")
    Path("own.gin").write_text(TWO_TABLES)
    gin = "--gin_file=own.gin"
    assert run("teach", "teach", gin) == 0
    assert run("distill", "distill", gin, TEACHER_DIR="teach") == 0
    few = {"SHOTS": (4, None), "SEEDS": (0,), "PER_CLASS": ("own_kind",)}
    assert run("adapt", "adapt", gin, SOURCE_DIR="distill", TEACHER_DIR="teach", **few) == 0
    assert run("evaluate", "scores", gin, SOURCES=("teach", "distill", "adapt")) == 0
    scores = json.loads(Path("scores/results.json").read_text())["scores"]
    adapted = {(s["task"], s["k"], s["train_examples"]) for s in scores if s["stage"] == "adapt"}
    assert adapted == {
        ("own_kind", 4, 16), ("own_kind", None, 77), ("own_opposite", 4, 4), ("own_opposite", None, 8),
    }  # fmt: skip
    opposite = [s for s in scores if s["task"] == "own_opposite"]
    assert {(s["metric"], *s["metrics"]) for s in opposite} == {
        ("exact_match", "exact_match", "squad_f1")  # the first is the main one
    }
    assert all(s["score"] == s["metrics"]["exact_match"] for s in opposite)
    Path("texts.txt").write_text("not tall\nnot far\n")
    answer = {"infer.run.max_output_length": 4}
    flags = ["--prompts=adapt", "--task=own_opposite", "--name=own_opposite/k4/seed0/mpt"]
    assert run("infer", None, *flags, "--input=texts.txt", "--output=answers.txt", **answer) == 0
    assert Path("answers.txt").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("stage", "macros", "said"),
    [
        ("teach", {"TABLE_INPUTS": "{txt}"}, r"kinds.csv, line 1: .* did you mean 'text'"),
        ("adapt", {"TABLE_METRIC": "acuracy"}, "did you mean 'accuracy'"),
        ("distill", {"TABLE_FRACTIONS": (0.8, 0.1, 0.2)}, "sum to 1.1"),
        ("evaluate", {"TABLE_LABELS": {"time": "t"}}, "line 2: unknown label 'weight'"),
        ("teach", {"TABLE_TRAIN": "train.csv"}, "'train' has a file of its own"),
        (
            "teach",
            {"TASK_FEATURE_LENGTHS": {"inputs": 26, "targets": 5}},
            "own_mistake.*TASK_FEATURE",
        ),
        ("tasks", {"TABLE_FILE": "kind.csv"}, "no table kind.csv"),
    ],
)
def test_mistakes_end_before_the_first_step(run, kinds, tmp_path, capsys, stage, macros, said):
    earlier = {
        "adapt": {"SOURCE_DIR": "none", "TEACHER_DIR": "none"},
        "distill": {"TEACHER_DIR": "none"},
        "evaluate": {"SOURCES": ()},
    }.get(stage, {})
    folder = None if stage == "tasks" else tmp_path / "run"
    own = with_flags(
        f"own_mistake_{zlib.crc32(said.encode())}", kinds, **macros
    )  # registries are global
    assert run(stage, folder, "--gin_file=runs/table.gin", **{**own, **earlier}) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("mpt: error: ") and "compiled the step" not in captured.out
    assert re.search(said, re.sub(r"\s+", " ", captured.err)), captured.err


def test_templates_must_be_given(run, tmp_path, capsys):
    assert run("teach", tmp_path / "run", "--gin_file=runs/table.gin") == 1
    errors = capsys.readouterr().err
    assert "TABLE_INPUTS, asked for in" in errors and "TABLE_TARGETS" in errors


def test_a_label_only_in_test_is_told(run, tmp_path, capsys):
    """As a line of its own, which names the place."""
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("text,kind\n" + "".join(f"{i} kg,{'ab'[i % 2]}\n" for i in range(8)))
    test.write_text("text,kind\n5 m,c\n")
    own = with_flags("own_unseen", None, TABLE_TRAIN=str(train), TABLE_TEST=str(test))
    with pytest.warns(
        UserWarning, match=r"own_unseen: .* not in train.*'c' \(.*test.csv, line 2\)"
    ):
        assert run("tasks", None, "--gin_file=runs/table.gin", "--name=own_unseen", **own) == 0


@pytest.mark.slow
def test_the_example(run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    gin = "--gin_file=examples/opposites.gin"
    assert (
        run("teach", tmp_path / "teach", gin, TASK_FEATURE_LENGTHS={"inputs": 26, "targets": 16})
        == 0
    )
    (member,) = json.loads((tmp_path / "teach" / "run.json").read_text())["members"]
    assert (member["name"], member["train_examples"]) == ("opposites", 53)
