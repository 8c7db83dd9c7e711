"""What a sweep's report says follows from its trials."""

import dataclasses
import json
import math

import numpy as np
import pytest

from mpt_jax.reporting import figures
from mpt_jax.reporting.sweep import plots
from mpt_jax.reporting.sweep.records import Sweep, TrialRecord, best, described, difference, score
from mpt_jax.reporting.sweep.report import in_short, write_sweep
from mpt_jax.reporting.sweep.tables import best_table, effect_table, mixture_table

BASE = {"sources": "all", "weight": 0.9, "rank": 1, "temperature": 1.0}
TASKS = ("past", "ness")


def trial(number, scores, state="done", **setting):
    """scores[seed][task]."""
    rows = [
        {"task": task, "k": 16, "seed": seed, "score": value}
        for seed, row in enumerate(scores)
        for task, value in zip(TASKS, row, strict=True)
    ]
    return TrialRecord(
        number=number, state=state, setting={**BASE, **setting}, rows=rows, source_score=0.7,
        seconds=10.0, reason="diverged" if state == "failed" else "",
    )  # fmt: skip


def sweep(*trials, **changes):
    whole = Sweep(
        backbone={"name": "tiny", "fingerprint": "abc", "parameters": 1000},
        base=BASE,
        axes={"sources": ["all", "without a"], "weight": [0.0, 0.9], "rank": [1, 2]},
        mixtures={"all": ["a", "b"], "without a": ["b"]},
        targets={
            "past": {"metric": "exact_match", "majority": 0.1, "examples": 32},
            "ness": {"metric": "accuracy", "majority": 0.2, "examples": 30},
        },
        about={"num_seeds": 3, "shots": [16], "distill_steps": 50},
        trials=list(trials),
    )
    return dataclasses.replace(whole, **changes)


WHOLE = (
    trial(0, [(0.5, 0.7), (0.6, 0.8), (0.7, 0.9)]),
    trial(1, [(0.4, 0.7), (0.5, 0.8), (0.55, 0.9)], sources="without a"),
    trial(2, [(0.6, 0.7), (0.6, 0.8), (0.6, 0.9)], weight=0.0),
    trial(3, [], state="failed", rank=2),
    trial(4, [(0.2, 0.4)], state="pruned", temperature=4.0),
    trial(5, [], state="waiting", temperature=2.0),
)


def test_differences_are_paired_by_seed():
    found = difference(sweep(*WHOLE), "sources", "without a", "all", "past")
    assert found.mean == pytest.approx((-0.1 - 0.1 - 0.15) / 3) and found.count == 3
    assert found.deviation == pytest.approx(np.std([-0.1, -0.1, -0.15], ddof=1))
    both = difference(sweep(*WHOLE), "sources", "without a", "all")
    assert both.mean == pytest.approx(found.mean / 2)
    assert score([WHOLE[0]]).mean == pytest.approx(0.7)


def test_pairs_have_all_other_axes_in_common():
    """A lucky setting is not put down to its mixture, where there are pairs."""
    lucky = trial(6, [(0.9, 0.9), (0.9, 0.9), (0.9, 0.9)], sources="without a", temperature=2.0)
    found = difference(sweep(*WHOLE, lucky), "sources", "without a", "all", "past")
    assert found.mean == pytest.approx((-0.1 - 0.1 - 0.15) / 3)
    alone = difference(sweep(WHOLE[0], lucky), "sources", "without a", "all", "past")
    assert alone.mean == pytest.approx(0.3)  # no pair: means over all
    assert "of the means over all settings" in mixture_table(sweep(WHOLE[0], lucky)).caption


def test_tables_have_majorities_seeds_and_signs():
    whole = sweep(*WHOLE)
    mixtures = mixture_table(whole)
    assert mixtures.columns == ["source mixture", "tasks", "mean", "past", "ness"]
    texts = [[cell.text for cell in row.cells] for row in mixtures.rows]
    assert texts[0] == ["without a", "1", "−.058 ±.014", "−.117 ±.029", ".000 ±.000"]
    assert texts[1][:3] == ["all sources: score", "2", ".700 ±.100"]
    assert texts[2] == ["majority class", "", ".150", ".100", ".200"]
    assert mixtures.rows[0].cells[3].bold and not mixtures.rows[0].cells[4].bold
    assert "validation split, 30 to 32 examples a task" in mixtures.caption
    effects = [[cell.text for cell in row.cells] for row in effect_table(whole).rows]
    assert [row[:2] for row in effects] == [
        ["weight", "0"],
        ["weight", "0.9"],
    ]  # rank has one score
    assert effects[0][3] == ".000 ±.050" and effects[1][3] == "base"


