"""Every method of gin/methods.gin goes through the same job: adapt, killed and gone on with, to answers."""

import dataclasses
import json
import re

import numpy as np
import pytest

from mpt_jax.cli import main
from mpt_jax.gin_files import SHIPPED
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.methods.registry import METHODS, method_named
from mpt_jax.stages import fleet
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.training import checkpoints
from mpt_jax.training.metrics_writer import read_rows

TARGETS = ("toy_counted", "toy_turn")


@dataclasses.dataclass(frozen=True)
class Listed:
    """What gin/methods.gin says of a variant."""

    name: str
    method: str
    multi_target: bool

    @property
    def members(self) -> dict[str, tuple[str, ...]]:
        """Member -> the tasks that it learns, in a run with two seeds."""
        targets = {"toy_targets": TARGETS} if self.multi_target else {t: (t,) for t in TARGETS}
        return {
            f"{target}/k4/seed{seed}/{self.name}": tasks
            for target, tasks in targets.items()
            for seed in (0, 1)
        }

    @property
    def folder(self) -> str:
        """Of its program, below checkpoints/ and metrics/."""
        return self.method if issubclass(method_named(self.method), NetworkMethod) else ""


def listed():
    fields: dict[str, dict[str, str]] = {}
    text = re.sub(r"#.*", "", (SHIPPED / "methods.gin").read_text())
    for scope, field, value in re.findall(r"^(\w+)/adapt\.Variant\.(\w+) = (\S+)", text, re.M):
        fields.setdefault(scope, {})[field] = value.strip('"')
    return [
        Listed(found["name"], found["method"], found.get("multi_target") == "True")
        for scope, found in fields.items()
        if f"@{scope}/adapt.Variant()" in text  # others need more than the stages before
    ]


VARIANTS = listed()


def test_every_registered_method_is_listed():
    """A method without a variant in gin/methods.gin would be tested by nothing below."""
    assert {variant.method for variant in VARIANTS} == set(METHODS)
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


class Killed(BaseException):
    """Ends a run between two checkpoints, as a kill does; nothing may catch it."""


@pytest.fixture
def killed(monkeypatch):
    """A call of it ends the process's next training at its `step`-th step."""

    def arm(step):
        done = iter(range(1, step))

        class Deadly(fleet.CompiledStep):
            def __call__(self, *inputs):
                return super().__call__(*inputs) if next(done, None) else die()

        monkeypatch.setattr(fleet, "CompiledStep", Deadly)

    def die():
        monkeypatch.undo()
        raise Killed

    return arm


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.name)
def variant(request):
    return request.param


def test_the_whole_job(variant, toy, whole_job, other_backbone, devices, tmp_path, capsys, killed):
    def adapt(folder):
        return toy.run(
            "adapt", folder, METHOD=variant.name, SOURCE_DIR=str(whole_job / "distill"),
            TEACHER_DIR=str(whole_job / "teach"), ULPT_RANK=4,
        )  # fmt: skip

    # Killed at step 7 of 8, after the checkpoint of step 4, and gone on with by the same command.
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert adapt(whole) == 0
    killed(7)
    with pytest.raises(Killed):
        adapt(folder)
    devices(1)  # the kill undid this, too
    assert checkpoints.steps(folder / "checkpoints" / variant.folder) == [4]
    assert not json.loads((folder / "run.json").read_text())["complete"]
    assert not (folder / "prompts").exists()
    assert adapt(folder) == 0

    # It ends bit for bit where the other does: the files, the optimizer's state, the best so far.
    found, expected = toy.prompts(folder), toy.prompts(whole)
    assert found and set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    digests = [
        checkpoints.read_record(run / "checkpoints" / variant.folder, 8)["digest"]
        for run in (folder, whole)
    ]
    assert digests[0] is not None and digests[0] == digests[1]
    check_metrics(folder, variant)

    check_files(folder, variant, toy)
    check_scores(folder, variant, toy, tmp_path)
    check_answers(folder, variant, toy, tmp_path, other_backbone, capsys)
    check_show(folder, variant, capsys)


