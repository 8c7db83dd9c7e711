"""A T5 vocabulary in Hugging Face's form, `tokenizer.json`, which is what transformers 5 saves."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpt_jax.data.vocabularies import (
    SENTINEL,
    UNIGRAM,
    Vocabulary,
    VocabularyBase,
    check_special_ids,
    pieces_fingerprint,
)
from mpt_jax.errors import UserError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_UNKNOWN_TEXT = " ⁇ "  # SentencePiece writes an unknown piece so
_WORD_START = "▁"


class TokenizerJsonVocabulary(VocabularyBase):
    """The Unigram model of a `tokenizer.json`, run by the `tokenizers` library.

    `encode` gives the ids of transformers on the same file, without EOS. A SentencePiece model of
    the same vocabulary, read by seqio, gives the same ids but for these texts:

    - a special token spelt out (`</s>`, `<pad>`, `<unk>`) is its id here, plain characters there;
    - `<extra_id_0>` is a sentinel anywhere here, only at the start of a word there; what stands
      behind it without a space begins a new word here (in files of transformers 5);
    - U+0085 is a space here (in files of transformers 4 at the end of a text), a character there;
    - vocabularies with byte pieces (mT5, umT5): these files mostly say `byte_fallback: false`, so
      that a character without a piece is unknown here, and bytes there;
    - model files without a normaliser, or that keep runs of spaces: transformers turns all white
      space into single spaces.

    transformers 5 reads a T5's or mT5's `tokenizer.json` as if it had written it itself, whatever
    the file says; here, as in transformers 4, the file counts. Files that 5 has saved, and those of
    umT5, read the same either way.

    `decode` writes what seqio writes, so that scores do not depend on the form of the file; byte
    pieces that are no UTF-8 become U+FFFD.

    Args:
        path: the file.
        pad_token, eos_token: the pieces that the folder's `tokenizer_config.json` names so.

    Raises:
        UserError: not a `tokenizer.json`, not Unigram (BPE, WordPiece), damaged, or its padding and
            EOS ids are not 0 and 1.
    """

    def __init__(self, path: str | Path, pad_token: str = "<pad>", eos_token: str = "</s>"):
        self.path = Path(path)
        content = read_contents(self.path)
        texts = [text for text, _ in content.pieces]
        ids = {text: i for i, text in enumerate(texts)}
        check_special_ids(str(self.path), ids.get(pad_token), ids.get(eos_token))
        self._tokenizer = content.tokenizer
        # The file may ask for both; rows are cut and padded elsewhere.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.unk_id = content.unk_id
        self.extra_ids = sum(SENTINEL.fullmatch(text) is not None for text in texts)
        written = _written(texts, content.special, self.unk_id)
        self._first, self._later = zip(*written, strict=True)
        self._has_map = bool(content.character_map)
        self._pieces = pieces_fingerprint(UNIGRAM, content.pieces, content.character_map)
        described = content.described
        steps = [described.get(step) for step in ("normalizer", "pre_tokenizer", "added_tokens")]
        reading = json.dumps([self._pieces, described["model"].get("byte_fallback"), *steps])
        self._fingerprint = hashlib.sha256(f"tokenizer.json {reading}".encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        return len(self._first)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        content = b""
        for i in self.until_eos(ids, self.vocab_size):
            content += self._later[i] if content else self._first[i]
        return content.decode("utf-8", errors="replace")

    def fingerprint(self) -> str:
        return self._fingerprint

    def pieces_fingerprint(self) -> str:
        return self._pieces

    def accepts(self, other: Vocabulary) -> bool:
        """Whether the pieces are the same: a SentencePiece model of them made the same ids."""
        return other.pieces_fingerprint() == self._pieces

    def describe(self) -> str:
        no_map = "" if self._has_map else "no normaliser of SentencePiece, "
        return (
            f"Hugging Face vocabulary {self.path} ({self.vocab_size} ids, {self.extra_ids} of them "
            f"extra, {no_map}fingerprint {self._fingerprint[:12]})"
        )


@dataclass(frozen=True)
class Contents:
    """What a `tokenizer.json` says.

    Attributes:
        described: the file, parsed.
        tokenizer: the library's reader of it.
        pieces: text and score of each id; tokens that were added to the model come last.
        own: number of pieces that are in the model itself.
        added: ids of the tokens that a text may spell out, whether in the model or not.
        special: ids of those among them that are left out of a decoded text.
        character_map: SentencePiece's compiled normaliser, empty if there is none.
    """

    described: dict[str, Any]
    tokenizer: Any
    pieces: list[tuple[str, float]]
    own: int
    added: frozenset[int]
    special: frozenset[int]
    character_map: bytes

    @property
    def unk_id(self) -> int:
        return self.described["model"]["unk_id"]


def read_contents(path: Path) -> Contents:
    """Reads a `tokenizer.json`.

    Raises:
        UserError: it is none, not Unigram, or damaged.
    """
    from tokenizers import Tokenizer

    content, described = _read(path)
    pieces = _pieces(described["model"], path)
    try:
        tokenizer = Tokenizer.from_str(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Nothing narrower: a panic of the library, as on a broken map, is no Exception.
        raise _damaged(path, str(error)) from error
    added = tokenizer.get_added_tokens_decoder()
    own = len(pieces)
    pieces += [(added[i].content, 0.0) for i in sorted(added) if i >= own]
    if len({text for text, _ in pieces}) < len(pieces):
        raise _damaged(path, "it has a piece twice")
    return Contents(
        described,
        tokenizer,
        pieces,
        own,
        added=frozenset(added),
        special=frozenset(i for i, token in added.items() if token.special),
        character_map=_character_map(described.get("normalizer")),
    )


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """The file's text, and the same parsed."""
    try:
        content = path.read_text(encoding="utf-8")
        described = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(described, dict) or not isinstance(described.get("model"), dict):
        raise _damaged(path, "it has no 'model'")
    return content, described


