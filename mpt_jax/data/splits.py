"""Train, validation and test sets for data sets whose test labels are not public.

The rules of Wang et al. 2023 (taken over from ATTEMPT, Asai et al. 2022), by name:

- `official`: the data set's own three splits (PAWS).
- `halved_validation`: small data sets (RTE, CB, BoolQ, ...): the official validation set, shuffled
  with seed 42; its first half validates, its second half tests.
- `held_out_train`: large data sets (QQP, QNLI, SQuAD, ...): the first 1,000 examples of the train
  set, shuffled with seed 42, validate, the rest trains; the official validation set tests.
- `mnli`: the mismatched validation set validates, the matched one tests.
- `yelp`: of the shuffled train set 1,000 validate and the next 100,000 train; the official test set
  tests. `yelp_whole` trains on all the rest.
- `web_nlg_seen`: the official splits, but the test set's inputs of categories that training has;
  `web_nlg_unseen`: those of other categories.

The permutation is NumPy's, where the paper's code used torch's: same rule, other examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int

from mpt_jax.data.examples import Examples, SubStore
from mpt_jax.errors import UserError, unknown_name

SPLIT_SEED = 42
HELD_OUT = 1000
YELP_TRAIN = 100_000

Indices = Int[np.ndarray, " N"]


def shuffled(size: int, seed: int = SPLIT_SEED) -> Indices:
    """A permutation of `range(size)`; RandomState's stream is fixed over NumPy's versions."""
    return np.random.RandomState(seed).permutation(size).astype(np.int64)


def first_half(size: int) -> Indices:
    return shuffled(size)[: size // 2]


def second_half(size: int) -> Indices:
    return shuffled(size)[size // 2 :]


def held_out(size: int) -> Indices:
    _need_more_than_held_out(size)
    return shuffled(size)[:HELD_OUT]


def all_but_held_out(size: int) -> Indices:
    _need_more_than_held_out(size)
    return shuffled(size)[HELD_OUT:]


def hundred_thousand_after_held_out(size: int) -> Indices:
    return all_but_held_out(size)[:YELP_TRAIN]


def _need_more_than_held_out(size: int) -> None:
    if size <= HELD_OUT:
        raise UserError(
            f"The rule 'held_out_train' takes {HELD_OUT} examples for validation, but the train "
            f"set has only {size}. Use 'halved_validation' for a small data set."
        )


@dataclasses.dataclass(frozen=True)
class Part:
    """Part of an official split; `select` maps its size to the indices taken (None: all)."""

    split: str
    select: Callable[[int], Indices] | None = None

    def of(self, examples: Examples) -> Examples:
        return examples if self.select is None else SubStore(examples, self.select(len(examples)))


RULES: Mapping[str, Mapping[str, Part]] = {
    "official": {
        "train": Part("train"),
        "validation": Part("validation"),
        "test": Part("test"),
    },
    "halved_validation": {
        "train": Part("train"),
        "validation": Part("validation", first_half),
        "test": Part("validation", second_half),
    },
    "held_out_train": {
        "train": Part("train", all_but_held_out),
        "validation": Part("train", held_out),
        "test": Part("validation"),
    },
    "mnli": {
        "train": Part("train"),
        "validation": Part("validation_mismatched"),
        "test": Part("validation_matched"),
    },
    "yelp": {
        "train": Part("train", hundred_thousand_after_held_out),
        "validation": Part("train", held_out),
        "test": Part("test"),
    },
    "yelp_whole": {
        "train": Part("train", all_but_held_out),
        "validation": Part("train", held_out),
        "test": Part("test"),
    },
    "web_nlg_seen": {
        "train": Part("train"),
        "validation": Part("validation"),
        "test": Part("test_seen"),
    },
    "web_nlg_unseen": {
        "train": Part("train"),
        "validation": Part("validation"),
        "test": Part("test_unseen"),
    },
}


def part_of(rule: str, role: str) -> Part:
    """Which official split serves as `role` (train, validation or test), and which part of it.

    Raises:
        UserError: an unknown rule or role.
    """
    if rule not in RULES:
        raise unknown_name("split rule", rule, RULES)
    if role not in RULES[rule]:
        raise unknown_name("part of a data set", role, RULES[rule])
    return RULES[rule][role]


def examples_for(rule: str, role: str, open_split: Callable[[str], Examples]) -> Examples:
    """The examples that serve as `role` under `rule`.

    Args:
        open_split: from an official split's name to its store.
    """
    part = part_of(rule, role)
    return part.of(open_split(part.split))
