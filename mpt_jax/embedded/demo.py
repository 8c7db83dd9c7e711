"""The demonstration's tasks as plain pairs of texts, drawn from what pretraining never saw.

Every task's train, validation and test examples come from the demo's part of the embedded text
(:func:`mpt_jax.embedded.corpus.rows`).  The split goes by word family or sentence and is the same
for all tasks, so that a word of any task's test split stands in no task's training split.

What the tasks ask for overlaps with pretraining where ``in_pretraining`` says so: then pretraining
met the same question with other words (``inflect_plural``), else not at all (``inflect_past``).
"""

import functools
from collections import Counter, defaultdict
from typing import NamedTuple

from mpt_jax.embedded import corpus
from mpt_jax.embedded.held_out import HELD_OUT_LANGUAGES, stable_fraction

MAX_EXAMPLES = {"train": 2000, "validation": 200, "test": 500}

#: Upper ends of the splits' shares of the keys.
SHARES = {"test": 0.40, "validation": 0.55, "train": 1.0}

#: Longest input of the language tasks, in UTF-8 bytes; shorter ends of sentences are left out.
SPAN_BYTES = (18, 24)


class DemoTask(NamedTuple):
    """Where a task's pairs come from.

    Attributes:
      table: the embedded table.
      family: the table's second column must be this; None for classification.
      inverse: from the form back to the lemma.
      labels: the classes, for classification; every split has equally many of each.
      in_pretraining: whether pretraining met this family (with other words or sentences).
    """

    table: str
    family: str | None = None
    inverse: bool = False
    labels: tuple[str, ...] = ()
    in_pretraining: bool = True


TASKS = {
    "inflect_plural": DemoTask("inflection", "plural"),
    "inflect_third_person": DemoTask("inflection", "third_person"),
    "inflect_gerund": DemoTask("inflection", "gerund"),
    "inflect_comparative": DemoTask("inflection", "comparative"),
    "lemma_of_plural": DemoTask("inflection", "plural", inverse=True),
    "lemma_of_third_person": DemoTask("inflection", "third_person", inverse=True),
    "lemma_of_gerund": DemoTask("inflection", "gerund", inverse=True),
    "derive_er": DemoTask("derivation", "er"),
    "classify_part_of_speech": DemoTask(
        "part_of_speech", labels=("adjective", "adverb", "noun", "verb")
    ),
    "classify_noun_kind": DemoTask(
        "noun_kind", labels=("act", "animal", "person", "plant", "state", "substance")
    ),
    "classify_language_a": DemoTask("languages", labels=("deu", "eng", "fra", "pol", "spa", "swh")),
    "inflect_past": DemoTask("inflection", "past", in_pretraining=False),
    "lemma_of_past": DemoTask("inflection", "past", inverse=True, in_pretraining=False),
    "inflect_participle": DemoTask("inflection", "participle", in_pretraining=False),
    "inflect_superlative": DemoTask("inflection", "superlative", in_pretraining=False),
    "lemma_of_superlative": DemoTask(
        "inflection", "superlative", inverse=True, in_pretraining=False
    ),
    "derive_ness": DemoTask("derivation", "ness", in_pretraining=False),
    "classify_language_b": DemoTask(
        "languages", labels=("ces", "por", "swe", "tur", "zul"), in_pretraining=False
    ),
}


@functools.cache
def examples(name: str, split: str) -> list[tuple[str, str]]:
    """(input, target) pairs of one split, in an order fixed by hash.

    Raises:
      ValueError: there is no such task or split.
    """
    if name not in TASKS:
        raise ValueError(f"no demo task {name!r}; there are {', '.join(TASKS)}")
    if split not in MAX_EXAMPLES:
        raise ValueError(f"no split {split!r}; there are {', '.join(MAX_EXAMPLES)}")
    here, task = _by_split(name)[split], TASKS[name]
    here = sorted(here, key=lambda pair: stable_fraction(pair[0], f"order of {task.table}"))
    if task.labels:
        return _balanced(here, task.labels, MAX_EXAMPLES[split])
    return here[: MAX_EXAMPLES[split]]


@functools.cache
def _by_split(name: str) -> dict[str, list[tuple[str, str]]]:
    task = TASKS[name]
    pairs = _spans(task.labels) if task.table == "languages" else _words(task)
    splits: dict[str, list[tuple[str, str]]] = {split: [] for split in MAX_EXAMPLES}
    for source, target, key in pairs:
        splits[_split_of(key)].append((source, target))
    return splits


@functools.cache
def _split_of(key: str) -> str:
    fraction = stable_fraction(key, "demo split")
    return next(split for split, end in SHARES.items() if fraction < end)


def _words(task: DemoTask) -> list[tuple[str, str, str]]:
    """(input, target, key) of a word task; inputs with two answers ("axes": ax, axis) left out."""
    pairs = []
    for row in corpus.rows(task.table, "demo"):
        if task.labels:
            word, label, key = row
            if label in task.labels and len(word) <= 12:
                pairs.append((word, label, key))
        elif row[1] == task.family:
            lemma, _, form, key = row
            pairs.append((form, lemma, key) if task.inverse else (lemma, form, key))
    answers = Counter(source for source, _, _ in pairs)
    return [pair for pair in pairs if answers[pair[0]] == 1]


def _spans(codes: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """(span, code, key): stretches of the sentences, one from the start of every word.

    A span that occurs twice (in two sentences or languages) is left out: it could stand in two
    splits.  Languages that pretraining never saw give all their sentences.
    """
    spans = []
    demo = set(corpus.rows("languages", "demo"))
    for code, sentence in corpus.read("languages"):
        if code not in codes or not (code in HELD_OUT_LANGUAGES or (code, sentence) in demo):
            continue
        starts = [0] + [i + 1 for i, letter in enumerate(sentence) if letter == " "]
        for start in starts:
            raw = sentence[start:].encode()[: SPAN_BYTES[1]]
            span = raw.decode(errors="ignore").strip()  # a letter cut in two is dropped
            if len(span.encode()) >= SPAN_BYTES[0]:
                spans.append((span, code, sentence))
    times = Counter(span for span, _, _ in spans)
    return [row for row in spans if times[row[0]] == 1]


def _balanced(
    pairs: list[tuple[str, str]], labels: tuple[str, ...], most: int
) -> list[tuple[str, str]]:
    """The first equally many of each label, at most ``most`` in all, in the given order."""
    by_label: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in pairs:
        by_label[pair[1]].append(pair)
    each = min(most // len(labels), *(len(by_label[label]) for label in labels))
    kept = {pair for label in labels for pair in by_label[label][:each]}
    return [pair for pair in pairs if pair in kept]
