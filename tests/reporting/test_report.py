"""The report as a whole: what stands in it, and that it never replaces another run's."""

import dataclasses
import re
import subprocess
import sys

import pytest

from mpt_jax.reporting.caveats import caveats
from mpt_jax.reporting.report import check_folder, write_report
from mpt_jax.reporting.results import Results, ResultsError


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    """Empty files in place of drawn figures."""
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: path.write_bytes(b"")
    )


def test_whole_report(results, tmp_path):
    path = write_report(
        results, tmp_path, "Quickstart", ["Plurals were met in pretraining."],
        settings={"steps": 120, "adapt": {"learning_rate": 0.1}},
        subsets={"inflections": ["inflect_past", "inflect_superlative"]},
    )  # fmt: skip
    text = path.read_text()
    heads = re.findall("^## (.*)$", text, re.MULTILINE)
    assert heads == ["In short", "How to read this", "Source tasks", "Target tasks", "Task prompts",
                     "Cost", "How it was made", "Notes"]  # fmt: skip
    for needed in ("# Quickstart", "- Plurals were met in pretraining.", "| adapt.learning_rate | 0.1 |",
                   "mean of inflections", "00ff00ff00ff00ff", "one seed only", "jax 0.10.2"):  # fmt: skip
        assert needed in text, needed
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(links) == 8 and all((tmp_path / link).is_file() for link in links)
    assert Results.load(tmp_path / "results.json") == results


def test_the_same_run_may_write_again_and_another_may_not(results, tmp_path):
    write_report(Results(id=results.id), tmp_path, "first")
    path = write_report(results, tmp_path, "second")
    assert path.read_text().startswith("# second")
    before = path.read_text()
    other = dataclasses.replace(results, id="another")
    with pytest.raises(ResultsError, match="0123456789ab, this is run another"):
        write_report(other, tmp_path, "third")
    assert path.read_text() == before


def test_a_report_of_unknown_origin_is_kept(results, tmp_path):
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(ResultsError, match="without a results.json"):
        check_folder(results, tmp_path)


@pytest.mark.parametrize(
    "parts",
    [{"ks": ()}, {"ks": (16,), "seeds": (0,)}, {"curves": False}, {"methods": ("spot",)}],
)
def test_partial_results(results_with, tmp_path, parts):
    text = write_report(results_with(**parts), tmp_path, "part").read_text()
    assert "nan" not in text and "None" not in text
    assert ("## Target tasks" in text) == (parts.get("ks") != ())


def test_nothing_yet(tmp_path):
    assert write_report(Results(), tmp_path, "empty").read_text().startswith("# empty")


def test_caveats(score):
    def adapt(method, value, **fields):
        return score("adapt", "a", method, value, k=16, **fields)

    found = " ".join(
        caveats(
            Results(
                scores=[
                    adapt("mpt", float("nan"), steps=50),
                    adapt("spot", 0.5, split="test"),
                    adapt("spot", 0.5, seed=1),
                ]
            )
        )
    )
    assert "no finite score: a (MPT)" in found
    assert "equal budgets: a, k = 16 (50–120 steps" in found
    assert "MPT lacks 1 of 2" in found
    assert "up to .022" in found
    assert "validation split" in " ".join(
        caveats(Results(scores=[adapt("mpt", 0.5, split="validation")]))
    )


def test_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys, mpt_jax.reporting.report as r;"
        "print([m for m in ('jax', 'tensorflow', 'matplotlib.pyplot') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
