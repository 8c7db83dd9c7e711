"""Scores the prompts of finished runs, and writes the tables and plots.

    mpt evaluate --model_dir=runs/evaluate --gin_file=models/embedded.gin --gin_file=runs/evaluate.gin \\
        --gin.SOURCES="('runs/teach', 'runs/distill', 'runs/adapt')"

What else can be given stands at the top of gin/runs/evaluate.gin.
"""

import contextlib
import dataclasses
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mpt_jax.data import scoring
from mpt_jax.data.examples import Examples
from mpt_jax.data.few_shot import labels_of
from mpt_jax.errors import UserError
from mpt_jax.methods.similarity import cosine_of_slots
from mpt_jax.places import exists, is_address, join
from mpt_jax.reporting.naive_bayes import naive_bayes_ceiling
from mpt_jax.reporting.report import REPORT_FILE, RESULTS_FILE, write_report
from mpt_jax.reporting.results import (
    MEAN_OF_TASKS,
    Ceiling,
    Curve,
    Draw,
    Results,
    Score,
    Similarity,
    Stage,
)
from mpt_jax.reporting.tables import print_tables
from mpt_jax.run_directory import RunDirectory, open_run, read_run
from mpt_jax.stages import prompts
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.data import Data
from mpt_jax.stages.fleet import limit
from mpt_jax.stages.predict import Decoding, Job, Predictor, main_metric
from mpt_jax.stages.session import members_of
from mpt_jax.terminal import Output
from mpt_jax.training.metrics_writer import read_rows
from mpt_jax.working_copy import shown, working_copy

STAGES = ("teach", "distill", "adapt")


def run(
    model_dir: str,
    sources: tuple[str, ...],
    data: Data,
    split: str = "test",
    max_examples: int | None = None,
    decoding: Decoding = Decoding(),
    eval_batch_size: int = 256,
    title: str = "Results",
    notes: tuple[str, ...] = (),
    subsets: Mapping[str, Sequence[str]] | None = None,
    ceilings: bool = True,
    report_dir: str | None = None,
    backbone: BackboneSource = BackboneSource(),
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
    config_text: Callable[[], str] = str,
) -> None:
    """Evaluates runs of teach, distill and adapt, and reports on them together.

    Args:
        model_dir: gets `report.md`, `results.json` and `plots/`.
        sources: the run directories.
        data: lengths, token stores, split rules.
        split: "test", "validation" or "train".
        max_examples: at most so many of each task's split (a fixed random choice); None is all.
        decoding: how texts are produced.
        eval_batch_size: rows of a batch.
        title: of the report.
        notes: paragraphs of the report about what the numbers do not show by themselves.
        subsets: name -> target tasks, for means over some of them.
        ceilings: also score a naive Bayes classifier, trained on all data, on classifying tasks.
        report_dir: where report.md, results.json and plots/ go instead of `model_dir`.
        backbone: the frozen model.
        task_modules: Python files or modules that register tasks.
        dry_run: check that everything can be opened, score nothing.
        config_text: gives the operative configuration.
    """
    frozen = backbone.open()
    data.register(task_modules, frozen.vocabulary)
    first = jax.process_index() == 0
    console = Output(quiet=not first)
    if dry_run:
        made = [source for source in sources if exists(source)]
        for source in made:
            members, files = members_of(source, STAGES), prompts.load_run(source, frozen)
            console.print(f"{source}: {len(members)} members, {len(files)} prompt files")
        for source in sorted(set(sources) - set(made)):
            console.print(f"{source} does not exist yet; it is checked when the stage starts")
        print(f"\n{config_text()}\ndry run: everything checked, nothing scored")
        return
    runs = {source: members_of(source, STAGES) for source in sources}
    files_of = {source: prompts.load_run(source, frozen) for source in sources}
    with (
        open_run(model_dir, "evaluate", writes=first) as directory,
        _report_folder(directory, report_dir) as place,
    ):
        began = time.monotonic()
        directory.write_config(config_text())
        results = Results(
            id=_earlier_id(place), backbone=_about(frozen), environment=_environment()
        )
        examples: dict[str, Any] = {}
        for task in dict.fromkeys(
            task for members in runs.values() for member in members for task in member["tasks"]
        ):
            found = data.open(task, split)
            examples[task] = found if max_examples is None else limit(found, max_examples)
        majority = {task: scoring.majority_score(task, found) for task, found in examples.items()}
        for source, members in runs.items():
            record = read_run(source).record()
            stage = record["stage"]
            console.print(f"scoring {source} on {split}", style="dim")
            results.scores += _scores(
                stage, members, files_of[source], examples, majority, frozen,
                Evaluation(eval_batch_size, data.feature_lengths, decoding), split,
            )  # fmt: skip
            results.curves += _curves(stage, source, members)
            results.draws += [Draw(**draw) for draw in record.get("draws", ())]
            results.seconds[stage] = record.get("seconds", 0.0)
        results.similarities = _similarities(runs, files_of)
        if ceilings:
            results.ceilings = _ceilings(data, examples)
        results.seconds["evaluate"] = time.monotonic() - began
        frozen.check_unchanged()
        if first:
            path = write_report(
                results, place, title, list(notes), settings=_settings(runs), subsets=subsets
            )
            directory.finish(split=split, report=shown(path))
            print_tables(results, console, subsets=subsets)
            console.print(f"\nreport: {shown(path)}")
        multihost_utils.sync_global_devices(
            "evaluate is done"
        )  # nobody waits for the report at exit


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How examples are run."""

    batch_size: int
    feature_lengths: Mapping[str, int]
    decoding: Decoding


def _scores(
    stage: Stage,
    members: Sequence[Mapping[str, Any]],
    files: Mapping[str, Any],
    examples: Mapping[str, Any],
    majority: Mapping[str, Mapping[str, float]],
    backbone: Backbone,
    arguments: Evaluation,
    split: str,
) -> list[Score]:
    missing = [member["name"] for member in members if member["name"] not in files]
    if missing:
        raise UserError(
            f"prompt files are missing for the members {missing[:5]}; run the stage again."
        )
    owners = [(member, task) for member in members for task in member["tasks"]]
    metrics_of: dict[tuple[str, str], dict[str, float]] = {}
    for loaded in prompts.load_banks(
        {member["name"]: files[member["name"]] for member in members}, backbone.config
    ):
        predictor = Predictor(
            backbone, loaded.bank, batch_size=arguments.batch_size,
            feature_lengths=arguments.feature_lengths, decoding=arguments.decoding,
        )  # fmt: skip
        jobs = [
            Job(task, virtual_ids, examples[task], m)
            for (_, task), (virtual_ids, m) in loaded.places.items()
        ]
        found = predictor.scores(loaded.params, jobs)
        metrics_of |= dict(zip(loaded.places, found, strict=True))
    return [
        Score(
            stage=stage, task=task, method=member["method"], k=member["k"], seed=member["seed"],
            split=split, num_examples=len(examples[task]), metric=main_metric(metrics),
            score=metrics[main_metric(metrics)],
            majority=majority[task].get(main_metric(metrics)),
            train_examples=member["train_examples"], steps=member["steps"],
            best_step=member["best_step"],
            parameters=member["parameters"] // len(member["tasks"]),
            metrics=metrics,
            majorities=dict(majority[task]),
        )
        for member, task in owners
        for metrics in [metrics_of[member["name"], task]]
    ]  # fmt: skip


def _curves(stage: Stage, source: str, members: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Each member's validation scores by step, from the program that it was trained in."""
    folder = read_run(source).metrics
    curves: dict[str, dict[int, float]] = {}
    for place in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        for row in read_rows(place, "validation"):
            for name, score in row["score"].items():
                curves.setdefault(name, {})[row["step"]] = score
    return [
        Curve(
            stage=stage,
            task=member["tasks"][0] if len(member["tasks"]) == 1 else MEAN_OF_TASKS,
            method=member["method"], k=member["k"], seed=member["seed"], split="validation",
            steps=list(curve),
            scores=list(curve.values()),
        )
        for member in members
        if (curve := curves.get(member["name"]))
    ]  # fmt: skip


