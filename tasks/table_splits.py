"""Train, validation and test sets out of one table, and what must hold between them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mpt_jax.data.few_shot import classes
from mpt_jax.errors import UserError

_SHOWN = 3


class TableExample(NamedTuple):
    """A row as text in and text out, with its place in the file."""

    inputs: str
    targets: str
    place: str


Splits = Mapping[str, Sequence[TableExample]]


class UnseenLabelWarning(UserWarning):
    """A label occurs outside of the training set alone."""


def divide(
    examples: Sequence[TableExample], fractions: Mapping[str, float], seed: int, stratify: bool
) -> dict[str, list[TableExample]]:
    """Divides examples among splits, at random but always alike.

    Examples with one and the same input go to one split. Where an input goes depends on the set of
    inputs, not on their order in the file; within a split that order stays.

    Args:
        fractions: split -> its share, which sum to 1.
        seed: another one gives another division.
        stratify: each target is divided in these shares, as far as its number allows.

    Returns:
        split -> its examples, each split's number off its share by about one.
    """
    groups: dict[str, list[TableExample]] = {}
    for example in examples:
        groups.setdefault(example.inputs, []).append(example)

    def random(text: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{text}".encode()).digest()

    def order(text: str) -> tuple[str, bytes]:
        # In this order each stretch is divided in the shares, so that equal targets lie together.
        return (min(e.targets for e in groups[text]) if stratify else "", random(text))

    owed = dict.fromkeys(fractions, 0.0)
    split_of: dict[str, str] = {}
    for text in sorted(groups, key=order):
        for split, share in fractions.items():
            owed[split] += share * len(groups[text])
        split_of[text] = max(owed, key=lambda split: round(owed[split], 6))
        owed[split_of[text]] -= len(groups[text])
    divided: dict[str, list[TableExample]] = {split: [] for split in fractions}
    for example in examples:
        divided[split_of[example.inputs]].append(example)
    return divided


def check_apart(splits: Splits) -> None:
    """Make sure that no input is in two splits.

    Raises:
        UserError: the first few that are, with their places.
    """
    first: dict[str, tuple[str, TableExample]] = {}
    repeated: list[tuple[TableExample, TableExample]] = []
    for split, examples in splits.items():
        for example in examples:
            other, earlier = first.setdefault(example.inputs, (split, example))
            if other != split:
                repeated.append((earlier, example))
    if repeated:
        shown = "".join(
            f"\n  {a.place} and {b.place}: {a.inputs[:60]!r}" for a, b in repeated[:_SHOWN]
        )
        more = f"\n  and {len(repeated) - _SHOWN} more" if len(repeated) > _SHOWN else ""
        raise UserError(
            "The same input is in two splits, so that a score would count what was trained on. Remove it "
            f"from one of the files, or divide one file by fractions, which keeps it together:{shown}{more}"
        )


def warn_of_unseen_labels(name: str, splits: Splits) -> None:
    """Warn (UnseenLabelWarning) of labels that training never sees, where targets are classes."""
    known = classes([example.targets for example in splits["train"]])
    for split, examples in splits.items():
        unseen = {e.targets: e.place for e in reversed(examples) if e.targets not in (known or ())}
        if known and unseen:
            first = sorted(unseen.items())[:_SHOWN]
            listed = ", ".join(f"{label!r} ({place})" for label, place in first)
            listed += f" and {len(unseen) - _SHOWN} more" if len(unseen) > _SHOWN else ""
            warnings.warn(
                f"{name}: these labels occur in {split} but not in train, so that they cannot be learned: "
                f"{listed}",
                UnseenLabelWarning,
                stacklevel=2,
            )
