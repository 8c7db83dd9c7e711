"""The metrics of `mpt_jax.tasks.metrics` for answers that are plain text, as a table's are.

Each wants its own form of an answer: the text, a number, a class, or a list of right answers. The data
sets of the benchmark bring theirs with a postprocessor; here it is the metric that says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.tasks.metrics import Metric, metric_functions
from mpt_jax.tasks.metrics.postprocessors import label_index, number
from mpt_jax.tasks.table_splits import TableExample

#: From (metric's name, examples, positive label) to what makes an answer of a text; checks the targets.
Form = Callable[[str, Sequence[TableExample], str | None], Callable[..., Any]]


def _text(
    metric: str, examples: Sequence[TableExample], positive: str | None
) -> Callable[..., Any]:
    def as_it_is(text: str, **_: Any) -> str:
        return text

    return as_it_is


def _references(
    metric: str, examples: Sequence[TableExample], positive: str | None
) -> Callable[..., Any]:
    def one_right_answer(text: str, *, is_target: bool, **_: Any) -> Any:
        return [text] if is_target else text

    return one_right_answer


def _number(
    metric: str, examples: Sequence[TableExample], positive: str | None
) -> Callable[..., Any]:
    for example in examples:
        try:
            finite = math.isfinite(float(example.targets))
        except ValueError:
            finite = False
        if not finite:
            raise UserError(
                f"{example.place}: the target {example.targets!r} is not a number, and the metric "
                f"{metric!r} is of numbers."
            )
    return number


def _class(
    metric: str, examples: Sequence[TableExample], positive: str | None
) -> Callable[..., Any]:
    return functools.partial(label_index, labels=_labels(examples))


def _one_of_two_classes(
    metric: str, examples: Sequence[TableExample], positive: str | None
) -> Callable[..., Any]:
    labels = _labels(examples)
    if len(labels) != 2:
        shown = ", ".join(map(repr, labels[:5]))
        raise UserError(
            f"The metric {metric!r} is of two labels, and the table has {len(labels)}: {shown}"
            f"{', ...' if len(labels) > 5 else ''}. For other numbers there is 'f1_macro'."
        )
    if positive not in labels:
        raise UserError(
            f"The metric {metric!r} counts one of the labels {labels}: say which by `positive` "
            f"(TABLE_POSITIVE in runs/table.gin); it is {positive!r}."
        )
    return functools.partial(
        label_index, labels=sorted(labels, key=lambda label: label == positive)
    )


def _labels(examples: Sequence[TableExample]) -> list[str]:
    return sorted({example.targets for example in examples})


FORMS: dict[str, Form] = {
    "accuracy": _text,
    "f1": _one_of_two_classes,
    "f1_macro": _class,
    "matthews": _class,
    "pearson": _number,
    "spearman": _number,
    **dict.fromkeys(
        ("exact_match", "squad_em", "squad_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "nist",
         "cider", "meteor"),
        _references,
    ),
}  # fmt: skip


def text_metrics(
    names: Sequence[str], examples: Sequence[TableExample], positive: str | None = None
) -> list[Metric]:
    """Functions of texts (targets, predictions), for a task's `metric_fns`.

    Args:
        names: of `FORMS`.
        examples: of all splits; their targets are checked, and are the labels of a classifying task.
        positive: the label that "f1" counts.

    Raises:
        UserError: an unknown name, a library that is not installed, or targets that a metric is not
            of, with file and line.
    """
    for name in names:
        if name not in FORMS:
            raise unknown_name("metric of a table", name, FORMS)
    return [
        _of_texts(name, metric, FORMS[name](name, examples, positive))
        for name, metric in zip(names, metric_functions(names), strict=True)
    ]


def _of_texts(name: str, metric: Metric, form: Callable[..., Any]) -> Metric:
    def of_texts(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        return metric(
            [form(text, is_target=True) for text in targets],
            [form(text, is_target=False) for text in predictions],
        )

    of_texts.__name__ = name  # what `mpt tasks` shows
    return of_texts
