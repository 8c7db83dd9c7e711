"""Plots exist for what has records, are wide enough, and say what they must."""

import dataclasses
import struct

import numpy as np
import pytest
from matplotlib.figure import Figure

from mpt_jax.reporting import figures
from mpt_jax.reporting.plots import write_plots
from mpt_jax.reporting.results import MEAN_OF_TASKS, Results, Similarity
from mpt_jax.reporting.similarity_plot import clustered_order, similarity_map
from mpt_jax.reporting.styles import SPARE, methods_of, styles


@pytest.fixture
def painted(monkeypatch):
    """Figures by file name, painted but not drawn: drawing takes most of the time."""
    found = {}
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, path, **_: found.__setitem__(path.name, figure)
    )
    return found


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]


def test_a_file_is_a_wide_png(tmp_path):
    similarity = Similarity(what="prompts", tasks=["a", "b"], cosine=[[1.0, 0.4], [0.4, 1.0]])
    path = similarity_map(similarity, tmp_path / "plots" / "s.png")
    width, _ = struct.unpack(">II", path.read_bytes()[16:24])
    assert path.read_bytes()[:4] == b"\x89PNG" and width >= 900


def test_all_plots_of_a_whole_run(results, tmp_path, painted):
    plots = write_plots(results, tmp_path)
    assert [p.path.name for p in plots] == [
        "sources.png", "source_curves.png", "few_shot.png", "few_shot_tasks.png", "curves.png",
        "curves_k16.png", "curves_k64.png", "similarity_distilled_prompts_of_the_source_tasks.png",
    ]  # fmt: skip
    curves = painted["curves.png"]
    assert [axes.get_title(loc="left") for axes in curves.axes] == ["k = 16", "k = 64"]
    assert any("validation split" in t and "3 seeds" in t for t in texts(curves))
    assert any("test split" in t for t in texts(painted["few_shot.png"]))
    assert "majority class" in texts(painted["few_shot.png"])
    assert "naive Bayes, full data" in texts(painted["sources.png"])


def test_a_method_that_learns_all_targets_together_is_in_the_mean_curves(
    results_with, tmp_path, painted
):
    """It has one curve, their mean; the others' means are over the tasks, as without it."""
    results = results_with(methods=("mpt", "prompt_tuning"), ks=(16,), seeds=(0, 1))
    write_plots(results, tmp_path)

    def lines():
        (axes,) = painted["curves.png"].axes
        return {tuple(line.get_ydata()) for line in axes.get_lines() if len(line.get_xdata()) > 2}

    def counted():
        return next(t for t in texts(painted["curves.png"]) if t.startswith("mean over"))

    before, heading = lines(), counted()
    some = next(c for c in results.curves if c.stage == "adapt")
    together = {"task": MEAN_OF_TASKS, "method": "mpt_multi", "scores": [0.5] * len(some.steps)}
    results.curves.append(dataclasses.replace(some, **together))
    write_plots(results, tmp_path)
    assert lines() == {*before, tuple(together["scores"])}
    assert len(before) == 2 and counted() == heading


def test_a_method_has_one_colour_everywhere(results, tmp_path, painted):
    write_plots(results, tmp_path)
    colour = styles(methods_of(results))["spot"].colour
    for name in ("few_shot.png", "few_shot_tasks.png", "curves.png", "curves_k16.png"):
        handles = painted[name].legends[0].legend_handles
        assert [h.get_color() for h in handles if h.get_label() == "SPoT"] == [colour], name


def test_lines_are_the_means(results_with, tmp_path, painted):
    results = results_with(methods=("mpt",), ks=(16,), seeds=(0, 1))
    write_plots(results, tmp_path)
    line = painted["curves.png"].axes[0].lines[0]
    of = [c.scores for c in results.curves if c.stage == "adapt"]
    np.testing.assert_allclose(line.get_ydata(), np.mean(of, axis=0))


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({"curves": False}, {"curves.png", "source_curves.png", "curves_k16.png"}),
        ({"ks": ()}, {"few_shot.png", "few_shot_tasks.png", "curves.png"}),
        ({"ks": (None,), "seeds": (3,), "methods": ("mpt",)}, {"curves_k16.png"}),
    ],
)
def test_partial_results(results_with, tmp_path, painted, parts, missing):
    names = {p.path.name for p in write_plots(results_with(**parts), tmp_path)}
    assert "sources.png" in names and not names & missing


def test_no_results_no_plots(tmp_path):
    assert write_plots(Results(), tmp_path) == []


def test_a_failed_score_is_no_obstacle(results_with, score, tmp_path, painted):
    results = results_with(methods=("mpt",), ks=(16,), seeds=(0,), curves=False)
    results.scores.append(score("adapt", "broken", "mpt", float("nan"), k=16))
    results.scores.append(score("teach", "broken", "prompt_tuning", float("nan")))
    assert write_plots(results, tmp_path)


def test_unknown_methods_get_colours_of_their_own():
    look = styles(["mpt", "mine", "yours"])
    assert (look["mine"].colour, look["yours"].colour) == (SPARE[0][0], SPARE[1][0])
    assert look["mine"].label == "mine" and look["mpt"].label == "MPT"


def test_clusters_stand_together():
    groups = np.array([0, 1, 2, 0, 1, 2, 0])
    near = np.where(groups[:, None] == groups[None, :], 0.9, 0.1)
    order = groups[clustered_order(near)]
    assert sorted(order) == sorted(groups)
    assert np.count_nonzero(np.diff(order)) == 2


def test_global_state_is_left_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.draw(tmp_path / "x.png", 2.0, lambda figure: figure.subplots())
    assert dict(matplotlib.rcParams) == before
