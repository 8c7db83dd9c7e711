"""Ours beside the published, on made-up scores."""

import json

import pytest

from mpt_jax.reporting.paper.comparison import (
    Comparison,
    Head,
    Line,
    comparison_json,
    comparison_table,
)
from mpt_jax.reporting.paper.published import published_table
from mpt_jax.reporting.paper.trade_off import our_points, published_points, trade_off
from mpt_jax.reporting.results import Score

GLUE = published_table("glue")
HEADS = tuple(Head(title, f"task_{title}", "accuracy", 100.0) for title in GLUE.columns)


def score(task, seed, value, *, method="mpt", majority=0.5):
    return Score(
        stage="adapt", task=task, method=method, k=None, seed=seed, split="test", num_examples=139,
        metric="accuracy and f1", score=value - 0.1, majority=0.1, train_examples=2490, steps=10,
        best_step=4, parameters=77668, metrics={"accuracy": value, "f1": value - 0.2},
        majorities={"accuracy": majority, "f1": 0.0},
    )  # fmt: skip


def line(method, scores):
    row = next(r for r in GLUE.rows if r.method == method)
    return Line(row.label, method, row, scores, "8 of 8 cells" if scores is not None else "")


def whole(values=(0.6, 0.8)):
    return {h.title: [score(h.task, s, v) for s, v in enumerate(values)] for h in HEADS}


def rows_of(table):
    return {
        (row.cells[0].text, row.cells[1].text): [c.text for c in row.cells] for row in table.rows
    }


def test_ours_stands_below_the_published_line_by_the_columns_metric():
    table, notes = comparison_table(
        Comparison("GLUE", HEADS, (line("mpt", whole()), line("adapter", None)), GLUE)
    )
    rows = rows_of(table)
    assert rows["MPT", "S1"][2:6] == ["77.6K [1]", "85.9", "90.3", "93.1"]
    assert rows["MPT, ours", "8 of 8 cells"][2:4] == ["77,668", "70.0 ±14.1"]
    assert rows["MPT, ours", "8 of 8 cells"][-1] == "70.0 ±14.1"
    assert rows["majority class", "mpt_jax"][3:] == ["50.0"] * 9
    assert rows["Adapter", "S1; published only"][-1] == "84.5"
    assert rows["test examples", "mpt_jax"][3] == "139"
    assert "[1] 77,668 cut, not rounded." in notes
    assert any(note.startswith("S1: ") for note in notes)
    assert "seeds 0, 1; split: test" in table.caption


def test_an_incomplete_line_has_no_average():
    scores = whole() | {"RTE": []}
    comparison = Comparison("GLUE", HEADS, (line("mpt", scores),), GLUE)
    rows = rows_of(comparison_table(comparison)[0])
    ours = rows["MPT, ours", "8 of 8 cells"]
    assert ours[-1] == "–" and ours[3 + GLUE.columns.index("RTE")] == "–"
    assert our_points(comparison) == []


def test_averages_over_other_columns_are_left_out():
    comparison = Comparison("part", HEADS[:2], (line("mpt", whole()),), GLUE)
    table, _ = comparison_table(comparison)
    assert rows_of(table)["MPT", "S1"][-1] == "–"
    assert "left out" in table.caption
    assert published_points(comparison) == []


def test_no_average_where_the_columns_have_no_common_scale():
    nlg = published_table("nlg")
    heads = tuple(Head(title, "e2e_nlg", title, 1.0) for title in nlg.columns)
    lines = tuple(Line(r.label, r.method, r, None) for r in nlg.rows)
    table, _ = comparison_table(Comparison("NLG", heads, lines, nlg))
    assert "average" not in table.columns
    cells = rows_of(table)["MPT", "memory:medium; published only"][3:]
    assert cells[:3] == ["32.14 [1]", "5.35", "0.363"]


def test_json_has_every_seed_and_every_doubt():
    lines = (line("mpt", whole()), line("attempt", None))
    content = json.loads(json.dumps(comparison_json(Comparison("GLUE", HEADS, lines, GLUE))))
    ours = content["lines"][0]["ours"]["cells"]["RTE"]
    assert ours["scores"] == [60.0, 80.0] and ours["seeds"] == [0, 1]
    assert (ours["split"], ours["num_examples"], ours["majority"]) == ("test", 139, 50.0)
    assert content["lines"][1]["ours"] is None and not content["lines"][1]["built"]
    assert content["lines"][0]["published"]["cells"]["RTE"] == {
        "value": 79.4, "deviation": None, "source": "S1", "doubts": [],
    }  # fmt: skip
    assert content["lines"][1]["published"]["parameter_doubts"]


def test_the_plot(tmp_path):
    comparison = Comparison("GLUE", HEADS, (line("mpt", whole()), line("adapter", None)), GLUE)
    assert our_points(comparison) == [("mpt", 77668.0, pytest.approx(70.0))]
    assert published_points(comparison) == [("MPT", 77_600, 85.6), ("Adapter", 1_900_000, 84.5)]
    path = trade_off(comparison, tmp_path / "plot.png")
    assert path is not None and path.stat().st_size > 5000
    nothing = Comparison("GLUE", HEADS, (), GLUE)
    assert trade_off(nothing, tmp_path / "other.png") is None
    assert not (tmp_path / "other.png").exists()
