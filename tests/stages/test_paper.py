"""`mpt paper`: a small table from its teachers on, however it is interrupted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mpt_jax import cli
from mpt_jax.cli import main
from mpt_jax.data.few_shot import few_shot_indices
from mpt_jax.training import checkpoints

from .conftest import use_devices


def table_of(folder, name="glue"):
    return json.loads((folder / "tables" / name / "table.json").read_text())


def ours(folder):
    return {line["method"]: line["ours"] for line in table_of(folder)["lines"] if line["ours"]}


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A table that nobody disturbed. For reading only; copy it to go on with it."""
    folder = tmp_path_factory.mktemp("paper") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        use_devices(1, patch)
        assert main(toy.paper(folder)) == 0
    return folder


def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.mark.slow
def test_from_teachers_to_the_table(finished):
    content = table_of(finished)
    assert [c["title"] for c in content["columns"]] == ["RTE", "CoLA"]
    for column in content["columns"]:
        assert column["majority"] > 0
        assert (column["split"], column["num_examples"]) == ("test", 12)
    found = ours(finished)
    assert set(found) == {"prompt_tuning", "mpt"}
    for line in found.values():
        assert line["standing"] == "2 of 2 cells" and line["average"] is not None
        for cell in line["cells"].values():
            assert cell["seeds"] == [0, 1] and len(cell["scores"]) == 2
            assert cell["steps"] == 8 and cell["train_examples"] == 32
    # Published methods are there whether or not mpt_jax has them.
    lines = {line["label"]: line for line in content["lines"]}
    assert lines["MPT"]["published"]["cells"]["RTE"]["value"] == 79.4
    assert lines["ATTEMPT"]["ours"] is None and lines["ATTEMPT"]["published"]
    text = (finished / "tables/glue/table.md").read_text()
    assert re.search(
        r"^\| majority class \| mpt_jax \|  \| 66\.7 \| 33\.3 \| 50\.0 \|$", text, re.M
    )
    assert "ATTEMPT | S1; published only | 232K [2]" in text
    assert (finished / "tables/glue/plot.png").exists() == ("plot.png" in text)
    # The source stage is shared by all tables of the size, and only what is needed is made.
    assert sorted(p.name for p in (finished / "tiny/sources/distill").iterdir() if p.is_dir()) == [
        "mpt"
    ]


@pytest.mark.slow
def test_a_finished_table_is_only_shown_again(finished, toy, tmp_path, capsys):
    folder = copied(finished, tmp_path)

    def state():
        runs = [p for p in (folder / "tiny").rglob("*") if p.is_file() and p.name != ".lock"]
        return {path: path.stat().st_mtime_ns for path in runs}

    before = state()
    assert main(toy.paper(folder)) == 0
    shown = capsys.readouterr().out
    assert state() == before and "MPT, ours" in shown and "teach:" not in shown


@pytest.mark.slow
def test_only_some_cells_and_the_status(finished, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "tiny/full/mpt/toy_sound")
    (folder / "tiny/full/prompt_tuning/toy_sound/evaluate/run.json").write_text(
        '{"stage": "evaluate", "complete": false}'
    )
    before = sorted(folder.rglob("*"))
    assert main(toy.paper(folder, "--status")) == 0
    shown = capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before
    rows = [line.split() for line in shown.splitlines() if line.startswith(" tiny/")]
    states = {name: " ".join(w for w in more if w.isalpha()) for name, *more in rows}
    assert states == {
        "tiny/sources/teach": "done", "tiny/sources/distill/mpt": "done",
        "tiny/full/prompt_tuning/toy_sound": "done partial",
        "tiny/full/prompt_tuning/toy_counted": "done done",
        "tiny/full/mpt/toy_sound": "missing missing", "tiny/full/mpt/toy_counted": "done done",
    }  # fmt: skip
    assert len(re.findall("published only", shown)) >= 10

    assert main(toy.paper(folder, "--only=mpt/toy_s*")) == 0
    assert ours(folder)["mpt"]["standing"] == "2 of 2 cells"
    assert ours(folder)["prompt_tuning"]["standing"] == "1 of 2 cells"
    assert ours(folder)["prompt_tuning"]["average"] is None
    assert main(toy.paper(folder, "--only=mpt/toy_sonud")) == 1
    assert "mpt/toy_sound" in capsys.readouterr().err


