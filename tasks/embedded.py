"""The demonstration's tasks: English word forms, kinds of words, languages.

The text comes with the package (``mpt_jax.embedded``; sources and licences in its NOTICE.md), so
that these tasks need no download.  Tasks of ``embedded_sources`` are of families that the embedded
backbone met in pretraining, with other words; those of ``embedded_targets`` are of families that
it never met.
"""

from collections.abc import Sequence

import seqio
import tensorflow as tf

from mpt_jax.embedded import demo

FEATURES = {
    name: seqio.Feature(vocabulary=seqio.ByteVocabulary(), add_eos=True)
    for name in ("inputs", "targets")
}

#: Task name -> the classes, for the classifying tasks.
LABELS = {name: task.labels for name, task in demo.TASKS.items() if task.labels}

SOURCES = [name for name, task in demo.TASKS.items() if task.in_pretraining]
TARGETS = [name for name, task in demo.TASKS.items() if not task.in_pretraining]


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions that equal the target, 0 to 1."""
    return {"exact_match": _share_equal(targets, predictions)}


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions that equal the target's label, 0 to 1."""
    return {"accuracy": _share_equal(targets, predictions)}


def _share_equal(targets: Sequence[str], predictions: Sequence[str]) -> float:
    equal = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return equal / max(1, len(targets))


def strip(text: str, **_) -> str:
    """seqio's postprocessor: white space round an answer does not count."""
    return text.strip()


def _data_source(name: str) -> seqio.FunctionDataSource:
    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the order is fixed
        inputs, targets = zip(*demo.examples(name, split), strict=True)
        return tf.data.Dataset.from_tensor_slices(
            {"inputs": list(inputs), "targets": list(targets)}
        )

    sizes = {split: len(demo.examples(name, split)) for split in demo.MAX_EXAMPLES}
    return seqio.FunctionDataSource(
        dataset_fn=dataset, splits=tuple(sizes), num_input_examples=sizes
    )


for _name in demo.TASKS:
    seqio.TaskRegistry.add(
        _name,
        source=_data_source(_name),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=FEATURES,
        postprocess_fn=strip,
        metric_fns=[accuracy if _name in LABELS else exact_match],
    )

seqio.MixtureRegistry.add("embedded_sources", SOURCES, default_rate=1.0)
seqio.MixtureRegistry.add("embedded_targets", TARGETS, default_rate=1.0)
seqio.MixtureRegistry.add("embedded_classify", list(LABELS), default_rate=1.0)
seqio.MixtureRegistry.add(  # the tasks on which learning rates were searched, on validation data
    "embedded_search",
    ["inflect_past", "lemma_of_past", "inflect_superlative", "classify_language_b"],
    default_rate=1.0,
)
# One kind of source task only, and a target of either kind.
seqio.MixtureRegistry.add(
    "embedded_classifying_sources", [name for name in SOURCES if name in LABELS], default_rate=1.0
)
seqio.MixtureRegistry.add(
    "embedded_generating_sources",
    [name for name in SOURCES if name not in LABELS],
    default_rate=1.0,
)
seqio.MixtureRegistry.add(
    "embedded_transfer", ["inflect_past", "derive_ness", "classify_language_b"], default_rate=1.0
)
