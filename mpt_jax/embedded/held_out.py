"""What pretraining of the embedded backbone may see, and what is kept for the demonstration.

Two walls stand between them:

- *Words and sentences.*  Every row of the embedded text has a key (the root of its word family,
  or the sentence); :func:`is_pretraining` sends about 70 % of the keys to pretraining.  The rest
  is the demo's.
- *Whole families.*  What this module lists is absent from pretraining, whatever the key.
"""

import hashlib

PRETRAINING_SHARE = 0.7

#: Inflections that pretraining never sees, neither lemma -> form nor form -> lemma.
HELD_OUT_INFLECTIONS = frozenset({"past", "participle", "superlative"})

#: Derivation suffixes that pretraining never sees.
HELD_OUT_DERIVATIONS = frozenset({"ness", "ment"})

#: ISO 639-3 codes of languages that pretraining never sees; all but Hungarian have seen relatives.
HELD_OUT_LANGUAGES = frozenset(
    {
        "ceb",  # Cebuano: Tagalog and Hiligaynon are seen
        "ces",  # Czech: Slovak and Polish
        "fin",  # Finnish: Estonian
        "gle",  # Irish: Scottish Gaelic
        "haw",  # Hawaiian: Maori and Samoan
        "hun",  # Hungarian
        "ind",  # Indonesian: Javanese and Sundanese
        "lit",  # Lithuanian: Latvian
        "por",  # Portuguese: Spanish and Galician
        "quy",  # Ayacucho Quechua: Cusco Quechua
        "swe",  # Swedish: Danish and Norwegian
        "tur",  # Turkish: Azerbaijani
        "yor",  # Yoruba: other languages of the Gulf of Guinea
        "zul",  # Zulu: Xhosa and Swati
    }
)


def stable_fraction(key: str, purpose: str = "") -> float:
    """A number in [0, 1) that depends on key and purpose only: the same on every machine."""
    digest = hashlib.sha1(f"{purpose}:{key}".encode() if purpose else key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_pretraining(key: str) -> bool:
    """Whether pretraining may use rows with this key (root of a word family, or sentence)."""
    return stable_fraction(key) < PRETRAINING_SHARE