@pytest.mark.slow
def test_other_settings_are_refused_and_nothing_is_trained_over(finished, toy, tmp_path, capsys):
    folder = copied(finished, tmp_path)
    config = folder / "tiny/full/mpt/toy_sound/adapt/config.gin"
    before = config.read_text()
    assert main(toy.paper(folder, ADAPT_STEPS=9)) == 1
    message = capsys.readouterr().err
    assert "ADAPT_STEPS was 8, is 9" in message and "8 of 10 runs" in message  # not the sources
    assert "give another --model_dir" in message
    assert config.read_text() == before
    assert ours(folder)["mpt"]["standing"] == "0 of 2 cells"  # other settings are another table's
    assert main(toy.paper(folder, MAX_EXAMPLES=6)) == 1  # the scores are others, not the prompts
    message = capsys.readouterr().err
    assert "4 of 10 runs" in message and "MAX_EXAMPLES was None, is 6" in message
    # Scores of prompts that were trained again are not taken for those of the new ones.
    shutil.rmtree(folder / "tiny/sources/distill/mpt")
    assert main(toy.paper(folder, "--only=mpt/toy_sound", DISTILL_STEPS=3)) == 1
    message = capsys.readouterr().err
    assert (
        "mpt/toy_sound is there with other settings (distill/DISTILL_STEPS was 4, is 3)" in message
    )
    assert toy.members(folder / "tiny/sources/distill/mpt")["mpt/seed0"]["steps"] == 3
    assert ours(folder)["prompt_tuning"]["standing"] == "2 of 2 cells"
    # Another table with the same sources goes on from them.
    flags = {"paper_table.Table.setting": "longer", "ADAPT_STEPS": 9}
    assert main(toy.paper(folder, "--only=prompt_tuning/toy_sound", **flags)) == 0


@pytest.mark.slow
def test_a_cell_that_fails_stops_no_other(finished, toy, tmp_path, capsys):
    folder = copied(finished, tmp_path)
    columns = (
        ("RTE", "toy_sound", "accuracy"), ("CoLA", "toy_empty", "likelihood"),
        ("MRPC", "toy_other_vocabulary", "likelihood"), ("STS-B", "toy_turn", "likelihood"),
    )  # fmt: skip
    flags = {"paper_table.Table.columns": columns, "methods": "(@scratch/adapt.Variant(),)"}
    assert main(toy.paper(folder, **flags)) == 1
    captured = capsys.readouterr()
    failed = folder / "tiny/full/prompt_tuning/toy_other_vocabulary/adapt.failed.txt"
    assert "registered with" in failed.read_text() and "mpt adapt --gin_file=" in failed.read_text()
    assert "toy_other_vocabulary failed" in captured.err
    assert "(scores) waits for tiny/full/prompt_tuning/toy_other_vocabulary" in captured.err
    cells = ours(folder)["prompt_tuning"]["cells"]
    assert {"RTE", "STS-B"} == set(cells) and cells["STS-B"]["majority"] is None
    assert main(toy.paper(folder, "--status", **flags)) == 0
    assert "failed, step 0" in capsys.readouterr().out
    # A fault of the program fails its cell alone as well.
    shutil.rmtree(folder / "tiny/full/prompt_tuning/toy_turn")

    def broken(line):
        raise ZeroDivisionError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_dispatch", lambda line, real=cli._dispatch: (
            broken(line) if line[0] == "adapt" else real(line)))  # fmt: skip
        assert main(toy.paper(folder, **flags)) == 1
    assert "ZeroDivisionError: broken" in capsys.readouterr().err
    trace = folder / "tiny/full/prompt_tuning/toy_turn/adapt.failed.txt"
    assert "Traceback" in trace.read_text()


