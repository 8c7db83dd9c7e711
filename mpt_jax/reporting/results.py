"""The records of a run and their file, `results.json`: what every table and plot is made from."""

import dataclasses
import json
import math
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from mpt_jax.errors import UserError

SCHEMA_VERSION = 1
MEAN_OF_TASKS = "mean of tasks"  # of a curve: what a member that learns all tasks together has


Stage = Literal["teach", "distill", "adapt"]
Key = tuple[Any, ...]


class ResultsError(UserError):
    """A results file cannot be read, or two results do not go together."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one prompt reached on one task, with all that is needed to judge the number.

    Attributes:
      task: the task's name.
      method: the method variant's name, the same for the same variant everywhere.
      k: training examples a class or in all, as the task's few-shot rule says; None is all there are.
      num_examples: how many examples of `split` were scored.
      metric: name of the task's main metric, its first (higher is better); one a task.
      score: in the metric's own scale; nan where the run failed.
      majority: what always giving the most frequent answer scores; None where unknown.
      metrics: each of the task's metrics by name; `score` is the first, `metric`.
      majorities: the same of the most frequent answer.
      train_examples: how many different examples were trained on.
      steps: how long was trained.
      best_step: the step whose prompt was kept, chosen on validation.
      parameters: numbers that have to be stored for this task.
    """

    stage: Stage
    task: str
    method: str
    k: int | None
    seed: int
    split: str
    num_examples: int
    metric: str
    score: float
    majority: float | None
    train_examples: int
    steps: int
    best_step: int
    parameters: int
    metrics: dict[str, float] = field(default_factory=dict)
    majorities: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_stage(self.stage)

    @property
    def key(self) -> Key:
        """A later record with the same key takes this one's place."""
        return (self.stage, self.task, self.method, self.k, self.seed, self.split)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run's score against training steps, `steps[i]` -> `scores[i]`; step 0 is before training.

    A run of several tasks has their mean, under the name `MEAN_OF_TASKS`.
    """

    stage: Stage
    task: str
    method: str
    k: int | None
    seed: int
    split: str
    steps: list[int]
    scores: list[float]

    def __post_init__(self) -> None:
        _check_stage(self.stage)
        if len(self.steps) != len(self.scores):
            raise ValueError(
                f"a curve of {self.task} has {len(self.steps)} steps and {len(self.scores)} scores; "
                "one score a step is expected."
            )

    @property
    def key(self) -> Key:
        return (self.stage, self.task, self.method, self.k, self.seed, self.split)


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Cosine similarity of every pair of tasks' prompts; `what` says of which prompts."""

    what: str
    tasks: list[str]
    cosine: list[list[float]]

    def __post_init__(self) -> None:
        n = len(self.tasks)
        if len(self.cosine) != n or any(len(row) != n for row in self.cosine):
            raise ValueError(
                f"similarity of {self.what!r}: {n} tasks need {n} rows of {n} cosines, got rows of "
                f"{[len(row) for row in self.cosine]}."
            )

    @property
    def key(self) -> Key:
        return (self.what,)


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What a method outside of this program reaches on a task's test split, to compare with."""

    task: str
    name: str
    score: float
    num_train: int

    @property
    def key(self) -> Key:
        return (self.task, self.name)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Which examples a few-shot training set holds; see `mpt_jax.data.few_shot.draw_record`."""

    task: str
    k: int
    seed: int
    per_class: bool
    examples: int
    digest: str
    indices: list[int] | None

    @property
    def key(self) -> Key:
        return (self.task, self.k, self.seed)


@dataclass(kw_only=True)
class Results:
    """All that a run found out.

    Attributes:
      id: tells this run's results from another's; stays the same when a run is resumed.
      backbone: name, fingerprint, precision, parameters.
      environment: versions of the libraries, devices and so on, for the reader.
      seconds: run time of each stage.
      comparison: of `mpt compare`, see `mpt_jax.reporting.comparison.records`; empty otherwise.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    backbone: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    similarities: list[Similarity] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    comparison: dict[str, Any] = field(default_factory=dict)

    def merge(self, other: "Results") -> "Results":
        """These results and `other`'s, under this id; where both have a record, `other`'s is taken.

        Raises:
          ResultsError: they stand on different backbones, name different metrics for one task, or drew
            different few-shot examples for one task, k and seed.
        """
        mine, theirs = (r.backbone.get("fingerprint") for r in (self, other))
        if mine and theirs and mine != theirs:
            raise ResultsError(
                f"results of backbone {mine} and of backbone {theirs} cannot be put together; "
                "merge only runs that started from one backbone."
            )
        scores = _merged(self.scores, other.scores)
        _check_one_metric(scores)
        check_same_draws([*self.draws, *other.draws])
        return Results(
            id=self.id,
            backbone={**self.backbone, **other.backbone},
            environment={**self.environment, **other.environment},
            seconds={**self.seconds, **other.seconds},
            scores=scores,
            curves=_merged(self.curves, other.curves),
            similarities=_merged(self.similarities, other.similarities),
            ceilings=_merged(self.ceilings, other.ceilings),
            draws=_merged(self.draws, other.draws),
            comparison={**self.comparison, **other.comparison},
        )

    def save(self, path: str | Path) -> Path:
        """Writes the file in one go: whoever reads it sees the old or the new one, never a half."""
        path = Path(path)
        content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        text = json.dumps(_finite(content), indent=1, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Reads a file that `save` wrote; a null where a number belongs is nan.

        Raises:
          ResultsError: the file is missing, cut off, not results, or of a newer mpt_jax.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            version = content.pop("schema_version")
        except FileNotFoundError as error:
            raise ResultsError(
                f"{path} does not exist; no stage has written results yet."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultsError(
                f"{path} is no results file of mpt_jax ({error!r}); remove it, or name another."
            ) from error
        if version != SCHEMA_VERSION:
            raise ResultsError(
                f"{path} has schema version {version}, but this mpt_jax reads {SCHEMA_VERSION}; "
                "use the mpt_jax that wrote it."
            )
        try:
            return cls(
                **{
                    **content,
                    "scores": [
                        Score(**restore_numbers(s, "score", "metrics", "majorities"))
                        for s in content["scores"]
                    ],
                    "curves": [Curve(**restore_numbers(c, "scores")) for c in content["curves"]],
                    "similarities": [
                        Similarity(**restore_numbers(s, "cosine")) for s in content["similarities"]
                    ],
                    "ceilings": [
                        Ceiling(**restore_numbers(c, "score")) for c in content["ceilings"]
                    ],
                    "draws": [Draw(**d) for d in content.get("draws", [])],
                }
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ResultsError(
                f"{path} has the right version but records of another form ({error})."
            ) from error


def _check_stage(stage: str) -> None:
    if stage not in get_args(Stage):
        raise ValueError(f"stage is {stage!r}; expected one of {', '.join(get_args(Stage))}.")


def _check_one_metric(scores: Iterable[Score]) -> None:
    metrics: dict[str, str] = {}
    for score in scores:
        if metrics.setdefault(score.task, score.metric) != score.metric:
            raise ResultsError(
                f"task {score.task} is scored by {metrics[score.task]} and by {score.metric}; "
                "scores of one task compare only under one metric."
            )


def check_same_draws(draws: Iterable[Draw]) -> None:
    """Scores at one (task, k, seed) compare only where the same examples were trained on.

    Raises:
      ResultsError: two draws of one task, k and seed differ.
    """
    digests: dict[Key, str] = {}
    for draw in draws:
        if digests.setdefault(draw.key, draw.digest) != draw.digest:
            raise ResultsError(
                f"two runs drew different examples of task {draw.task} for k = {draw.k}, seed "
                f"{draw.seed} ({digests[draw.key][:12]} and {draw.digest[:12]}); did the data change "
                "between them? Their scores do not compare."
            )


def _merged(old: list, new: list) -> list:
    return list({record.key: record for record in [*old, *new]}.values())


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def restore_numbers(record: dict[str, Any], *names: str) -> dict[str, Any]:
    """The record with nan for None in the named fields, however deeply their lists are nested."""

    def restore(value: Any) -> Any:
        if isinstance(value, list):
            return [restore(inner) for inner in value]
        if isinstance(value, dict):
            return {key: restore(inner) for key, inner in value.items()}
        return math.nan if value is None else value

    return {**record, **{name: restore(record[name]) for name in names if name in record}}