def _similarities(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], files: Mapping[str, Mapping[str, Any]]
) -> list[Similarity]:
    """Cosines between the prompts of the teachers, and between those of each distilled variant."""
    found = []
    for source, members in runs.items():
        stage = read_run(source).record()["stage"]
        if stage == "adapt":
            continue
        groups: dict[str, list[tuple[str, np.ndarray]]] = {}
        for member in members:
            if member["seed"] == 0:
                file = files[source][member["name"]]
                if file.is_matrix:
                    groups.setdefault(member["method"], []).extend(
                        (task, file.prompt(task)) for task in member["tasks"]
                    )
        for method, pairs in groups.items():
            shapes = {prompt.shape for _, prompt in pairs}
            if len(pairs) > 1 and len(shapes) == 1:
                cosine = cosine_of_slots([prompt for _, prompt in pairs])
                found.append(
                    Similarity(
                        what=f"{stage}: {method}",
                        tasks=[task for task, _ in pairs],
                        cosine=np.asarray(cosine, np.float64).tolist(),
                    )
                )
    return found


def _ceilings(data: Data, examples: Mapping[str, Any]) -> list[Ceiling]:
    found = []
    for task, test in examples.items():
        train = data.open(task, "train")
        if labels_of(train) is not None:
            found.append(naive_bayes_ceiling(task, _pairs(train), _pairs(test)))
    return found


def _pairs(examples: Examples) -> list[tuple[str, str]]:
    return [(e.inputs_text, e.targets_text) for e in examples.read(range(len(examples)))]


@contextlib.contextmanager
def _report_folder(directory: RunDirectory, report_dir: str | None) -> Iterator[Path]:
    """Where the report goes. The runs may lie below it, and other processes may be writing there."""
    if report_dir is None:
        yield directory.path
    elif is_address(report_dir):
        with working_copy(
            report_dir,
            wanted=lambda name: name in (RESULTS_FILE, REPORT_FILE),
            writes=directory.writes,
        ) as copy:
            yield copy.path
    else:
        yield Path(report_dir)


def _earlier_id(folder: Path) -> str:
    """The id of the results that an earlier evaluation left in the folder, or a fresh one."""
    path = folder / "results.json"
    return Results.load(path).id if path.exists() else Results().id


def _settings(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What the report says of the training: all of it stands in each run's config.gin."""
    return {
        read_run(source).record()["stage"]: {
            "steps": members[0]["steps"],
            "members": len(members),
            "configuration": join(source, "config.gin"),
        }
        for source, members in runs.items()
    }


def _about(backbone: Backbone) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "fingerprint": backbone.fingerprint,
        "precision": backbone.config.precision,
        "parameters": backbone.num_parameters,
    }


def _environment() -> dict[str, Any]:
    versions = {
        name: importlib.metadata.version(name)
        for name in ("jax", "flax", "optax", "seqio", "grain")
    }
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {**versions, "devices": devices}