def check_metrics(folder, variant):
    """Every member learns, and each step has one row."""
    rows = read_rows(folder / "metrics" / variant.folder, "train")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 8
    for row in rows:
        assert set(row["grad_norm"]) == set(variant.members)
        assert min(row["grad_norm"].values()) > 0
    validation = read_rows(folder / "metrics" / variant.folder, "validation")
    assert [row["step"] for row in validation] == [0, 4, 8]
    for name in variant.members:
        scores = [row["score"][name] for row in validation]
        assert "toy_counted" in name or len(set(scores)) == 3  # its metric sees targets only


def check_files(folder, variant, toy):
    members = toy.members(folder)
    assert {name: tuple(about["tasks"]) for name, about in members.items()} == variant.members
    backbone = BackboneSource(str(toy.backbone)).open()
    for name, tasks in variant.members.items():
        file = load_prompt_file(
            folder / "prompts" / f"{name}.safetensors",
            expect_backbone=backbone.fingerprint,
            expect_width=backbone.config.emb_dim,
        )
        method = file.method(config=backbone.config)
        assert file.metadata.kind == variant.method == method.kind == members[name]["kind"]
        assert file.metadata.task_names == tasks
        assert dict(file.metadata.settings) == method.settings
        assert file.metadata.step == members[name]["best_step"]


def check_scores(folder, variant, toy, tmp_path):
    assert toy.run("evaluate", tmp_path / "scores", SOURCES=(str(folder),)) == 0
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    members = toy.members(folder)
    expected = {
        (task, about["seed"]): about["parameters"] // len(about["tasks"])
        for about in members.values()
        for task in about["tasks"]
    }
    assert len(expected) == 4
    scores = results["scores"]
    assert {(score["task"], score["seed"]): score["parameters"] for score in scores} == expected
    for score in scores:
        assert (score["method"], score["k"], score["split"]) == (variant.name, 4, "test")
        assert (score["num_examples"], score["stage"], score["steps"]) == (12, "adapt", 8)
        assert 0 < score["score"] <= 1 and score["parameters"] > 0
        assert score["train_examples"] == 4 * (2 if variant.multi_target else 1)
    assert len(results["curves"]) == len(members)
    curves_of = {"mean of tasks"} if variant.multi_target else set(TARGETS)
    assert {curve["task"] for curve in results["curves"]} == curves_of
    assert all(curve["steps"] == [0, 4, 8] for curve in results["curves"])
    drawn = [(draw["task"], draw["k"], draw["seed"]) for draw in results["draws"]]
    assert sorted(drawn) == sorted((task, 4, seed) for task in TARGETS for seed in (0, 1))


def check_answers(folder, variant, toy, tmp_path, other_backbone, capsys):
    texts, answers = tmp_path / "texts.txt", tmp_path / "answers.txt"
    texts.write_text("badge\nlumen\nkit\n")
    name = next(name for name in variant.members if name.endswith(f"seed1/{variant.name}"))
    flags = [
        f"--prompts={folder}", f"--task={TARGETS[0]}", f"--name={name}", f"--input={texts}",
        f"--output={answers}",
    ]  # fmt: skip
    assert toy.run("infer", None, *flags) == 0
    assert answers.read_bytes().count(b"\n") == 3
    answers.unlink()
    capsys.readouterr()
    assert toy.run("infer", None, *flags, INITIAL_CHECKPOINT_PATH=other_backbone) == 1
    assert "was trained on the backbone" in " ".join(capsys.readouterr().err.split())
    assert not answers.exists()


def check_show(folder, variant, capsys):
    name, tasks = next(iter(variant.members.items()))
    for path, *expected in [
        (folder, "a run of adapt, complete", "checkpoint of step 8", name.partition("/")[0]),
        (folder / "checkpoints", "checkpoint of step 8"),
        (folder / "prompts" / f"{name}.safetensors", f"method {variant.method}", *tasks),
    ]:
        assert main(["show", str(path)]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert all(words in shown for words in expected), shown
