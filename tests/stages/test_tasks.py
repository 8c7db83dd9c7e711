"""`mpt tasks` with a family of tasks, and a stage on the benchmark's."""

import re

import pytest

from mpt_jax.cli import main

ROWS = "".join(f"{n}\tsentence {n}\tof a pair\t{('not_', '')[n % 2]}entailment\n" for n in range(6))
FILES = ("models/embedded.gin", "runs/tasks.gin", "runs/benchmark.gin")


pytestmark = pytest.mark.usefixtures("own_benchmark")


@pytest.fixture
def rte(tmp_path):
    """GLUE's RTE as it is distributed, without a train set."""
    folder = tmp_path / "data" / "RTE"
    folder.mkdir(parents=True)
    (folder / "dev.tsv").write_text(f"index\tsentence1\tsentence2\tlabel\n{ROWS}")
    return folder


def words(rte, *more, files=FILES, lengths=(24, 4)):
    sizes = dict(zip(("inputs", "targets"), lengths, strict=True))
    store = rte.parents[1] / "stores"
    return [
        *more, *(f"--gin_file={name}" for name in files), f"--gin.DATA_DIR={str(rte.parent)!r}",
        f"--gin.TASK_FEATURE_LENGTHS={sizes!r}", f"--gin.data.Data.store_root={str(store)!r}",
    ]  # fmt: skip


def shown(capsys):
    return re.sub(r"\s+", " ", capsys.readouterr().out)


@pytest.mark.parametrize("name", [["glue_rte"], ["--name=glue_rte"]])
def test_a_data_set_is_described(name, rte, capsys):
    assert main(words(rte, "tasks", *name)) == 0
    text = shown(capsys)
    assert "RTE, https://aclweb.org/aclwiki/Recognizing_Textual_Entailment" in text
    assert "licence: not stated by its publishers" in text
    assert "published: train 2,490, validation 277; split rule: halved_validation" in text
    # "rte sentence1: sentence 0 sentence2: of a pair" has 46 bytes, of which 23 and the end stay.
    assert (
        "validation: 3 examples of split validation, on average 24.0 tokens (at most 24) in and 2.0 (at "
        "most 2) out; of the split's 6 texts 6 are cut at 24 tokens"
    ) in text
    assert re.search(r"inputs: rte sentence1: sentence ids 117 119 104 35", text)
    assert re.search(r"targets: [01] ids 5[12] 1 ", text)
    assert "RTE/train.tsv for the split 'train'; its folder has dev.tsv" in text
    assert "@inproceedings{dagan2005rte," in text


def test_a_mixture_is_a_table_only(rte, capsys):
    assert main(words(rte, "tasks", "glue", "--gin.SETS=('glue',)")) == 0
    text = shown(capsys)
    assert "glue_cola" in text and "super_glue" not in text and "licence" not in text


def test_an_unknown_name(rte, capsys):
    assert main(words(rte, "tasks", "glue_rt")) == 1
    assert "did you mean 'glue_rte'" in capsys.readouterr().err


def test_shipped_tasks_need_no_data(capsys):
    assert main(["tasks", "inflect_past"]) == 0
    text = shown(capsys)
    assert "inflect_past" in text and "licence" not in text


def test_a_stage_on_the_benchmark(rte, toy, tmp_path, capsys):
    (rte / "train.tsv").write_text((rte / "dev.tsv").read_text())
    flags = toy.flags(
        "teach", tmp_path / "run", MIXTURE_OR_TASK_NAME="glue_rte", DATA_DIR=rte.parent,
        TASK_FEATURE_LENGTHS={"inputs": 24, "targets": 4}, STORE_DIR=tmp_path / "stores",
    )  # fmt: skip
    after_runs = 1 + max(n for n, flag in enumerate(flags) if flag.startswith("--gin_file"))
    flags.insert(after_runs, "--gin_file=runs/benchmark.gin")
    assert main(flags) == 0
    assert set(toy.prompts(tmp_path / "run"))
