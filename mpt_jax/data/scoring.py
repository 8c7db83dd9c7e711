"""Scores by the task's own postprocessor and metrics, called as seqio's Evaluator calls them.

seqio knows two kinds of metrics: of predicted texts, and of *scores* (the log likelihood of each
target). Either comes as a function `(targets, predictions)` or `(targets, scores)`, or as an object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mpt_jax.data.examples import Examples
from mpt_jax.data.fill import seqio_example
from mpt_jax.data.tasks import get_task, import_seqio, own_metric_objects, task_vocabulary
from mpt_jax.errors import UserError


def needed_outputs(task_name: str) -> frozenset[str]:
    """What a task's metrics ask of the model: "predictions", "scores", both or neither.

    Raises:
        UserError: a metric asks for something else that seqio knows (auxiliary values).
    """
    kinds = {o.model_output_type.name for o in get_task(task_name).metric_objs}
    names = {"PREDICTION": "predictions", "SCORE": "scores"}
    if kinds - set(names):
        raise UserError(
            f"A metric of task {task_name!r} asks for {sorted(kinds - set(names))}; only metrics "
            "of (targets, predictions) and (targets, scores) are supported."
        )
    return frozenset(names[kind] for kind in kinds)


def score_predictions(
    task_name: str,
    examples: Examples,
    predictions: Sequence[str] | None,
    *,
    scores: Float[np.ndarray, " N"] | Sequence[float] | None = None,
) -> dict[str, float]:
    """The task's metrics over all of `examples`.

    Args:
        predictions: decoded text, one for each example; None leaves metrics of predictions out.
        scores: log likelihood of each target; None leaves metrics of scores out.

    Returns:
        The scalar metrics by name; texts, histograms and the like that a metric returns are dropped.

    Raises:
        UserError: a number of predictions or scores other than of examples, or two metrics of one
            name.
    """
    for what, given in (("predictions", predictions), ("scores", scores)):
        if given is not None and len(given) != len(examples):
            raise UserError(
                f"{len(given)} {what} for the {len(examples)} examples of task {task_name!r}."
            )
    task = get_task(task_name)
    needed_outputs(task_name)
    fields = examples.manifest.fields
    rows = examples.read(range(len(examples)))
    raw = [seqio_example(example, fields) for example in rows]
    targets = [
        task.postprocess_fn(example.targets_text, example=row, is_target=True)
        for example, row in zip(rows, raw, strict=True)
    ]
    results: list[Mapping[str, Any]] = []
    if predictions is not None:
        processed = [
            task.postprocess_fn(text, example=row, is_target=False)
            for text, row in zip(predictions, raw, strict=True)
        ]
        results += [f(targets, processed) for f in task.predict_metric_fns]
        ids = _padded_ids(task_name, predictions)
        results += _object_results(task, "PREDICTION", raw, ids)
    if scores is not None:
        array = np.asarray(scores)
        results += [f(targets, array) for f in task.score_metric_fns]
        results += _object_results(task, "SCORE", raw, array)
    return _scalars(task_name, results)


def majority_score(task_name: str, examples: Examples) -> dict[str, float]:
    """The score of predicting the most frequent target for every example.

    Equally frequent targets: the first in the order of their token ids. Metrics of scores have no
    such value and are left out.
    """
    counts = Counter(
        tuple(example.targets.tolist()) for example in examples.read(range(len(examples)))
    )
    most_frequent = min(counts, key=lambda ids: (-counts[ids], ids))
    text = task_vocabulary(task_name).decode(most_frequent)
    return score_predictions(task_name, examples, [text] * len(examples))


def _padded_ids(task_name: str, predictions: Sequence[str]) -> np.ndarray:
    """[N, L] int32: predictions encoded again, each with EOS, since metric objects take ids."""
    vocabulary = task_vocabulary(task_name)
    rows = [[*vocabulary.encode(text), vocabulary.eos_id] for text in predictions]
    padded = np.full((len(rows), max(map(len, rows), default=1)), vocabulary.pad_id, np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded


def _object_results(
    task: Any, kind: str, raw: list[dict[str, Any]], output: np.ndarray
) -> list[Mapping[str, Any]]:
    """The results of the task's metric objects of one kind, by the Evaluator's protocol."""
    import_seqio()
    from seqio.metrics import CollectingMetric

    results = []
    for metric in own_metric_objects(task):
        if metric.model_output_type.name != kind:
            continue
        instance = metric.from_model_output(raw, output, task.output_features, "targets")
        if isinstance(instance, CollectingMetric):
            value, _ = instance.actual_compute(raw, task.output_features, "targets", None)
        else:
            value = instance.compute()
        results.append(value)
    return results


def _scalars(task_name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    seqio = import_seqio()
    found: dict[str, float] = {}
    seen: set[str] = set()
    for result in results:
        for name, value in result.items():
            if name in seen:
                raise UserError(
                    f"Two metrics of task {task_name!r} are called {name!r}; rename one of them."
                )
            seen.add(name)
            if isinstance(value, seqio.metrics.Scalar):
                value = value.value
            if not isinstance(value, seqio.metrics.MetricValue):
                found[name] = float(value)
    return found
