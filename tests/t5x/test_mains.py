"""The shipped gin files, run by T5X's own `python -m t5x.train`, `t5x.eval` and `t5x.infer`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.gin_files import SHIPPED
from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.methods.prompt_sources import ForeignPromptWarning, load_prompts
from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint

pytest.importorskip("t5x", reason="needs T5X from its repository (docs/t5x.md)")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TASKS = ["toy_head", "toy_tail"]
SIZE = "t5x/examples/t5/t5_1_1/tiny.gin"
MINE = """
from __gin__ import dynamic_registration
import seqio
import toy_tasks
from t5x.examples.t5 import network
VOCABULARY = @seqio.ByteVocabulary()
seqio.ByteVocabulary.extra_ids = 125
TASKS = ["toy_head", "toy_tail"]
PROMPT_LENGTH = 4
VOCAB_SIZE = 384
network.T5Config:
  dtype = "float32"
  emb_dim = 16
  num_heads = 8
  head_dim = 2
  mlp_dim = 32
"""
LENGTHS = {"inputs": 48, "targets": 32}
TRAIN = {
    "TASK_FEATURE_LENGTHS": LENGTHS,  # room for several examples, each with its prompt
    "BATCH_SIZE": 8,
    "EVAL_PERIOD": 2,
    "EVAL_STEPS": 1,
    "utils.SaveCheckpointConfig.period": 2,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, plain_checkpoint):
    """A folder to run in, with a legacy checkpoint of a plain T5 at step 1000."""
    folder = tmp_path_factory.mktemp("mains")
    (folder / "mine.gin").write_text(MINE)
    paths = [ROOT, ROOT / "tests" / "stages", os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "JAX_NUM_CPU_DEVICES": "1"}
    return types.SimpleNamespace(folder=folder, env=env, plain=plain_checkpoint)


def start(place, main, files, bindings):
    words = [sys.executable, "-m", f"t5x.{main}", f"--gin_search_paths={SHIPPED}"]
    words += [f"--gin_file={name}" for name in (SIZE, *files, "mine.gin")]
    words += [f"--gin.{name}={value!r}" for name, value in bindings.items()]
    with open(place.folder / "log", "w") as log:
        return subprocess.Popen(
            words, cwd=place.folder, env=place.env, stdout=log, stderr=subprocess.STDOUT
        )


def run(place, main, files, bindings):
    process = start(place, main, files, bindings)
    assert process.wait(timeout=540) == 0, (place.folder / "log").read_text()[-3000:]
    return (place.folder / "log").read_text()


def prompts_of(checkpoint):
    return load_prompts(checkpoint).arrays


def backbone_of(checkpoint):
    arrays = open_checkpoint(checkpoint).arrays
    return {path: array.read() for path, array in arrays.items() if "/prompt/" not in path}


def assert_same_backbone(first, second):
    first, second = backbone_of(first), backbone_of(second)
    assert set(first) == set(second)
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path], err_msg=path)


@pytest.fixture(scope="module")
def trained(place):
    """MPT on two tasks, mixed and packed, killed behind its first checkpoint, and gone on with."""
    folder = place.folder / "mpt"
    files = ("t5x/prompts/mpt.gin", "t5x/runs/train.gin")
    settings = TRAIN | {"MODEL_DIR": str(folder), "INITIAL_CHECKPOINT_PATH": str(place.plain)}
    settings |= {"TRAIN_STEPS": 1400, "utils.SaveCheckpointConfig.keep": None}
    first = folder / "checkpoint_1002"
    process = start(place, "train", files, settings)
    while process.poll() is None and not (first / "commit_success.txt").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (place.folder / "log").read_text()[-3000:]
    names = [re.fullmatch(r"checkpoint_(\d+)", path.name) for path in folder.iterdir()]
    saved = sorted(int(name[1]) for name in names if name)  # what was half written has another name
    log = run(place, "train", files, settings | {"TRAIN_STEPS": saved[-1] + 2})
    assert f"Restoring checkpoint from {folder}/checkpoint_{saved[-1]}" in log
    return types.SimpleNamespace(first=first, last=folder / f"checkpoint_{saved[-1] + 2}", log=log)


@pytest.fixture(scope="module")
def prompt_file(trained, place):
    """The prompts that T5X trained, by `mpt import`; the tasks' names are those of its config.gin."""
    path = place.folder / "prompts.safetensors"
    assert main(["import", str(trained.last), f"--output={path}", *backbone_flags(place)]) == 0
    assert load_prompt_file(path).metadata.task_names == tuple(TASKS)
    return path


def backbone_flags(place):
    return [
        f"--gin.INITIAL_CHECKPOINT_PATH={str(place.plain)!r}",
        "--gin.backbone.BackboneSource.vocabulary='bytes'",
    ]


def test_training_moves_the_prompts_and_nothing_else(trained, place):
    first, last = prompts_of(trained.first), prompts_of(trained.last)
    assert {name: array.shape for name, array in last.items()} == {
        "shared": (4, 16),
        "u": (2, 4, 1),
        "v": (2, 1, 16),
    }
    assert all(np.abs(last[name] - first[name]).max() > 1e-3 for name in last)
    assert_same_backbone(trained.last, place.plain)
    assert "effective_batch_size/encoder=" in trained.log  # T5X counts examples in packed rows


