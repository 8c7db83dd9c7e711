"""Few-shot subsets: k examples drawn by (task, k, seed), the same for every method."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mpt_jax.data.examples import Examples, SubStore
from mpt_jax.errors import UserError


def few_shot_indices(
    task: str, labels: Sequence[str], k: int, seed: int, per_class: bool
) -> Int[np.ndarray, " N"]:
    """Indices, ascending, of k examples of each class, or of k examples in all.

    Args:
        task: the task's name; with k and seed all that the draw depends on.
        labels: the label of every example; only its length matters where `per_class` is False.
        k: at least 1.

    Raises:
        UserError: fewer than k examples exist, of a class or in all.
    """
    if k < 1:
        raise UserError(f"k = {k} for task {task!r}; expected at least 1 example.")
    words = np.frombuffer(hashlib.sha256(f"{task}\0{k}\0{seed}".encode()).digest(), "<u4")
    random = np.random.RandomState(words)  # its stream is fixed over NumPy's versions
    groups: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label if per_class else "", []).append(index)
    if not groups:
        raise UserError(f"Task {task!r} has no examples to draw k = {k} from.")
    chosen = []
    for label in sorted(groups):
        members = groups[label]
        if len(members) < k:
            what = f"class {label!r} of task {task!r}" if per_class else f"task {task!r}"
            hint = f"choose k of at most {len(members)}"
            if per_class and len(groups) > 20:
                hint += f", or draw over all ({len(groups)} different targets are no classes)"
            raise UserError(f"k = {k}, but {what} has only {len(members)} examples: {hint}.")
        chosen.append(random.choice(np.asarray(members, np.int64), k, replace=False))
    return np.sort(np.concatenate(chosen))


def few_shot_subset(examples: Examples, task: str, k: int, seed: int, per_class: bool) -> SubStore:
    """The k-shot training set of `examples`, where a target's text is its class."""
    if per_class:
        labels = [example.targets_text for example in examples.read(range(len(examples)))]
    else:
        labels = [""] * len(examples)
    return SubStore(examples, few_shot_indices(task, labels, k, seed, per_class))


INDICES_KEPT = 1000
"""A record of a draw names its examples one by one where they are no more than this."""


def draw_record(subset: SubStore, task: str, k: int, seed: int, per_class: bool) -> dict[str, Any]:
    """What was drawn, as plain JSON: enough to tell, or to repeat, the draw without mpt_jax.

    Args:
        subset: what `few_shot_subset` gave for the other arguments.

    Returns:
        The arguments; `examples`, how many were drawn; `digest`, a hash (SHA-256, hex) of their texts in
        the order of `indices`; `indices`, their places in the training split, from 0 (after the split
        rule), or None where they are many.
    """
    digest = hashlib.sha256()
    for example in subset.read(range(len(subset))):
        digest.update(f"{example.inputs_text}\0{example.targets_text}\0".encode())
    few = len(subset) <= INDICES_KEPT
    return {
        "task": task,
        "k": k,
        "seed": seed,
        "per_class": per_class,
        "examples": len(subset),
        "digest": digest.hexdigest(),
        "indices": subset.indices.tolist() if few else None,
    }


def labels_of(examples: Examples, at_most: int = 20) -> tuple[str, ...] | None:
    """The labels of a classification task, sorted; None where the targets are free text."""
    return classes([e.targets_text for e in examples.read(range(len(examples)))], at_most)


def classes(targets: Sequence[str], at_most: int = 20) -> tuple[str, ...] | None:
    """The different targets, sorted; None where they are free text.

    They are classes if there are at most `at_most` of them, each seen twice on average or more.
    """
    labels = set(targets)
    if len(labels) > min(at_most, len(targets) / 2):
        return None
    return tuple(sorted(labels))
