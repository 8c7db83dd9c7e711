"""The pretraining mixture of the embedded backbone.

A row is `[prompt slots][text] -> target`. The prompt slots hold either *names*: reserved symbols
for the operation, arguments and labels spelt in letters, the way T5 v1.0 named its tasks in the
input; or the learned vectors of one of a fixed number of tasks. Both are virtual tokens here
(virtual row j < V is the embedding of symbol j, rows from V on are learned), so that noise can be
put on them: the backbone must read continuous vectors there, not only exact embeddings.

What the families are, and which of them the demonstration's tasks overlap with, is said in
`docs/embedded_default.md`; what is held out is in `mpt_jax.embedded.held_out`.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from mpt_jax.embedded import corpus, word_edits

SLOTS = 12  # Prompt slots in front of every row.
BYTE_OFFSET = 3  # seqio.ByteVocabulary: byte b is id b + 3.
FIRST_SYMBOL = 259  # Its extra ids, 259 to 383: the reserved symbols.
VOCAB_SIZE = 384
FILLER = FIRST_SYMBOL + 124
SENTINELS = tuple(range(FIRST_SYMBOL + 110, FIRST_SYMBOL + 120))
FIXED_TASKS = 96
WORD_TEXT, WORD_TARGET = 15, 16
LONG_TEXT, LONG_TARGET = 25, 16

Row = tuple[list[int], list[int], list[int]]  # Slots (named), text, target.

_SYMBOLS = {
    name: FIRST_SYMBOL + i
    for i, name in enumerate(
        [f"edit:{name}" for name in word_edits.NAMES]
        + [f"inflect:{tag}" for tag in ("plural", "gerund", "third_person", "comparative")]
        + [f"lemma:{tag}" for tag in ("plural", "gerund", "third_person", "comparative")]
        + [
            f"derive:{s}"
            for s in ("er", "ly", "tion", "ity", "y", "ic", "al", "ist", "ous", "ive", "able")
        ]
        + [
            f"base:{s}"
            for s in ("er", "ly", "tion", "ity", "y", "ic", "al", "ist", "ous", "ive", "able")
        ]
        + ["part_of_speech", "is_part_of_speech", "noun_kind", "is_noun_kind"]
        + ["language", "is_language", "restore", "language_of"]
    )
}


def encode(text: str) -> list[int]:
    return [byte + BYTE_OFFSET for byte in text.encode("utf-8")]


def symbol(name: str) -> int:
    return _SYMBOLS[name]


class Source:
    """The text that pretraining may see, indexed for drawing."""

    def __init__(self):
        pairs: dict[str, list[tuple[str, str]]] = {}
        for lemma, tag, form, _ in corpus.rows("inflection", "pretraining"):
            pairs.setdefault(f"inflect:{tag}", []).append((lemma, form))
            pairs.setdefault(f"lemma:{tag}", []).append((form, lemma))
        for base, suffix, derived, _ in corpus.rows("derivation", "pretraining"):
            if f"derive:{suffix}" in _SYMBOLS:
                pairs.setdefault(f"derive:{suffix}", []).append((base, derived))
                pairs.setdefault(f"base:{suffix}", []).append((derived, base))
        self.pairs = pairs
        self.parts = _by_class(corpus.rows("part_of_speech", "pretraining"))
        self.kinds = _by_class(corpus.rows("noun_kind", "pretraining"))
        self.languages: dict[str, list[str]] = {}
        for code, sentence in corpus.rows("languages", "pretraining"):
            self.languages.setdefault(code, []).append(sentence)
        self.codes = sorted(self.languages)
        words = {row[0] for row in corpus.rows("inflection", "pretraining")}
        words |= {word for group in self.parts.values() for word in group}
        self.words = sorted(words)


def _by_class(rows: list[tuple[str, ...]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for word, label, _ in rows:
        groups.setdefault(label, []).append(word)
    return {label: groups[label] for label in sorted(groups)}


def _pick(rng: np.random.Generator, items):
    return items[int(rng.random() * len(items))]


def span(sentence: str, rng: np.random.Generator, size: int = LONG_TEXT - 1) -> str:
    """At most `size` bytes of a sentence, from the start of a random word on."""
    starts = [0] + [i + 1 for i, c in enumerate(sentence[: max(1, len(sentence) - 12)]) if c == " "]
    return sentence[_pick(rng, starts) :].encode()[:size].decode(errors="ignore").strip()


# --- Families: each draws one task instance, a function from rng to (text, target) ----------------

Instance = tuple[list[int], Callable[[np.random.Generator], tuple[str, str]]]


def edit_task(source: Source, rng: np.random.Generator, count: int) -> Instance:
    edits = [word_edits.draw(rng) for _ in range(count)]
    named = [i for name, argument in edits for i in [symbol(f"edit:{name}"), *encode(argument)]]
    return named, lambda r: (word := _pick(r, source.words), word_edits.apply(edits, word))


def pair_task(source: Source, rng: np.random.Generator, prefix: str) -> Instance:
    name = _pick(rng, [key for key in source.pairs if key.startswith(prefix)])
    named = [symbol(name)]
    if prefix != "inflect:" or rng.random() > 0.25:
        return named, lambda r: _pick(r, source.pairs[name])
    edit = word_edits.draw(rng)
    named += [symbol(f"edit:{edit[0]}"), *encode(edit[1])]

    def draw(r):
        word, form = _pick(r, source.pairs[name])
        return word, word_edits.apply([edit], form)

    return named, draw


def class_task(groups: dict[str, list[str]], name: str, rng: np.random.Generator) -> Instance:
    """Which class, by its own name; or whether it is a given class, yes or no."""
    labels = list(groups)
    if rng.random() < 0.6:
        return [symbol(name)], lambda r: (_pick(r, groups[label := _pick(r, labels)]), label)
    asked = _pick(rng, labels)
    others = [label for label in labels if label != asked]

    def draw(r):
        is_asked = r.random() < 0.5
        return _pick(r, groups[asked if is_asked else _pick(r, others)]), (
            "yes" if is_asked else "no"
        )

    return [symbol(f"is_{name}"), *encode(asked[:8])], draw


def language_task(source: Source, rng: np.random.Generator) -> Instance:
    def sentence_of(code, r):
        return span(_pick(r, source.languages[code]), r)

    kind = rng.random()
    if kind < 0.55:  # Any language, by its code.
        return [symbol("language")], lambda r: (sentence_of(c := _pick(r, source.codes), r), c)
    asked = [source.codes[i] for i in rng.permutation(len(source.codes))[: rng.integers(2, 4)]]
    if kind < 0.8:  # One of a few, which are named.
        named = [symbol("language_of"), *[i for code in asked for i in encode(code)]]
        return named, lambda r: (sentence_of(c := _pick(r, asked), r), c)

    def draw(r):
        is_asked = r.random() < 0.5
        code = asked[0] if is_asked else _pick(r, source.codes)
        return sentence_of(code, r), ("yes" if code == asked[0] else "no")

    return [symbol("is_language"), *encode(asked[0])], draw


def _restore(text: list[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Span corruption (Raffel et al. 2020, section 3.1.4) with spans of 1 to 3 letters."""
    corrupted, target, i, used = [], [], 0, 0
    while i < len(text):
        if rng.random() < 0.12 and used < 4:
            size = int(rng.integers(1, 4))
            corrupted.append(SENTINELS[used])
            target += [SENTINELS[used], *text[i : i + size]]
            used, i = used + 1, i + size
        else:
            corrupted.append(text[i])
            i += 1
    return corrupted, target


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Rows of the pretraining mixture; the batch of a step is a pure function of (seed, step).

    Attributes:
        seed: of everything drawn.
        curriculum_steps: until then most rows are single edits (many plain copies) and pairs:
            with the full mixture from the start nothing was copied for a thousand steps.
        long_every: every n-th batch holds language and restoring tasks on longer texts.
        fixed_share: share of rows whose slots hold learned vectors instead of names.
        batch_size: rows of a batch of words; long batches have half as many.
    """

    seed: int = 0
    curriculum_steps: int = 600
    long_every: int = 6
    fixed_share: float = 0.2
    batch_size: int = 192

    @functools.cached_property
    def _source(self) -> Source:
        return Source()

    @functools.cached_property
    def _fixed(self) -> tuple[list[Instance], list[Instance]]:
        """The fixed tasks: those of words, those of longer texts."""
        rng = np.random.default_rng((self.seed, 1))
        words = [self._word_task(rng, easy=False) for _ in range(FIXED_TASKS * 3 // 4)]
        longs = [language_task(self._source, rng) for _ in range(FIXED_TASKS - len(words))]
        return words, longs

    def _word_task(self, rng: np.random.Generator, easy: bool) -> Instance:
        source, draw = self._source, rng.random()
        if easy:
            if draw < 0.30:
                return [symbol("edit:copy")], lambda r: (w := _pick(r, source.words), w)
            if draw < 0.70:
                return edit_task(source, rng, 1)
            return pair_task(source, rng, "inflect:" if draw < 0.85 else "lemma:")
        if draw < 0.22:
            return edit_task(source, rng, 1)
        if draw < 0.40:
            return edit_task(source, rng, int(rng.integers(2, 4)))
        if draw < 0.58:
            return pair_task(source, rng, "inflect:")
        if draw < 0.70:
            return pair_task(source, rng, "lemma:")
        if draw < 0.76:
            return pair_task(source, rng, "derive:")
        if draw < 0.82:
            return pair_task(source, rng, "base:")
        if draw < 0.91:
            return class_task(source.parts, "part_of_speech", rng)
        return class_task(source.kinds, "noun_kind", rng)

    def _row(self, rng: np.random.Generator, step: int, long: bool) -> Row:
        limit = LONG_TARGET if long else WORD_TARGET
        while True:
            if long and rng.random() < 0.35:
                code = _pick(rng, self._source.codes)
                text = encode(span(_pick(rng, self._source.languages[code]), rng))
                corrupted, target = _restore(text, rng)
                if 0 < len(target) < limit:
                    return self._slots([symbol("restore")], rng), corrupted, target
                continue
            easy = step < self.curriculum_steps and rng.random() < 0.85
            if rng.random() < self.fixed_share:
                tasks = self._fixed[long]
                chosen = int(rng.random() * len(tasks))
                task = chosen + (len(self._fixed[0]) if long else 0)
                first = VOCAB_SIZE + task * SLOTS
                slots, draw = list(range(first, first + SLOTS)), tasks[chosen][1]
            else:
                named, draw = (
                    language_task(self._source, rng) if long else self._word_task(rng, easy)
                )
                if len(named) > SLOTS:
                    continue
                slots = self._slots(named, rng)
            text, target = (encode(part) for part in draw(rng))
            if 0 < len(text) < (LONG_TEXT if long else WORD_TEXT) and 0 < len(target) < limit:
                return slots, text, target

    def _slots(self, named: list[int], rng: np.random.Generator) -> list[int]:
        """Names fill all the slots: repeated, or with fillers before and behind."""
        free = SLOTS - len(named)
        if rng.random() < 0.5:
            return (named * SLOTS)[:SLOTS] if rng.random() < 0.5 else named + [FILLER] * free
        before = int(rng.integers(0, free + 1))
        return [FILLER] * before + named + [FILLER] * (free - before)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of one step: ids of V and above in the encoder are virtual rows (id - V)."""
        long = step >= self.curriculum_steps and step % self.long_every == 0
        rng = np.random.default_rng((self.seed, 2, step))
        size = self.batch_size // 2 if long else self.batch_size
        width = SLOTS + (LONG_TEXT if long else WORD_TEXT)
        inputs = np.zeros((size, width), np.int32)
        targets = np.zeros((size, LONG_TARGET if long else WORD_TARGET), np.int32)
        for row in range(size):
            slots, text, target = self._row(rng, step, long)
            inputs[row, :SLOTS] = np.asarray(slots, np.int32) + VOCAB_SIZE
            inputs[row, SLOTS : SLOTS + len(text) + 1] = [*text, 1]
            targets[row, : len(target) + 1] = [*target, 1]
        shifted = np.zeros_like(targets)
        shifted[:, 1:] = targets[:, :-1]
        return {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": shifted,
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets > 0).astype(np.float32),
        }
