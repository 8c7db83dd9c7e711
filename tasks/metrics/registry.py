"""The metrics by the names that tasks, tables and gin files use."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.tasks.metrics import (
    cider,
    classification,
    generation,
    meteor,
    nist,
    question_answering,
    regression,
)

#: (targets, predictions), both postprocessed -> {the metric's name: value}; seqio wants these two names.
Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]

METRICS: dict[str, Metric] = {
    "accuracy": classification.accuracy,
    "f1": classification.f1,
    "f1_macro": classification.f1_macro,
    "matthews": classification.matthews,
    "multirc_f1a": classification.multirc_f1a,
    "multirc_em": classification.multirc_em,
    "pearson": regression.pearson,
    "spearman": regression.spearman,
    "exact_match": question_answering.exact_match,
    "squad_em": question_answering.squad_em,
    "squad_f1": question_answering.squad_f1,
    "record_em": question_answering.record_em,
    "record_f1": question_answering.record_f1,
    "bleu": generation.bleu,
    "chrf": generation.chrf,
    "rouge1": generation.rouge1,
    "rouge2": generation.rouge2,
    "rougeL": generation.rougeL,
    "nist": nist.nist,
    "cider": cider.cider,
    "meteor": meteor.meteor,
}

_LIBRARIES = {
    "bleu": "sacrebleu",
    "chrf": "sacrebleu",
    "nist": "sacrebleu",
    "cider": "sacrebleu",
    "meteor": "nltk",
    "rouge1": "rouge_score",
    "rouge2": "rouge_score",
    "rougeL": "rouge_score",
}

_DATA: dict[str, Callable[[], object]] = {"meteor": meteor.find_wordnet}


def metric_functions(names: Iterable[str]) -> list[Metric]:
    """The functions of these names, for a task's `metric_fns`.

    Raises:
        UserError: nobody knows a name, or the library or the data behind one is not there, which
            would otherwise show only after training.
    """
    names = list(names)
    for name in names:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
        library = _LIBRARIES.get(name)
        if library and importlib.util.find_spec(library) is None:
            raise UserError(
                f"The metric {name!r} needs the package {library.replace('_', '-')}; "
                "pip install 'mpt_jax[benchmark]' brings it."
            )
        if name in _DATA:
            _DATA[name]()
    return [METRICS[name] for name in names]
