"""The report of a comparison, from made-up numbers."""

import dataclasses
import math
import re

import pytest
from matplotlib.image import imread

from mpt_jax.reporting.comparison.plots import _side_by_side, trade_off
from mpt_jax.reporting.comparison.records import Candidate, Comparison, MethodRecord
from mpt_jax.reporting.comparison.report import in_short, write_comparison
from mpt_jax.reporting.comparison.tables import (
    convergence,
    ranking,
    ranking_table,
    search_table,
    transfer_table,
)
from mpt_jax.reporting.results import Results, ResultsError

from ..conftest import make_results

METHODS = ("prompt_tuning", "spot", "mpt")
SIZES = {"prompt_tuning": 1536, "spot": 1536, "mpt": 1676}


def record(name, **changes):
    candidates = [
        Candidate(learning_rate=rate, factor_learning_rate=None, score=score)
        for rate, score in ((0.1, 0.4), (0.3, 0.61), (1.0, None))
    ]
    fields = dict(
        name=name, kind="prompt_tuning", learning_rate=0.3, factor_learning_rate=None,
        candidates=candidates, edges=[], parameters=SIZES[name], stored_bytes=4 * SIZES[name] + 800,
        members=15, rows=120, steps=120, timed_steps=120, seconds=40.0, compile_seconds=5.0,
        evaluate_seconds=11.0, step_bytes=23_456_789, search_seconds=31.0,
    )  # fmt: skip
    return MethodRecord(**{**fields, **changes})


@pytest.fixture
def results():
    return make_results(methods=METHODS)


@pytest.fixture
def comparison(results):
    transfer = [
        dataclasses.replace(s, score=s.score - 0.1)
        for s in results.scores
        if s.stage == "adapt" and s.method == "mpt" and s.task == "derive_ness"
    ]
    return Comparison(
        budget={"search": "3 candidates a method"}, methods=[record(name) for name in METHODS],
        transfer={"classifying sources only": transfer}, transfer_method="mpt",
    )  # fmt: skip


def cells(table):
    return {row.cells[table.columns.index("method")].text: row.cells for row in table.rows}


def test_the_ranking_has_scores_and_costs_side_by_side(results, comparison):
    table = ranking_table(results, comparison, 16)
    rows = cells(table)
    means = ranking(results, 16)
    assert list(means) == sorted(means, key=lambda m: -means[m].mean)
    assert [row.cells[0].text for row in table.rows] == ["1", "2", "3", ""]
    scores = [s.score for s in results.scores
              if (s.stage, s.method, s.k) == ("adapt", "mpt", 16)]  # fmt: skip
    assert rows["MPT"][2].text.startswith(f"{sum(scores) / len(scores):.3f}"[1:] + " ±")
    assert [c.text for c in rows["MPT"][3:]] == ["1,676", "7,504", "5", "40 s", "23.5 MB"]
    assert rows["majority class"][2].text == ".050"


def test_a_training_that_was_stopped_has_a_rate_but_no_total(results, comparison):
    comparison.methods[2] = record("mpt", timed_steps=30, seconds=22.0, step_bytes=None)
    assert [c.text for c in cells(ranking_table(results, comparison, 16))["MPT"][5:]] == [
        "5", "–", "–"
    ]  # fmt: skip
    nothing_left = record(
        "mpt", timed_steps=0, seconds=1.0, compile_seconds=0.0, evaluate_seconds=0.0
    )
    assert nothing_left.steps_per_second is None and not nothing_left.whole


def test_the_search_shows_every_candidate_and_what_was_chosen(comparison):
    comparison.methods[1] = record("spot", edges=["largest rate"])
    rows = cells(search_table(comparison))
    assert [c.text for c in rows["MPT"][1:]] == ["0.1: .400", "0.3: .610", "1: diverged", "no"]
    assert [c.bold for c in rows["MPT"][1:]] == [False, True, False, False]
    assert rows["SPoT"][-1].text == "largest rate"


