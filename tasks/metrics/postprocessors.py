"""From decoded text to what metrics compare, by seqio's convention.

seqio calls `postprocess(text, example=..., is_target=...)` for the target and for the prediction of an
example. `example` holds the fields that the text format left: text as bytes, lists as NumPy arrays.
Arguments of the task's own are bound by `functools.partial`:

    postprocess_fn=functools.partial(label_index, labels=("entailment", "neutral", "contradiction"))
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpt_jax.errors import UserError
from mpt_jax.tasks.metrics.grouped import Grouped

UNKNOWN_LABEL = -1
UNKNOWN_NUMBER = -1.0


def stripped(text: str, **_: Any) -> str:
    """The text without white space round it."""
    return text.strip()


def label_index(text: str, *, labels: Sequence[str], is_target: bool = False, **_: Any) -> int:
    """The place of a label in `labels`; -1 for a prediction that is none of them.

    White space round it does not count, upper and lower case do.

    Raises:
        UserError: a target is none of them.
    """
    label = text.strip()
    if label in labels:
        return labels.index(label)
    if is_target:
        raise UserError(f"The target {label!r} is none of the task's labels {list(labels)}.")
    return UNKNOWN_LABEL


def number(text: str, *, is_target: bool = False, **_: Any) -> float:
    """The text as a finite number; -1 for a prediction that is none, as in T5's STS-B.

    Raises:
        UserError: a target is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    if is_target:
        raise UserError(f"The target {text!r} is not a finite number.")
    return UNKNOWN_NUMBER


def answers(
    text: str, *, example: Mapping[str, Any], is_target: bool = False, field: str = "answers"
) -> list[str] | str:
    """All right answers (or references) of the example for a target, the text for a prediction.

    Args:
        field: the field of `example` that holds them: one text, or any number.

    Raises:
        UserError: the example has no such field.
    """
    if not is_target:
        return text.strip()
    return [_text(item) for item in np.atleast_1d(_field(example, field))]


def grouped_label_index(
    text: str,
    *,
    labels: Sequence[str],
    example: Mapping[str, Any],
    is_target: bool = False,
    group: str = "group",
) -> Grouped | int:
    """`label_index`; for a target with the example's field `group`, which tells its question.

    Raises:
        UserError: a target is none of the labels, or the example has no such field.
    """
    label = label_index(text, labels=labels, is_target=is_target)
    return Grouped(_text(_field(example, group)), label) if is_target else label


def grouped_answers(
    text: str,
    *,
    example: Mapping[str, Any],
    is_target: bool = False,
    field: str = "answers",
    group: str = "group",
) -> Grouped | list[str] | str:
    """`answers`; for a target with the example's field `group`, which tells its question.

    Raises:
        UserError: the example lacks one of the fields.
    """
    found = answers(text, example=example, is_target=is_target, field=field)
    return Grouped(_text(_field(example, group)), found) if is_target else found


def _field(example: Mapping[str, Any], name: str) -> Any:
    if name not in example:
        raise UserError(
            f"The task's postprocessor wants a field {name!r} in each example; there are "
            f"{sorted(example)}. The task's text format must leave it beside inputs and targets."
        )
    return example[name]


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
