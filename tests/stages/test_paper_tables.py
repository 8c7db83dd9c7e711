"""The shipped tables of the paper, and what a dry run says of a table."""

import dataclasses
import math
import re
from pathlib import Path

import gin
import pytest

from mpt_jax import configuration
from mpt_jax.cli import main
from mpt_jax.configuration import GinFlags
from mpt_jax.gin_files import SHIPPED
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.registry import METHODS
from mpt_jax.reporting.paper.published import published_table, task_facts
from mpt_jax.stages import paper
from mpt_jax.stages.paper_checks import parameter_counts
from mpt_jax.stages.paper_runs import make_plan
from mpt_jax.tasks import benchmark

from .conftest import PAPER_TABLE

TOY = str(PAPER_TABLE)
# The published lines of GLUE that a variant may make, and its numbers per task on T5-Base.
GLUE = {
    "Full fine-tuning": ("full", 222_903_552), "Adapter": ("adapter", 1_855_104),
    "BitFit": ("bitfit", 280_960), "Prompt tuning": ("prompt_tuning", 76_800),
    "SPoT": ("spot", 76_800), "ATTEMPT": ("attempt", 230_400), "MPT": ("mpt", 77_668),
    "Full fine-tuning*": ("full_multi", 27_862_944), "ATTEMPT*": ("attempt_multi", 96_000),
    "MPT*": ("mpt_multi", 10_468),
}  # fmt: skip
TABLES = sorted(p.stem for p in (SHIPPED / "paper").glob("*.gin") if p.stem != "table")


def table_of(name):
    configuration.load(GinFlags((f"paper/{name}.gin",)), paper)
    return gin.get_bindings(configuration.configured(paper.run))["table"]


@pytest.mark.parametrize("name", TABLES)
def test_a_shipped_table_has_the_published_columns_in_their_order(name):
    table = table_of(name)
    assert table.name == name
    assert tuple(c.title for c in table.columns_of()) == published_table(name).columns
    methods = {variant.name for variant in table.variants}
    assert "mpt" in methods & {row.method for row in published_table(name).rows}


@pytest.mark.parametrize("name", ["glue", "super_glue", "mrqa", "others", "few_shot"])
def test_every_method_of_ours_that_is_published_is_a_row_of_ours(name):
    ours = {variant.name for variant in table_of(name).variants}
    rows = {row.method for row in published_table(name).rows if not row.later}
    assert rows & set(METHODS) <= ours
    # "adapter_multi" would be one adapter for all tasks, and what is published has one for each.
    multi = {f"{kind}_multi" for kind in METHODS if kind != "adapter"}
    assert rows & multi <= ours


@pytest.mark.parametrize("name", TABLES)
def test_its_tasks_are_the_benchmarks_with_these_metrics_and_sizes(name):
    table = table_of(name)
    for column in table.columns_of():
        if column.task is not None:
            assert column.metric in benchmark.DATA_SETS[column.task].metrics
    assert set(table.source_tasks) == set(benchmark.MIXTURES[table.source_mixture])
    for task in (*table.source_tasks, *(c.task for c in table.columns_of() if c.task)):
        train = benchmark.DATA_SETS[task].sizes["train"]
        known = task_facts(task)
        if known.source == "S1":  # 1,000 of the large sets are held out; Yelp is cut to 100,000
            assert known.train in (train, train - 1000, 100_000), task


