"""Two tasks of one's own: from a place to its adjective (peru -> peruvian), and back.

    mpt tasks --task_module=examples/demonyms.py

A task is registered as for T5 and T5X: where the examples come from, how a line becomes `inputs` and
`targets`, the vocabulary (the backbone's: bytes here), a postprocessor and metrics. Nothing here is
mpt_jax's own.
"""

import functools
from pathlib import Path

import seqio
import tensorflow as tf

FOLDER = Path(__file__).parent / "demonyms"
SPLITS = {split: str(FOLDER / f"{split}.tsv") for split in ("train", "validation", "test")}
FEATURE = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)


def columns(dataset: tf.data.Dataset, inputs: int, targets: int) -> tf.data.Dataset:
    """Lines of tab-separated values to examples."""

    def example(line):
        parts = tf.strings.split(line, "\t")
        return {"inputs": parts[inputs], "targets": parts[targets]}

    return dataset.map(example)


def lower(text: str, **_) -> str:
    """Capitals and white space round an answer do not count."""
    return text.strip().lower()


def exact_match(targets: list[str], predictions: list[str]) -> dict[str, float]:
    equal = [target == prediction for target, prediction in zip(targets, predictions, strict=True)]
    return {"exact_match": sum(equal) / len(equal)}


def add(name: str, inputs: int, targets: int) -> None:
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource(SPLITS),
        preprocessors=[
            functools.partial(columns, inputs=inputs, targets=targets),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features={"inputs": FEATURE, "targets": FEATURE},
        postprocess_fn=lower,
        metric_fns=[exact_match],
    )


add("adjective_of_place", inputs=0, targets=1)
add("place_of_adjective", inputs=1, targets=0)
seqio.MixtureRegistry.add(
    "demonyms", ["adjective_of_place", "place_of_adjective"], default_rate=1.0
)
