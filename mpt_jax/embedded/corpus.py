"""Readers of the embedded text (``mpt_jax/embedded/data``).

==================  =============================  ==========================================
table               columns                        a row
==================  =============================  ==========================================
``inflection``      lemma, tag, form, root         ``walk, gerund, walking, walk``
``derivation``      base, suffix, derived, root    ``teach, er, teacher, teach``
``part_of_speech``  word, class, root              ``quickly, adverb, quick``
``noun_kind``       word, kind, root               ``baker, person, bake``
``languages``       ISO 639-3 code, sentence       ``eng, everyone has the right to rest ...``
==================  =============================  ==========================================

The last column is the row's *key*.  A root names a family of words that inflection or derivation
connects (``teach``, ``teaching``, ``teacher``, ``teachers``); a family is wholly pretraining's or
wholly the demo's, so that no word of the one ever occurs in the other.
"""

import functools
import gzip
from importlib import resources

from mpt_jax.embedded import held_out

COLUMNS = {
    "inflection": ("lemma", "tag", "form", "root"),
    "derivation": ("base", "suffix", "derived", "root"),
    "part_of_speech": ("word", "class", "root"),
    "noun_kind": ("word", "kind", "root"),
    "languages": ("code", "sentence"),
}

_HELD_OUT = {
    "inflection": (1, held_out.HELD_OUT_INFLECTIONS),
    "derivation": (1, held_out.HELD_OUT_DERIVATIONS),
    "languages": (0, held_out.HELD_OUT_LANGUAGES),
}


@functools.cache
def read(name: str) -> list[tuple[str, ...]]:
    """All rows of one table, in file order (see the module's table for the columns).

    Raises:
      ValueError: there is no such table.
    """
    if name not in COLUMNS:
        raise ValueError(f"no embedded table {name!r}; there are {', '.join(COLUMNS)}")
    packed = resources.files("mpt_jax.embedded").joinpath("data", f"{name}.tsv.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines]


@functools.cache
def rows(name: str, part: str) -> list[tuple[str, ...]]:
    """The rows that ``"pretraining"`` may see, or the rows kept for the ``"demo"``.

    Pretraining's rows have a key on its side *and* belong to no family held out; the demo's rows
    are all those with a key on the other side, of every family.  (Rows with pretraining's key in a
    held-out family are in neither.)

    Raises:
      ValueError: there is no such table or part.
    """
    if part == "demo":
        return [row for row in read(name) if not held_out.is_pretraining(row[-1])]
    if part != "pretraining":
        raise ValueError(f"part must be 'pretraining' or 'demo', not {part!r}")
    column, families = _HELD_OUT.get(name, (0, frozenset()))
    return [
        row
        for row in read(name)
        if held_out.is_pretraining(row[-1]) and row[column] not in families
    ]
