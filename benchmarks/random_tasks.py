"""A seqio task module: tasks of random text, all of one length, for what runs whole stages.

MPT_BENCHMARK holds their number and lengths as JSON. Every text fills its positions, so that each batch
has one shape.
"""

import json
import os
import random
import string

import seqio
import tensorflow as tf

MIXTURE = "random_texts"
SETTINGS = json.loads(os.environ["MPT_BENCHMARK"])


def names() -> list[str]:
    return [f"random_text_{k}" for k in range(SETTINGS["tasks"])]


def _source(task: int) -> seqio.FunctionDataSource:
    def texts(split, shuffle_files=False, seed=None):
        stream = random.Random(f"{task} {split}")

        def text(length: int) -> str:
            return "".join(stream.choices(string.ascii_lowercase, k=length - 1))  # and EOS

        count = SETTINGS["examples"]
        lines = [[text(SETTINGS[key]) for _ in range(count)] for key in ("inputs", "targets")]
        return tf.data.Dataset.from_tensor_slices(
            dict(zip(("inputs", "targets"), lines, strict=True))
        )

    return seqio.FunctionDataSource(texts, ["train", "validation"])


def _count(targets, predictions):
    return {"count": float(len(predictions) == len(targets))}


for number, name in enumerate(names()):
    feature = seqio.Feature(seqio.ByteVocabulary(extra_ids=0), add_eos=True)
    seqio.TaskRegistry.add(
        name,
        source=_source(number),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": feature, "targets": feature},
        metric_fns=[_count],
    )
seqio.MixtureRegistry.add(MIXTURE, names(), default_rate=1)
