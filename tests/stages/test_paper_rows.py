"""`mpt paper` with methods that change the network, and with those that learn all tasks together."""

import json
import re

import pytest

from mpt_jax.cli import main
from mpt_jax.reporting.paper.published import published_table

METHODS = (
    "(@full/adapt.Variant(), @bitfit/adapt.Variant(), @mpt_multi/adapt.Variant(), "
    "@full_multi/adapt.Variant())"
)


@pytest.mark.slow
def test_every_kind_of_row_gets_its_cells(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    folder = tmp_path / "runs"
    assert main(toy.paper(folder, "--dry_run", methods=METHODS)) == 0
    shown = capsys.readouterr().out
    # Two sources; full alone by seed, BitFit together, on two tasks; the others on both tasks at once.
    assert "20 of 20 runs resolved" in shown
    assert main(toy.paper(folder, methods=METHODS)) == 0
    content = json.loads((folder / "tables/glue/table.json").read_text())
    lines = {line["method"]: line for line in content["lines"]}
    for method, standing in (
        ("full", "4 of 4 cells"), ("bitfit", "2 of 2 cells"), ("mpt_multi", "2 of 2 cells"),
        ("full_multi", "4 of 4 cells"),
    ):  # fmt: skip
        ours = lines[method]["ours"]
        assert ours["standing"] == standing and set(ours["cells"]) == {"RTE", "CoLA"}
        assert all(cell["seeds"] == [0, 1] for cell in ours["cells"].values())
        assert lines[method]["published"]["cells"]["RTE"]["value"] > 0
    counts = {
        m: line["ours"]["cells"]["RTE"]["parameters"] for m, line in lines.items() if line["ours"]
    }
    assert counts["full_multi"] == counts["full"] // 2
    assert counts["mpt_multi"] == (3 * 16 + 2 * (3 + 16)) // 2
    # One run learned both tasks, from the examples of both.
    members = toy.members(folder / "tiny/full/mpt_multi/glue/adapt")
    assert set(members) == {f"2_tasks/full/seed{seed}/mpt_multi" for seed in (0, 1)}
    for member in members.values():
        assert member["tasks"] == ["toy_sound", "toy_counted"] and member["train_examples"] == 64
    assert list(toy.members(folder / "tiny/full/full/toy_sound/seed1/adapt")) == [
        "toy_sound/full/seed1/full"
    ]
    # The scores of a task are those of its own column.
    results = json.loads((folder / "tiny/full/mpt_multi/glue/evaluate/results.json").read_text())
    scored = {(s["task"], s["seed"]): s["metrics"] for s in results["scores"]}
    cells = lines["mpt_multi"]["ours"]["cells"]
    assert cells["RTE"]["scores"] == [100 * scored["toy_sound", s]["accuracy"] for s in (0, 1)]
    assert cells["CoLA"]["scores"] == [
        100 * scored["toy_counted", s]["share_of_short_targets"] for s in (0, 1)
    ]
    capsys.readouterr()
    assert main(toy.paper(folder, "--status", methods=METHODS)) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"^ tiny/full/\S+ +done +done", shown, re.M)) == 9
    assert len(re.findall("published only", shown)) == sum(
        not row.later and not lines[row.method]["ours"] for row in published_table("glue").rows
    )