def test_the_best_are_ranked_and_the_base_stands_beside():
    ahead = [trial(10 + i, [(0.8, 0.8 + i / 100)], temperature=2.0 + i) for i in range(12)]
    whole = sweep(*WHOLE, *ahead)
    assert [t.number for t in best(whole)[:2]] == [21, 20]
    settings = [row.cells[2].text for row in best_table(whole).rows]
    assert settings[0] == "temperature 13" and settings[10] == "base" and len(settings) == 12
    assert described({**BASE, "weight": 0.3, "rank": 2}, BASE) == "weight 0.3, rank 2"


def test_the_report_says_what_is_missing(tmp_path):
    report = write_sweep(sweep(*WHOLE), tmp_path, "A sweep", ["A note."])
    text = report.path.read_text()
    for wanted in ("3 settings have scores; 1 failed, 1 pruned, 1 waiting", "diverged", "A note.",
                   "the majority class scores .150", "loses most: −.058", "which nothing here"):  # fmt: skip
        assert wanted in text, wanted
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert Sweep.from_plain(content) == sweep(*WHOLE)
    for name in ("mixtures", "effects", "trials"):
        assert (tmp_path / f"plots/{name}.png").stat().st_size > 5000
    assert write_sweep(sweep(*WHOLE), tmp_path, "A sweep").path == report.path  # anew


def test_tables_are_plain_text_under_one_heading_each(tmp_path):
    """The terminal would show Markdown's marks, and Markdown escapes them."""
    report = write_sweep(sweep(*WHOLE), tmp_path, "A sweep")
    assert len(report.tables) == 4 and not any("*" in table.caption for table in report.tables)
    lines = report.path.read_text().splitlines()
    heads = [line.strip("# ") for line in lines if line.startswith("#")]
    assert "The best settings" in heads and len(heads) == len(set(heads))
    parts = [line for line in lines if line]
    assert not any(a[0] == "#" == b[0] for a, b in zip(parts[1:], parts[2:], strict=False))
    assert not any("\\*" in line for line in lines)


@pytest.mark.parametrize("count", [1, 7, 24])
def test_the_labels_of_the_map_do_not_touch(count, tmp_path, monkeypatch):
    """Neighbours on a slant are as far apart as the columns times its sine."""
    tasks = [f"lemma_of_superlative_{i}" for i in range(count)]
    about = {"metric": "m", "majority": 0.1, "examples": 32}

    def grown(one):
        rows = [{"task": t, "k": 16, "seed": s, "score": 0.5} for t in tasks for s in range(3)]
        return dataclasses.replace(one, rows=rows)

    def look(path, height, paint, width=figures.WIDTH):
        def painted(figure):
            paint(figure)
            figure.draw_without_rendering()
            axes = figure.axes[0]
            pitch = np.diff(axes.transData.transform([(0, 0), (1, 0)])[:, 0])[0]
            for label in axes.get_xticklabels():
                apart = pitch * np.sin(np.radians(label.get_rotation()))
                label.set_rotation(0)
                assert label.get_window_extent().height * 1.1 < apart
            assert len(axes.texts) == 3 * (count + 1)  # one mixture, all sources, the majority
            assert max(t.get_window_extent().width for t in axes.texts) < pitch

        return figures.draw(path, height, painted, width)

    monkeypatch.setattr(plots, "draw", look)
    whole = sweep(*map(grown, WHOLE[:2]), targets=dict.fromkeys(tasks, about))
    assert plots.mixture_map(whole, tmp_path / "mixtures.png")


def test_what_is_not_set_is_left_out(tmp_path):
    about = {"num_seeds": 3, "shots": [16], "per_class": [], "keep": 0.0}
    text = write_sweep(sweep(*WHOLE, about=about), tmp_path, "A sweep").path.read_text()
    assert "- keep: 0.0\n" in text and "- shots: 16\n" in text and "per_class" not in text


def test_nothing_done_yet_is_a_report_too(tmp_path):
    report = write_sweep(sweep(*WHOLE[3:]), tmp_path, "A sweep")
    assert (
        report.path.read_text().startswith("# A sweep") and "plots/" not in report.path.read_text()
    )
    assert in_short(sweep())[0].startswith("0 settings have scores")


def test_a_range_is_a_cloud_and_unknown_majorities_are_dashes(tmp_path):
    trials = [
        trial(i, [(0.5, 0.5 + i / 50), (0.5, 0.4)], temperature=1.0 + i / 7) for i in range(16)
    ]
    axes = {"temperature": {"low": 1.0, "high": 4.0, "log": True}}
    targets = {t: {"metric": "m", "majority": None, "examples": 32} for t in TASKS}
    whole = sweep(*trials, axes=axes, targets=targets)
    write_sweep(whole, tmp_path, "A sweep")
    assert effect_table(whole) is None and mixture_table(whole) is None
    assert (tmp_path / "plots/effects.png").exists()
    assert not (tmp_path / "plots/mixtures.png").exists()
    assert not math.isnan(score(trials).mean)