@pytest.mark.slow
def test_a_metric_that_the_task_does_not_have(finished, toy, tmp_path, capsys):
    folder = copied(finished, tmp_path)
    columns = (("RTE", "toy_sound", "acuracy"), ("CoLA", "toy_counted"))
    assert main(toy.paper(folder, **{"paper_table.Table.columns": columns})) == 1
    assert "did you mean 'accuracy'" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_stopped_it_ends_as_if_undisturbed(toy, finished, tmp_path):
    folder = tmp_path / "runs"
    first = folder / "tiny/full/prompt_tuning/toy_sound/adapt"
    second = folder / "tiny/full/mpt/toy_sound/adapt"

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "mpt_jax", *toy.paper(folder)],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def wait_for(process, place):
        deadline = time.monotonic() + 300
        while not checkpoints.steps(place / "checkpoints"):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)

    killed = start()
    wait_for(killed, first)
    killed.kill()
    killed.communicate()
    assert not (folder / "tables").exists()

    stopped = start()
    wait_for(stopped, second)
    stopped.send_signal(signal.SIGTERM)
    output = stopped.communicate()[0]
    assert stopped.returncode == 75, output

    assert main(toy.paper(folder)) == 0
    for cell in ("prompt_tuning/toy_sound", "mpt/toy_sound", "mpt/toy_counted"):
        found, expected = (
            toy.prompts(r / "tiny/full" / cell / "adapt") for r in (folder, finished)
        )
        assert set(found) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    for content in (first_content := table_of(folder), table_of(finished)):
        assert [c["majority"] for c in content["columns"]] == [
            c["majority"] for c in first_content["columns"]
        ]
    assert ours(folder) == ours(finished)


@pytest.mark.slow
def test_every_method_gets_the_same_few_shot_draws(toy, tmp_path):
    folder = tmp_path / "few"
    columns = (
        ("CB k=2", "toy_sound", "accuracy", 2), ("CB k=4", "toy_sound", "accuracy", 4),
        ("BoolQ k=4", "toy_counted", None, 4),
    )  # fmt: skip
    flags = {
        "paper_table.Table.name": "few_shot", "paper_table.Table.setting": "few_shot",
        "paper_table.Table.columns": columns, "SHOTS": (2, 4), "SEEDS": (0, 1, 5),
        "PER_CLASS": ("toy_sound",), "ADAPT_STEPS": 2,
    }  # fmt: skip
    assert main(toy.paper(folder, **flags)) == 0
    draws = {}
    for method in ("prompt_tuning", "mpt"):
        for task in ("toy_sound", "toy_counted"):
            cell = folder / "tiny/few_shot" / method / task / "evaluate/results.json"
            draws[method, task] = json.loads(cell.read_text())["draws"]
    assert draws["prompt_tuning", "toy_sound"] == draws["mpt", "toy_sound"]
    assert draws["prompt_tuning", "toy_counted"] == draws["mpt", "toy_counted"]
    assert [(d["k"], d["seed"]) for d in draws["mpt", "toy_sound"]] == [
        (k, seed) for k in (2, 4) for seed in (0, 1, 5)
    ]
    assert {d["examples"] for d in draws["mpt", "toy_sound"] if d["k"] == 4} == {8}  # of each class
    for draw in draws["mpt", "toy_counted"]:
        drawn = few_shot_indices("toy_counted", [""] * 32, draw["k"], draw["seed"], per_class=False)
        assert draw["indices"] == drawn.tolist() and not draw["per_class"]
    assert len({d["digest"] for d in draws["mpt", "toy_counted"]}) == 6
    content = table_of(folder, "few_shot")
    assert len(content["draws"]) == 12
    assert ours_cells(content, "mpt")["CB k=4"]["seeds"] == [0, 1, 5]
    assert ours_cells(content, "mpt")["CB k=4"]["train_examples"] == 8

    # The data changed between two cells: their scores do not compare.
    results = folder / "tiny/few_shot/mpt/toy_counted/evaluate/results.json"
    results.write_text(
        results.read_text().replace(draws["mpt", "toy_counted"][0]["digest"], "0" * 64)
    )
    assert main(toy.paper(folder, **flags)) == 1


def ours_cells(content, method):
    return next(line["ours"] for line in content["lines"] if line["method"] == method)["cells"]
