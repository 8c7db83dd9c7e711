"""Tasks on made-up words, registered as a user registers them."""

import numpy as np
import seqio
import tensorflow as tf

LETTERS = "abdegiklmnoprstu"
SIZES = {"train": 32, "validation": 8, "test": 12}


def words(split):
    """Different words of 3 to 6 letters for every split."""
    random = np.random.RandomState([1, list(SIZES).index(split)])
    lengths = random.randint(3, 7, SIZES[split])
    return [split[0] + "".join(random.choice(list(LETTERS), n)) for n in lengths]


def source(answer, splits=tuple(SIZES)):
    def dataset(split, shuffle_files, seed=None):
        texts = words(split)
        return tf.data.Dataset.from_tensor_slices(
            {"inputs": texts, "targets": [answer(text) for text in texts]}
        )

    return seqio.FunctionDataSource(dataset, splits=splits)


def features(extra_ids=125):
    feature = seqio.Feature(seqio.ByteVocabulary(extra_ids), add_eos=True)
    return {"inputs": feature, "targets": feature}


def accuracy(targets, predictions):
    return {"accuracy": float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def likelihood(targets, scores):
    """A metric that moves with every step, also where no answer is right yet.

    The tenth root of a character's likelihood: six decimals of this tell small steps apart.
    """
    nats = -np.mean(scores) / np.mean([len(t) for t in targets])
    return {"likelihood": float(np.exp(-nats / 10))}


def add(name, answer, *steps, **options):
    settings = {"output_features": features(), "metric_fns": [likelihood], **options}
    seqio.TaskRegistry.add(
        name,
        source=source(answer),
        preprocessors=[*steps, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        **settings,
    )


def sound(word):
    return "low" if word[1] < "l" else "high"


add("toy_head", lambda word: word[:3])
add("toy_tail", lambda word: word[-3:])
add("toy_turn", lambda word: word[:-4:-1])
add("toy_sound", sound, metric_fns=[accuracy])


# A postprocessor and a metric whose result tells whether both were called, and on what.
def letters(text, example=None, is_target=False):
    return ("target" if is_target else "prediction", len(text))


def share_of_short_targets(targets, predictions):
    assert {kind for kind, _ in targets} == {"target"}
    assert {kind for kind, _ in predictions} == {"prediction"}
    return {"share_of_short_targets": float(np.mean([count == 3 for _, count in targets]))}


add("toy_counted", sound, postprocess_fn=letters, metric_fns=[share_of_short_targets])

seqio.MixtureRegistry.add("toy_sources", ["toy_head", "toy_tail", "toy_sound"], default_rate=1.0)
seqio.MixtureRegistry.add("toy_targets", ["toy_turn", "toy_counted"], default_rate=1.0)


# What users get wrong.
def nothing_in_validation(dataset):
    return dataset.filter(lambda example: not tf.strings.regex_full_match(example["inputs"], "v.*"))


add("toy_empty", lambda word: word[:3], nothing_in_validation)
add("toy_wordy", lambda word: word + word)
add("toy_other_vocabulary", lambda word: word[:3], output_features=features(extra_ids=300))