def test_eval_and_infer_of_a_checkpoint_and_of_its_prompt_file_agree(trained, prompt_file, place):
    answers = {}
    for kind, checkpoint in (("", trained.last), ("_prompt_file", place.plain)):
        settings = {"CHECKPOINT_PATH": str(checkpoint)}
        if kind:
            settings["PROMPT_FILE"] = str(prompt_file)
        scores = place.folder / f"eval{kind}"
        files = ("t5x/prompts/mpt.gin", f"t5x/runs/eval{kind}.gin")
        run(place, "eval", files, settings | {"EVAL_OUTPUT_DIR": str(scores)})
        texts = place.folder / f"infer{kind}"
        settings |= {"INFER_OUTPUT_DIR": str(texts), "TASK_FEATURE_LENGTHS": LENGTHS}
        files = ("t5x/prompts/mpt.gin", f"t5x/runs/infer{kind}.gin")
        run(place, "infer", files, settings)
        answers[kind] = {
            task: (
                last_line(scores / "inference_eval" / f"mpt_{task}-metrics.jsonl")["likelihood"],
                (texts / f"mpt_{task}-predict.jsonl-00000-of-00001").read_text(),
            )
            for task in TASKS
        }
    for task, (likelihood, texts) in answers[""].items():
        same, same_texts = answers["_prompt_file"][task]
        assert likelihood == pytest.approx(same, rel=1e-5)
        assert texts == same_texts
        assert len(texts.splitlines()) == 12
        assert "inputs_pretokenized" in texts and "prediction" in texts


def test_mpt_answers_as_t5x_does(trained, prompt_file, place):
    """The prompts in T5X's own checkpoint, and the file that was made of them, on T5X's plain weights."""
    texts = place.folder / "infer_in_t5x"
    settings = {"CHECKPOINT_PATH": str(trained.last), "INFER_OUTPUT_DIR": str(texts)}
    files = ("t5x/prompts/mpt.gin", "t5x/runs/infer.gin")
    run(place, "infer", files, settings | {"TASK_FEATURE_LENGTHS": LENGTHS})
    for task in TASKS:
        lines = (texts / f"mpt_{task}-predict.jsonl-00000-of-00001").read_text().splitlines()
        theirs = [json.loads(line) for line in lines]
        asked = place.folder / "asked.txt"
        asked.write_text("".join(f"{row['inputs']['inputs_pretokenized']}\n" for row in theirs))
        for prompts in (trained.last, prompt_file):
            answers = place.folder / f"answers-{task}-{prompts.name}.txt"
            flags = [
                f"--prompts={prompts}",
                f"--task={task}",
                f"--input={asked}",
                f"--output={answers}",
            ]
            length = f"--gin.infer.run.max_output_length={LENGTHS['targets']}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ForeignPromptWarning)
                assert main(["infer", *flags, length, *backbone_flags(place)]) == 0
            # One answer a line: `mpt infer` writes breaks inside of one as spaces.
            expected = [" ".join(row["prediction"].splitlines()) for row in theirs]
            assert answers.read_text().removesuffix("\n").split("\n") == expected


def last_line(path):
    return json.loads(path.read_text().splitlines()[-1])


def test_prompt_tuning_starts_from_a_prompt_file(trained, prompt_file, place):
    folder = place.folder / "prompt_tuning"
    settings = TRAIN | {"MODEL_DIR": str(folder), "INITIAL_CHECKPOINT_PATH": str(place.plain)}
    settings |= {"TRAIN_STEPS": 1002, "PROMPT_FILE": str(prompt_file), "CLIP_NORM": None}
    settings["network.T5Config.dtype"] = "bfloat16"  # T5X's default; prompts stay float32
    settings["utils.SaveCheckpointConfig.keep"] = None
    files = ("t5x/prompts/prompt_tuning.gin", "t5x/runs/train_from_prompt_file.gin")
    run(place, "train", files, settings)
    file = load_prompt_file(prompt_file)
    expected = np.stack([file.prompt(task) for task in TASKS])
    np.testing.assert_array_equal(prompts_of(folder / "checkpoint_1000")["prompt"], expected)
    assert not np.allclose(prompts_of(folder / "checkpoint_1002")["prompt"], expected, atol=1e-3)
    assert_same_backbone(folder / "checkpoint_1002", place.plain)


def test_distillation(trained, prompt_file, place):
    folder = place.folder / "distill"
    settings = TRAIN | {"MODEL_DIR": str(folder), "INITIAL_CHECKPOINT_PATH": str(place.plain)}
    settings |= {"TRAIN_STEPS": 1002, "TEACHERS": str(prompt_file), "RANK": 2}
    log = run(place, "train", ("t5x/prompts/distill.gin", "t5x/runs/train.gin"), settings)
    assert "distillation/kl=" in log and "distillation/hidden_mse=" in log
    # The teachers are no parameters: what is saved is MPT's, and mpt.gin evaluates it.
    assert set(prompts_of(folder / "checkpoint_1002")) == {"shared", "u", "v"}


def test_none_is_forgotten():
    ours = {path.name for path in (SHIPPED / "t5x").rglob("*.gin")}
    run_here = Path(__file__).read_text()
    assert ours == {"mpt.gin", "prompt_tuning.gin", "distill.gin", "train.gin"} | {
        "train_from_prompt_file.gin",
        *(f"{main}{kind}.gin" for main in ("eval", "infer") for kind in ("", "_prompt_file")),
    }
    assert all(f"prompts/{name}.gin" in run_here for name in ("mpt", "prompt_tuning", "distill"))
