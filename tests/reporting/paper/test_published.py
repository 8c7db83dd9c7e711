"""The published figures: complete, with sources, and with the doubts that arithmetic raises."""

import math

import pytest

from mpt_jax.errors import UserError
from mpt_jax.reporting.paper.published import (
    exact_counts,
    fits,
    parse_count,
    published_names,
    published_table,
    task_facts,
)

TABLES = {name: published_table(name) for name in published_names()}
ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows]


def test_every_table_of_the_paper_is_there():
    assert set(TABLES) == {
        "glue", "super_glue", "mrqa", "others", "few_shot", "nlg", "ablations", "scaling",
        "prompt_length",
    }  # fmt: skip
    assert all(any(row.method == "mpt" for row in table.rows) for table in TABLES.values())
    with pytest.raises(UserError, match="did you mean 'glue'"):
        published_table("glu")


@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda v: getattr(v, "label", v))
def test_every_figure_names_its_source(name, row):
    figures = [*row.cells.values(), *([row.average] if row.average else [])]
    assert tuple(row.cells) == TABLES[name].columns
    for figure in figures:
        assert figure.source in TABLES[name].sources
        # A figure that was not found says so, or is what the whole row lacks.
        assert (figure.source == "none") <= (figure.value is None)
        assert figure.value is None or 0 < figure.value < 100
    assert any(f.value is not None for f in figures) or any(
        f.doubts for f in [*figures]
    ) or row.parameter_doubts  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row"), [(n, r) for n, r in ROWS if r.average], ids=lambda v: getattr(v, "label", v)
)
def test_printed_averages_agree_with_their_cells_or_are_doubted(name, row):
    values = [figure.value for figure in row.cells.values()]
    if None in values or row.average.value is None:
        return
    mean = math.fsum(values) / len(values)
    agrees = abs(mean - row.average.value) <= 0.05 + 1e-9
    flagged = any(f"mean is {mean:.2f}" in doubt for doubt in row.average.doubts)
    assert agrees != flagged, (mean, row.average)


def test_the_known_inconsistencies_are_flagged():
    def doubts(table, method, column=None):
        row = next(r for r in TABLES[table].rows if r.method == method)
        return " ".join((row.average if column is None else row.cells[column]).doubts)

    assert "77.3" in doubts("mrqa", "attempt", "SearchQA")
    assert "93.3" in doubts("glue", "mpt_multi", "SST-2")
    assert "76.24" in doubts("super_glue", "mpt_multi")
    assert "76.48" in doubts("super_glue", "full_multi")
    assert "76.82" in doubts("mrqa", "dept", "HotpotQA")
    assert "84.9" in doubts("glue", "prompt_tuning")
    assert "majority" in doubts("super_glue", "mpt", "WSC")
    assert "constant" in doubts("others", "prompt_tuning", "WinoGrande")
    assert "constant" in doubts("others", "spot", "WinoGrande")
    assert "constant" in doubts("others", "dpt_256", "PAWS")
    assert "" == doubts("super_glue", "bitfit", "WSC")
    assert "memory" in next(iter(TABLES["few_shot"].rows[0].cells.values())).source


def test_headline_figures():
    mpt = next(r for r in TABLES["glue"].rows if r.method == "mpt")
    assert (mpt.average.value, mpt.parameters, mpt.cells["RTE"].value) == (85.6, "77.6K", 79.4)
    yelp = next(r for r in TABLES["others"].rows if r.method == "mpt").cells["Yelp"]
    assert (yelp.value, yelp.deviation, yelp.source) == (96.4, 0.0, "S1")


@pytest.mark.parametrize(
    ("count", "printed", "expected"),
    [
        (77_668, "77.6K", True),  # cut
        (10_468, "10.5K", True),  # rounded
        (76_800, "76.8K", True),
        (231_936, "232K", True),
        (230_400, "232K", False),
        (76_800, "77.6K", False),
        (222_903_552, "220M", True),
        (1_855_104, "1.9M", True),
        (280_932, "280K", True),
        (300_000, "280K", False),
    ],
)
def test_printed_counts_are_rounded_or_cut(count, printed, expected):
    assert fits(count, printed) == expected


def test_the_exact_counts_fit_the_printed_ones():
    printed = {r.method: r.parameters for r in TABLES["glue"].rows if r.parameters}
    counts = exact_counts(768)
    assert {"mpt", "mpt_multi", "prompt_tuning", "attempt", "adapter", "full"} <= set(counts)
    assert all(fits(count, printed[method]) for method, count in counts.items())
    assert exact_counts(512)["mpt"] == 51_812 and exact_counts(16) == {}
    assert parse_count("10.5K") == 10_500
    with pytest.raises(ValueError, match="77.6K"):
        parse_count("many")


def test_sizes_of_the_data_sets():
    cb = task_facts("super_glue_cb")
    assert (cb.train, cb.validation, cb.test, cb.source) == (250, 28, 28, "S1")
    assert task_facts("toy_head") is None
