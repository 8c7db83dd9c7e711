"""What the benchmarks say is right: ratios of turns, targets, FLOPs in closed form."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def part(monkeypatch):
    """A module of benchmarks/ or docs/, which are no packages."""
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module


def test_ratios_are_medians_of_the_rounds(part):
    turns = part("turns")
    ours = [turns.Turn(1.0, 2.0), turns.Turn(2.0, 2.0), turns.Turn(1.0, 2.0)]
    theirs = [turns.Turn(2.0, 2.0), turns.Turn(2.0, 3.0), turns.Turn(5.0, 8.0)]
    ratio = turns.ratio(theirs, ours)
    assert (ratio.wall, ratio.cpu) == (2.0, 1.5)
    assert (ratio.wall_spread, ratio.cpu_spread) == (4.0, 3.0)


def test_workers_take_turns_and_say_what_they_know(part):
    turns = part("turns")
    worker = turns.Worker("problem:write", folder="/nowhere", size="no such size")
    with pytest.raises(turns.WorkerFailed):
        turns.take_turns({"broken": worker}, 1)


@pytest.mark.parametrize(
    "value, target, met", [(1.2, ">= 1.15", True), (1.1, ">= 1.15", False), (0.0, "<= 0", True)]
)
def test_targets(part, value, target, met):
    assert part("results").Row("a / b", value, target).met is met


def test_results_of_one_name_are_replaced_and_others_kept(part, tmp_path):
    results = part("results")
    output = tmp_path / "results.json"
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        results.Result(name, name, [results.Row("x", value, ">= 2")]).write(output)
    held = json.loads(output.read_text())
    assert [held[name]["rows"][0]["value"] for name in "ab"] == [3.0, 2.0]


def test_closed_form_is_what_xla_counts_less_what_lies_between_the_products(part, tmp_path):
    problem, mpt_step, flops = part("problem"), part("mpt_step"), part("matmul_flops")
    size = problem.Size(128, 2, 64, 256, 2, 2000, rows=8, prompt=20, inputs=40, targets=6)
    problem.make(tmp_path, size)
    step = mpt_step.make_step(mpt_step.open_backbone(tmp_path), tmp_path)
    counted = step.compiled(mpt_step.make_batch(tmp_path, step.bank)).cost_analysis()["flops"]
    assert 1 < counted * 8 / flops.training_step(size) < 1.03  # one device's of the tests' eight


def test_the_page_has_the_figures_of_the_results(part, tmp_path):
    results, writer = part("results"), part("write_benchmarks")
    rows = [results.Row("x / y", 1.234, ">= 1.15", 0.1)]
    about = {"size": "tiny", "rounds": 1, "cores": 2}
    results.Result("one", "One", rows, ["a note"], about).write(tmp_path / "r.json")
    text = f"before\n{writer.BEGIN}\nold\n{writer.END}\nafter\n"
    made = writer.page(text, json.loads((tmp_path / "r.json").read_text()))
    assert "| x / y | 1.23 | 0.10 |  |  | >= 1.15 | met |" in made
    assert "old" not in made and made.startswith("before") and made.endswith("after\n")


def test_the_page_is_made_of_the_results_that_stand_beside_it(part):
    writer = part("write_benchmarks")
    held = json.loads(writer.RESULTS.read_text()) if writer.RESULTS.exists() else {}
    text = writer.PAGE.read_text()
    assert writer.page(text, held) == text, "run python docs/write_benchmarks.py"