def _pieces(model: dict[str, Any], path: Path) -> list[tuple[str, float]]:
    """Text and score of each id of the model, in order."""
    if (kind := model.get("type", "Unigram")) != "Unigram":  # old files do not say it
        raise UserError(
            f"{path} holds a {kind} model; a T5 has a Unigram one. This is the vocabulary of another "
            "kind of model: copy tokenizer.json or spiece.model from where the weights are from."
        )
    if not isinstance(model.get("unk_id"), int):
        raise _damaged(path, "its model names no 'unk_id'")
    try:
        return [(str(text), float(score)) for text, score in model["vocab"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, "its 'vocab' is no list of pieces with scores") from error


def _character_map(normalizer: dict[str, Any] | None) -> bytes:
    """The compiled normaliser that the file took over from the SentencePiece model, or nothing."""
    steps = [normalizer, *normalizer.get("normalizers", [])] if normalizer else []
    for step in steps:
        if step["type"] == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"])
    return b""


def _written(texts: list[str], special: Set[int], unk_id: int) -> Iterator[tuple[bytes, bytes]]:
    """What each id adds to a decoded text, as seqio has it: at its beginning, and further on."""
    are_bytes = "<0x00>" in texts and "<0xFF>" in texts
    for i, text in enumerate(texts):
        if i == unk_id:
            yield (_UNKNOWN_TEXT.encode(),) * 2
        elif sentinel := SENTINEL.fullmatch(text):
            yield sentinel[1].encode(), f" {sentinel[1]}".encode()
        elif i in special:
            yield b"", b""
        elif are_bytes and (byte := _BYTE.fullmatch(text)):
            yield (bytes([int(byte[1], 16)]),) * 2
        else:
            begun = text.removeprefix(_WORD_START)
            yield begun.replace(_WORD_START, " ").encode(), text.replace(_WORD_START, " ").encode()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} cannot be read as a vocabulary: {what}. Copy tokenizer.json again from where the "
        "model is from, or put its spiece.model beside it, which is preferred."
    )
