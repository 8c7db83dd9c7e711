"""The commands and code of the guide and the README, run on a tiny random backbone and for two steps.

The pages of docs/guide/ come in the order in which the README's table names them, then the README itself:
it goes on from the quickstart, whose place the runs of the guide's first page take.
"""

import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.t5 import T5Config, init_params
from mpt_jax.partitioning import make_mesh
from mpt_jax.stages import backbone as backbone_stage

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = tuple(dict.fromkeys(re.findall(r"^\| .*?\((docs/guide/\w+\.md)\)", README, re.MULTILINE)))
TEXT = "\n".join([*((ROOT / page).read_text() for page in PAGES), README])

FEWER_TASKS = {"'embedded_sources'": "'inflect_plural'", "'embedded_targets'": "'inflect_past'"}
TRAINING = {
    "TRAIN_STEPS": 2, "BATCH_SIZE": 8, "EVAL_PERIOD": 0, "PROMPT_LENGTH": 3,
    "fleet.Training.validation_examples": 8, "fleet.Training.eval_batch_size": 64,
}  # fmt: skip
SMALLER = {
    "teach": TRAINING,
    "distill": TRAINING,
    "adapt": {**TRAINING, "SEEDS": (0,)},
    "evaluate": {"MAX_EXAMPLES": 8, "evaluate.run.eval_batch_size": 64},
    "infer": {"infer.run.max_output_length": 4},
    "import": {},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """(standard input, arguments) of every `mpt` command; quickstart's line begins with pip."""
    found = []
    for line in "\n".join(blocks("sh")).replace("\\\n", " ").splitlines():
        if command := re.fullmatch(r"(?:echo (.*) \| )?mpt (.*)", line):
            found.append((command[1] or "", shlex.split(command[2])))
    return found


@pytest.fixture
def backbone(tmp_path, monkeypatch, own_methods) -> str:
    """The folder of a tiny backbone with bytes for ids; the working directory is an empty one."""
    folder = tmp_path / "tiny"
    config = T5Config(
        vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=16,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    save_backbone(folder, config, init_params(config, jax.random.key(0)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one = jax.devices()[:1]
    monkeypatch.setattr(backbone_stage, "make_mesh", lambda shape: make_mesh(shape, one))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("examples").symlink_to(ROOT / "examples")
    return str(folder)


def files_of_other_programs(backbone: str) -> None:
    """What the reader has already: a prompt, a T5X checkpoint with its vocabulary, the quickstart's runs."""
    np.save("past.npy", np.ones((3, 16), np.float32))
    assert main(["convert", backbone, "models/t5x", "--format=t5x"]) == 0
    Path("models/t5x/checkpoint_0").rename("models/t5x/checkpoint_1100000")
    vocabulary = ROOT / "tests" / "data" / "reference" / "spiece_without_map.model"
    shutil.copy(vocabulary, "models/sentencepiece.model")
    Path("runs").mkdir()
    Path("runs/quickstart").symlink_to(".")


@pytest.mark.slow
def test_the_commands(backbone, monkeypatch):
    ran = []
    files_of_other_programs(backbone)
    for text, words in commands():
        command, smaller = words[0], SMALLER.get(words[0], {})
        if command in SMALLER or "--gin_file=models/embedded.gin" in words:
            smaller = {**smaller, "INITIAL_CHECKPOINT_PATH": backbone}
        for old, new in FEWER_TASKS.items():
            words = [word.replace(old, new) for word in words]
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert (
            main([*words, *(f"--gin.{name}={value!r}" for name, value in smaller.items())]) == 0
        ), words
        ran.append(command)
    assert set(ran) == {
        "teach",
        "distill",
        "adapt",
        "evaluate",
        "infer",
        "tasks",
        "show",
        "import",
        "export",
        "add-task",
        "merge",
        "convert",
        "paper",
        "params",
    }
    assert "adjective_of_place" in Path("runs/demonyms_scores/report.md").read_text()


def test_the_readme_names_every_page_of_the_guide():
    assert sorted(PAGES) == sorted(
        path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "guide").glob("*.md")
    )


def test_the_example_files_are_the_ones_shown():
    assert (ROOT / "examples" / "demonyms.py").read_text() in blocks("python")
    assert (ROOT / "examples" / "opposites.gin").read_text() in blocks("gin")
    assert (ROOT / "examples" / "two_tables.gin").read_text() in blocks("gin")
    assert (ROOT / "examples" / "ia3.py").read_text() in blocks("python")


def test_the_demonyms_have_no_place_in_two_splits():
    rows = [
        tuple(line.split("\t"))
        for split in ("train", "validation", "test")
        for line in (ROOT / "examples" / "demonyms" / f"{split}.tsv").read_text().splitlines()
    ]
    assert len(rows) == len({place for place, _ in rows}) == len({word for _, word in rows}) == 168


def test_the_gin_file_of_another_backbone(backbone, capsys):
    (text,) = [block for block in blocks("python") if "__gin__" in block]
    Path("my_t5.gin").write_text(text.replace("models/t5-base", backbone))
    flags = ["--gin_file=my_t5.gin", "--gin_file=runs/teach.gin", "--model_dir=runs/new"]
    macros = ["--gin.MIXTURE_OR_TASK_NAME='inflect_past'", "--gin.TRAIN_STEPS=2"]
    assert main(["teach", "--dry_run", *flags, *macros]) == 0
    assert "backbone tiny" in capsys.readouterr().out


def test_the_python_code(backbone, capsys):
    (code,) = [block for block in blocks("python") if "teach.run(" in block]
    exec(code.replace('"embedded"', repr(backbone)).replace("steps=100", "steps=2"), {})
    assert Path("runs/plural/prompts/inflect_plural.safetensors").is_file()


def test_a_backbone_rounded_to_bfloat16_counts_as_unchanged(backbone):
    rounded = backbone_stage.BackboneSource(backbone, dtype="bfloat16").open()
    rounded.check_unchanged()
    assert rounded.fingerprint == backbone_stage.BackboneSource(backbone).open().fingerprint
