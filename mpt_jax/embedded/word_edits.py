"""Operations on single words, drawn freshly so that pretraining never runs out of tasks.

Each edit is a function of a word and its arguments (short strings). The backbone learns to follow
an operation named in its prompt slots, arguments spelt out in letters; that is what later lets a
soft prompt spell out an operation which was never named (see `mpt_jax.embedded.pretraining`).
"""

from collections.abc import Callable

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOWELS = "aeiou"
# Suffixes of the inflections that are held out of pretraining: never drawn as arguments.
HELD_OUT_SUFFIXES = frozenset({"ed", "d", "est", "st", "ied", "ness", "ment"})


def english_suffix(word: str, suffix: str) -> str:
    """Appends a suffix by English spelling: drops a silent e, turns y to i, doubles a consonant."""
    if not suffix:
        return word
    vowel_suffix = suffix[0] in VOWELS
    if word.endswith("e") and vowel_suffix:
        return word[:-1] + suffix
    after_consonant = len(word) > 1 and word[-2] not in VOWELS
    if word.endswith("y") and after_consonant and suffix[0] != "i":
        return word[:-1] + "i" + suffix
    short = len(word) == 3 and word[0] not in VOWELS and word[1] in VOWELS
    if vowel_suffix and short and word[-1] not in VOWELS + "wxy":
        return word + word[-1] + suffix
    return word + suffix


def strip_english_suffix(word: str, suffix: str) -> str:
    return word[: -len(suffix)] if word.endswith(suffix) and len(word) > len(suffix) else word


# Name -> (function of (word, argument), kind of argument). Kinds: "" none, "letter", "letters"
# (1 to 3 of them), "pair" (two letters), "digit" (1 to 3).
EDITS: dict[str, tuple[Callable[[str, str], str], str]] = {
    "copy": (lambda w, a: w, ""),
    "reverse": (lambda w, a: w[::-1], ""),
    "capitals": (lambda w, a: w.upper(), ""),
    "capital_first": (lambda w, a: w.capitalize(), ""),
    "no_vowels": (lambda w, a: "".join(c for c in w if c not in VOWELS), ""),
    "vowels": (lambda w, a: "".join(c for c in w if c in VOWELS), ""),
    "double_last": (lambda w, a: w + w[-1], ""),
    "double_first": (lambda w, a: w[0] + w, ""),
    "rotate": (lambda w, a: w[1:] + w[0], ""),
    "first": (lambda w, a: w[: int(a)], "digit"),
    "last": (lambda w, a: w[-int(a) :], "digit"),
    "drop_first": (lambda w, a: w[int(a) :], "digit"),
    "drop_last": (lambda w, a: w[: -int(a)], "digit"),
    "prefix": (lambda w, a: a + w, "letters"),
    "suffix": (lambda w, a: w + a, "letters"),
    "english_suffix": (english_suffix, "letters"),
    "strip_suffix": (strip_english_suffix, "letters"),
    "replace": (lambda w, a: w.replace(a[0], a[1]), "pair"),
    "replace_last": (lambda w, a: w[:-1] + a, "letters"),
    "delete": (lambda w, a: w.replace(a, ""), "letter"),
}
NAMES = tuple(EDITS)
_WEIGHTS = np.array(
    [
        {
            "copy": 3.0,
            "english_suffix": 5.0,
            "suffix": 2.5,
            "strip_suffix": 2.5,
            "drop_last": 2.0,
            "replace_last": 2.0,
        }.get(name, 1.0)
        for name in NAMES
    ]
)
_CUMULATIVE = np.cumsum(_WEIGHTS / _WEIGHTS.sum())

# Suffixes as English has them, so that a drawn argument is often a plausible one.
COMMON_SUFFIXES = (
    "s",
    "es",
    "ing",
    "er",
    "ly",
    "y",
    "en",
    "al",
    "ic",
    "or",
    "ish",
    "ful",
    "ous",
    "able",
    "ist",
    "ism",
    "ise",
    "ity",
    "ive",
    "ion",
    "ant",
    "age",
    "ery",
    "let",
)


def draw(rng: np.random.Generator) -> tuple[str, str]:
    """A random edit and its argument."""
    name = NAMES[int(np.searchsorted(_CUMULATIVE, rng.random()))]
    return name, draw_argument(name, rng)


def draw_argument(name: str, rng: np.random.Generator) -> str:
    kind = EDITS[name][1]
    if kind == "digit":
        return str(rng.integers(1, 4))
    if kind in ("letter", "pair"):
        return "".join(
            LETTERS[i] for i in rng.integers(0, 26, size=len(kind) // 2 if kind == "pair" else 1)
        )
    if kind == "letters":
        if "suffix" in name and rng.random() < 0.3:
            return COMMON_SUFFIXES[rng.integers(len(COMMON_SUFFIXES))]
        while True:
            drawn = "".join(LETTERS[i] for i in rng.integers(0, 26, size=rng.integers(1, 4)))
            if drawn not in HELD_OUT_SUFFIXES:
                return drawn
    return ""


def apply(edits: list[tuple[str, str]], word: str) -> str:
    for name, argument in edits:
        word = EDITS[name][0](word, argument) if word else word
    return word