@pytest.mark.parametrize("name", TABLES)
def test_the_shipped_tables_add_up_from_shapes_alone(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["paper", name, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "dry run: everything checked, nothing trained (0 of " in shown
    counts = dict(re.findall(r"^ (\S.*?\S)  +(?:base|large|small) +([\d,]+) .*agrees", shown, re.M))
    if name == "glue":
        ours = {variant.name for variant in table_of(name).variants}
        assert counts == {
            label: f"{count:,}" for label, (method, count) in GLUE.items() if method in ours
        }
        assert "BitFit: 28 more, since" in " ".join(shown.split())
        assert re.search(r"AdapterDrop +base +– +– +1.1M +published only", shown)
        assert re.search(r"base/full/mpt/glue_rte +2,490 +3 +1,557 +96", shown)
        assert re.search(r"base/full/full/glue_rte/seed2 +2,490 +1 +1,557 +32", shown)
        examples = (
            946_098 - (392_702 + 362_846) + 2 * 2**18
        )  # MNLI and QQP count that much in a mixture
        steps = math.ceil(20 * examples / 32)
        assert re.search(rf"base/full/mpt_multi/glue +946,098 +3 +{steps:,} +96", shown)
    if name == "super_glue":
        assert re.search(r"MPT\* +base +16,228", shown)
    if name == "nlg":
        assert counts["MPT"] == "103,524"
    if name == "scaling":
        assert re.search(r"MPT +small +51,812 +51,812", shown)
        assert "no backbone is given for the sizes small, base, large" in shown
    if name == "few_shot":
        assert re.search(r"base/few_shot/full/scitail/k32/seed9 ", shown)
    if name == "prompt_length":
        assert re.search(r"MPT +base_p300 +231,468", shown)  # 300 * 768 + 300 + 768
        assert re.search(
            r"base_p300/full/mpt/mrqa_newsqa .* 940 ", shown
        )  # 300, and 512 and 128 tokens


def test_shipped_tables_share_their_source_runs_and_common_cells():
    """Else a second table would refuse what the first has made."""
    seen = {}
    for name in TABLES:
        for run in make_plan(table_of(name), Path("runs")).runs:
            assert seen.setdefault(run.name, run.settings) == run.settings, (name, run.name)
    assert "base/sources/teach" in seen and "large/sources/distill/mpt" in seen
    assert "distill/fleet.Training.sampler" in seen["base/sources/distill/mpt_every_task"]


def test_a_wrong_count_is_an_error(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(MPT, "count", lambda self: 77_669)
    assert main(["paper", "glue", "--dry_run"]) == 1
    assert "MPT at size base: 77669 differs from 77,668" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_with_a_backbone_measures_and_resolves(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    folder = tmp_path / "runs"
    assert main(toy.paper(folder, "--dry_run", TEACHER_CACHE=tmp_path / "states")) == 0
    shown = capsys.readouterr().out
    said = rf"^tiny/sources/distill/mpt: teacher cache {tmp_path}/states: 96 examples of 3 tasks, "
    assert len(re.findall(said, shown, re.MULTILINE)) == 1
    assert "10 of 10 runs resolved" in shown and not folder.exists()
    assert re.search(r"tiny/full/mpt/toy_sound +32 +2 +8 +8 +\d+ +\d+ +measured", shown)
    columns = (("RTE", "toy_sonud", "accuracy"),)
    assert main(toy.paper(folder, "--dry_run", **{"paper_table.Table.columns": columns})) == 1
    assert "tiny/full/prompt_tuning/toy_sonud: unknown task or mixture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["glu"], "did you mean"),
        (["glue"], "--model_dir"),
        (["glue", "--model_dir=runs"], "--gin.T5_BASE"),
        ([TOY, "--dry_run", "--gin.ADAPT_STEPS=None"], "give --gin.ADAPT_STEPS"),
        ([TOY, "--dry_run", "--gin.TEACH_STEPS=None"], "give --gin.TEACH_STEPS"),
        ([TOY, "--dry_run", "--gin.SHOTS=(4,)"], "has k = None"),
        ([TOY, "--dry_run", "--gin.SIZE='huge'"], "model size of column 'RTE' 'huge'"),
        ([TOY, "--dry_run", "--gin.DISTILLED=()"], "distilled variant of mpt"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    flags, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *flags]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_of_another_shape_is_not_compared_with_published_counts(tmp_path, capsys):
    """T5 v1.1 has T5-Base's width, and other weights."""
    size = {"model": "t5-v1_1-base", "checkpoint": None}
    flags = [f"--gin.base/paper_table.Size.{name}={value!r}" for name, value in size.items()]
    assert main(["paper", "glue", "--dry_run", *flags]) == 1  # it says that it is the published one
    assert "Full fine-tuning at size base: 247577856 differs from" in capsys.readouterr().err
    table = table_of("glue")
    other = dataclasses.replace(table.size_of("base"), checkpoint="embedded")
    sizes = [other if s.name == "base" else s for s in table.sizes]
    counts = parameter_counts(dataclasses.replace(table, sizes=tuple(sizes)))
    assert all(count.exact is None and count.printed is None for count in counts)
    assert next(c.ours for c in counts if c.label == "MPT*") == 100 * 128 // 8 + 228
