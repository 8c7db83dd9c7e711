"""What stands in the tables, in Markdown and in terminals of several widths."""

import io
import math
import re

import pytest
from rich.console import Console

from mpt_jax.reporting.layout import Cell, Table, number, span, with_spread
from mpt_jax.reporting.line_breaks import broken
from mpt_jax.reporting.results import Results
from mpt_jax.reporting.summaries import spread
from mpt_jax.reporting.tables import (
    all_tables,
    few_shot_tables,
    paired_table,
    print_tables,
    source_table,
    steps_table,
)


def cells(table, first):
    """The texts of the row that begins with `first`, by column."""
    row = next(r for r in table.rows if r.cells[0].text == first)
    return dict(zip(table.columns, [c.text for c in row.cells], strict=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6384, ".638"), (1.0, "1.000"), (-0.021, "−.021"), (-0.0001, ".000"), (None, "–"),
     (math.nan, "–")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_signs_spreads_and_spans():
    assert number(0.02, sign=True) == "+.020" and number(0.0, sign=True) == ".000"
    assert with_spread(spread([0.5, 0.7])) == ".600 ±.141"
    assert with_spread(spread([62.5, 63.5]), 1) == "63.0 ±.7"
    assert with_spread(spread([0.5])) == ".500" and with_spread(spread([])) == "–"
    assert span([180, 500, 180]) == "180–500" and span([2000]) == "2,000" and span([]) == "–"


def test_source_table(score):
    results = Results(
        scores=[
            score("teach", "a", "prompt_tuning", 0.8, majority=0.25),
            score("distill", "a", "mpt", 0.7, majority=0.25),
            score("teach", "b", "prompt_tuning", 0.6, majority=0.05),
            score("distill", "b", "mpt", 0.7, majority=0.05),
        ]
    )
    table = source_table(results)
    assert cells(table, "a") == {"task": "a", "majority": ".250", "teacher": ".800", "MPT": ".700"}
    mean = cells(table, "mean of all 2 tasks")
    assert (mean["majority"], mean["teacher"], mean["MPT"]) == (".150", ".700", ".700")
    assert "500" in table.caption and "One seed" in table.caption


def test_few_shot_tables(results, score):
    subsets = {"two": ["inflect_past", "lemma_of_past"], "none of these": ["elsewhere"]}
    tables = few_shot_tables(results, subsets=subsets)
    assert [t.title[-6:] for t in tables] == ["k = 16", "k = 64"]
    row = cells(tables[0], "inflect_past")
    own = [s.score for s in results.scores
           if (s.task, s.k, s.method) == ("inflect_past", 16, "mpt")]  # fmt: skip
    assert row["MPT"] == with_spread(spread(own))
    assert cells(tables[0], "classify_language_b")["naive Bayes, full data"] == ".998"
    assert "mean of two" in [r.cells[0].text for r in tables[0].rows]
    assert not any("elsewhere" in r.cells[0].text for r in tables[0].rows)


def test_means_are_over_tasks_that_all_have(score):
    results = Results(
        scores=[
            score("adapt", "easy", "mpt", 0.9, k=16),
            score("adapt", "easy", "spot", 0.8, k=16, num_examples=40),
            score("adapt", "hard", "mpt", 0.1, k=16),
        ]
    )
    (table,) = few_shot_tables(results)
    mean = cells(table, "mean of all 2 tasks (the 1 that all columns have)")
    assert (mean["MPT"], mean["SPoT"]) == (".900", ".800")
    assert cells(table, "hard")["SPoT"] == "–"
    assert cells(table, "easy")["examples"] == "40–500"  # uneven counts have their own columns


def test_bold_only_where_clear(score):
    def table(gap):
        return few_shot_tables(
            Results(
                scores=[
                    score("adapt", "a", method, base + 0.1 * seed, k=16, seed=seed)
                    for method, base in (("mpt", 0.3 + gap), ("spot", 0.3))
                    for seed in range(3)
                ]
            )
        )[0]

    assert [c.bold for c in table(0.3).rows[0].cells] == [False, False, True, False]
    assert not any(c.bold for c in table(0.05).rows[0].cells)


def test_scores_in_hundreds(score):
    results = Results(scores=[score("teach", "a", "prompt_tuning", 81.25, majority=50.0)])
    assert cells(source_table(results), "a")["teacher"] == "81.2"


def test_paired_table(results):
    table = paired_table(results, subsets={"two": ["inflect_past", "lemma_of_past"]})
    assert len(table.rows) == 2 * 2 * 4  # all and the subset, two k, four controls
    first = cells(table, "all 5 tasks")
    assert first["minus"] == "MPT w/o distill" and first["verdict"] == "ahead"
    assert paired_table(Results()) is None


def test_steps_table(results):
    table = steps_table(results)
    assert [row.cells[2].text for row in table.rows[:5]] == ["0", "10", "30", "60", "120"]


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_terminal_shows_every_column(results, width):
    out = io.StringIO()
    print_tables(results, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    flat = "".join(out.getvalue().split())
    assert flat.count(".998") == 2 and "…" not in out.getvalue()


NAMES = ("without classify_part_of_speech", "without lemma_of_third_person")
TARGETS_SHOWN = ("classify_language_b", "inflect_superlative", "lemma_of_superlative")


def shown(width, *names, targets=TARGETS_SHOWN):
    table = Table("Mixtures", ["source mixture", *targets])
    for name in names:
        table.add(name, *["−.073 ±.100"] * len(targets))
    out = io.StringIO()
    Console(file=out, width=width).print(table.rich(width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [" ".join(line.split()) for line in lines]


def test_a_table_that_is_too_wide_comes_in_parts_with_whole_lines():
    lines = shown(80, *NAMES, targets=TARGETS_SHOWN * 3)
    assert lines.count("Mixtures") == 1
    for name in NAMES:
        rows = [line for line in lines if line.startswith(name)]
        assert len(rows) == 3 and all(row == f"{name}" + " −.073 ±.100" * 3 for row in rows)


def test_names_break_at_their_joints():
    names = " ".join((*NAMES, *TARGETS_SHOWN, "source mixture"))
    found = [w for line in shown(36, *NAMES)[1:] for w in line.split() if w[0].isalpha()]
    assert "lemma_of_" in found and "superlative" in found
    for word in found:
        assert re.search(rf"(?<![^ _]){word}(?:(?<=_)| |$)", names), word


def test_a_column_narrower_than_a_word_breaks_it():
    assert broken("a_bc superlative 1e-05", 5) == "a_bc\nsuper\nlativ\ne\n1e-05"
    assert all("±" not in line or len(line) <= 8 for line in shown(8, "superlative"))


def test_markdown():
    table = Table("T", ["a|b", "n"], "see *this*")
    table.add("x_y", Cell("1", bold=True))
    table.add("mean", "2", summary=True)
    assert table.markdown() == (
        "### T\n\n| a\\|b | n |\n| --- | ---: |\n| x_y | **1** |\n| *mean* | 2 |\n\n*see \\*this\\**\n"
    )
    with pytest.raises(ValueError, match="got 1 cells for 2 columns"):
        table.add("alone")


def test_partial_results(results_with):
    assert all_tables(Results()) == []
    for parts in ({"curves": False}, {"seeds": (0,)}, {"ks": (None,)}, {"methods": ("mpt",)}):
        assert all_tables(results_with(**parts))