def test_what_speaks_against_the_numbers_is_said_first(results, comparison):
    comparison.methods[1] = record("spot", edges=["largest rate"])
    comparison.failed["lora"] = "every candidate of lora diverged"
    text = "\n".join(in_short(results, comparison, "mpt"))
    assert "SPoT (largest rate)" in text and "**LoRA has no numbers**: every candidate" in text
    assert re.search(r"k = 16: MPT is number \d of 3", text)
    rising = {m for m, (_, _, gain) in convergence(results, 16).items() if gain > 0.01}
    assert ("still rising" in text) == bool(rising)


def test_rising_curves_are_named(results, comparison):
    results.curves = [
        dataclasses.replace(c, scores=[step / 200 for step in c.steps])
        if (c.method, c.k) == ("spot", 64) else dataclasses.replace(c, scores=[0.5] * len(c.steps))
        for c in results.curves
    ]  # fmt: skip
    steps, means, gain = convergence(results, 64)["spot"]
    assert steps[-1] == 120 and means[-1] == pytest.approx(0.6)
    assert gain == pytest.approx(0.6 - 80 / 200)  # the last step before three quarters
    (line,) = [x for x in in_short(results, comparison, "mpt") if "still rising" in x]
    assert line == "k = 64: still rising in the last quarter of their steps: SPoT (+.200)."


def test_the_transfer_stands_beside_all_sources_and_none(results, comparison):
    table = transfer_table(results, comparison, "prompt_tuning")
    assert table.columns == [
        "target", "k", "majority", "prompt tuning", "MPT, all sources", "MPT, classifying sources only"
    ]  # fmt: skip
    assert [(r.cells[0].text, r.cells[1].text) for r in table.rows] == [
        ("derive_ness", "16"), ("derive_ness", "64")
    ]  # fmt: skip
    whole, part = (float(c.text.split()[0]) for c in table.rows[0].cells[4:])
    assert whole - part == pytest.approx(0.1, abs=0.0011)
    assert transfer_table(results, Comparison(), "prompt_tuning") is None


def test_the_report_is_written_whole_and_is_read_again(results, comparison, tmp_path):
    comparison.methods.append(
        dataclasses.replace(record("mpt"), name="lora", parameters=30_000, kind="lora")
    )
    path = write_comparison(results, comparison, tmp_path, "Methods", ["A note."])
    text = path.read_text()
    for head in ("# Methods", "## In short", "## Score and cost", "## Target tasks", "## Source tasks",
                 "## Budgets, searches, cost", "A note.", "3 candidates a method"):  # fmt: skip
        assert head in text
    for link in re.findall(r"\]\((plots/\S+)\)", text):
        assert imread(tmp_path / link).shape[1] >= 900
    again = Results.load(tmp_path / "results.json")
    assert Comparison.from_plain(again.comparison) == comparison
    with pytest.raises(ResultsError, match="not overwritten"):
        write_comparison(dataclasses.replace(again, id="another"),
                         comparison, tmp_path, "Methods")  # fmt: skip


def test_with_nothing_finished_there_is_a_report_of_what_failed(tmp_path):
    path = write_comparison(
        Results(), Comparison(failed={"mpt": "it diverged"}), tmp_path, "Methods"
    )
    assert "**MPT has no numbers**: it diverged" in path.read_text()


def test_a_lost_score_survives_the_file(results, comparison, tmp_path):
    lost = dataclasses.replace(comparison.transfer["classifying sources only"][0], score=math.nan)
    comparison.transfer = {"classifying sources only": [lost]}
    write_comparison(results, comparison, tmp_path, "Methods")
    again = Comparison.from_plain(Results.load(tmp_path / "results.json").comparison)
    assert math.isnan(again.transfer["classifying sources only"][0].score)


def test_points_of_about_equal_size_stand_side_by_side_in_order():
    places = _side_by_side({"a": 1536, "b": 1676, "c": 1536, "d": 20_000})
    assert places["d"] == pytest.approx(20_000)
    assert places["a"] < places["c"] < places["b"]
    assert 1300 < places["a"] and places["b"] < 1900


def test_the_plot_needs_methods(results, tmp_path):
    assert trade_off(results, Comparison(), tmp_path / "x.png") is None
