"""Finding the vocabulary that belongs to a backbone."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from mpt_jax.data.sentencepiece_file import sentencepiece_model
from mpt_jax.data.tokenizer_json import TokenizerJsonVocabulary
from mpt_jax.data.vocabularies import (
    SENTINEL,
    ByteVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)
from mpt_jax.errors import UserError
from mpt_jax.fetched import backbone, with_neighbours
from mpt_jax.places import is_address

BYTES = "bytes"
_SENTENCEPIECE = ("spiece.model", "sentencepiece.model")  # Hugging Face's name, T5X's name
_TOKENIZER_JSON = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_USUAL_SENTINELS = 100  # T5's; they lie above the pieces
_MOST_SENTINELS = 10_000
# All that transformers may keep of a vocabulary in a model's folder.
_FILES = (
    *_SENTENCEPIECE,
    _TOKENIZER_JSON,
    _SETTINGS,
    "special_tokens_map.json",
    "added_tokens.json",
)
_T5X_CHECKPOINT = re.compile(r"checkpoint_\d+")


def open_vocabulary(name: str) -> Vocabulary:
    """The vocabulary that a user names.

    Args:
        name: a SentencePiece `.model` file, a `tokenizer.json`, a folder that holds either, or
            "bytes" (ByT5).

    Raises:
        UserError: there is no such thing, or it is damaged.
    """
    if name == BYTES:
        return ByteVocabulary()
    path = _here(name)
    if name and path.is_dir():
        return vocabulary_of(path)
    if path.is_file() and path.suffix == ".model":
        return _sentencepiece(path)
    if path.is_file() and path.suffix == ".json":
        return _tokenizer_json(path)
    raise UserError(
        f"The vocabulary is named as {name!r}; expected the path of a .model file, of a "
        "tokenizer.json, of a folder that holds one, or 'bytes'."
    )


def _here(name: str) -> Path:
    if is_address(name) and name.endswith((".model", ".json")):
        return with_neighbours(name, _FILES, "vocabulary")
    return backbone(name, "vocabulary")


def vocabulary_of(folder: Path) -> Vocabulary:
    """The vocabulary that lies beside a backbone's weights.

    Looked for in this order: `spiece.model`, `sentencepiece.model`, `tokenizer.json`, and a
    `tokenizer_config.json` that names ByT5's tokenizer. Behind a T5X `checkpoint_<step>` the folder
    that holds it is searched too.

    Raises:
        UserError: the folder holds none that is known, or a damaged one.
    """
    folders = _searched(folder)
    for place in folders:
        for name in _SENTENCEPIECE:
            if (model := place / name).is_file():
                return _sentencepiece(model)
        if (file := place / _TOKENIZER_JSON).is_file():
            return _tokenizer_json(file)
        settings = _settings(place)
        if settings.get("tokenizer_class") == "ByT5Tokenizer":
            return ByteVocabulary(_extra_ids(settings, place, ByteVocabulary().extra_ids))
    raise UserError(
        f"{' and '.join(map(str, folders))} holds no vocabulary: expected spiece.model or "
        "sentencepiece.model (SentencePiece), tokenizer.json (Hugging Face), or a "
        "tokenizer_config.json that names ByT5Tokenizer (bytes). Copy it from where the model is "
        "from, or name it: BackboneSource.vocabulary = '<path>' or 'bytes' (--vocabulary of mpt convert)."
    )


def files_of(name: str) -> dict[str, bytes]:
    """The files of a vocabulary, under the names that they have in a backbone's folder.

    Where there is only a `tokenizer.json`, a `spiece.model` is made from it if that can be done: seqio
    registers tasks with nothing else.

    Args:
        name: as for `open_vocabulary`; a T5X `checkpoint_<step>` counts as such a folder.

    Raises:
        UserError: see `open_vocabulary`.
    """
    vocabulary = open_vocabulary(name)  # a damaged one is not worth a copy
    if name == BYTES:
        settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": ByteVocabulary().extra_ids}
        return {_SETTINGS: (json.dumps(settings, indent=2) + "\n").encode()}
    path = _here(name)
    if path.is_file():
        own = _SENTENCEPIECE[0] if path.suffix == ".model" else _TOKENIZER_JSON
        files = _contents(path.parent, (_SETTINGS,)) | {own: path.read_bytes()}
    else:
        found = (_contents(place, _FILES) for place in _searched(path))
        files = next(files for files in found if files)
    return files | _made_sentencepiece(vocabulary, files)


def _made_sentencepiece(vocabulary: Vocabulary, files: dict[str, bytes]) -> dict[str, bytes]:
    """The `spiece.model` of a `tokenizer.json`, and settings that say how many sentinels come on top."""
    if not isinstance(vocabulary, TokenizerJsonVocabulary):
        return {}
    try:
        model, extra_ids = sentencepiece_model(vocabulary)
    except UserError as error:
        warnings.warn(f"No spiece.model is made: {error}", stacklevel=3)
        return {}
    settings = json.loads(files.get(_SETTINGS, b"{}")) | {"extra_ids": extra_ids}
    return {
        _SENTENCEPIECE[0]: model,
        _SETTINGS: (json.dumps(settings, indent=2) + "\n").encode(),
    }


def _contents(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _searched(folder: Path) -> list[Path]:
    resolved = folder.resolve()
    return [folder, resolved.parent] if _T5X_CHECKPOINT.fullmatch(resolved.name) else [folder]


def _sentencepiece(model: Path) -> Vocabulary:
    # mT5's file, and T5X's with 100extra in their name, hold the sentinels themselves.
    if b"<extra_id_0>" in model.read_bytes():
        return SentencePieceVocabulary(model)
    settings = _settings(model.parent)
    return SentencePieceVocabulary(model, _extra_ids(settings, model.parent, _USUAL_SENTINELS))


def _tokenizer_json(path: Path) -> Vocabulary:
    settings = _settings(path.parent)
    named = {
        role: _text(settings[role]) for role in ("pad_token", "eos_token") if settings.get(role)
    }
    return TokenizerJsonVocabulary(path, **named)


def _settings(folder: Path) -> dict[str, Any]:
    """What transformers keeps beside a vocabulary; empty without such a file."""
    path = folder / _SETTINGS
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON: {error}. Copy it again from where the model is from, or remove it."
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds a {type(settings).__name__}; expected a JSON object.")
    return settings


def _extra_ids(settings: dict[str, Any], folder: Path, default: int) -> int:
    """How many sentinels lie above the pieces.

    ByT5's tokenizer saves `extra_ids` as 0 and its sentinels by name, so names count first.
    """
    # The first is transformers 5's, the second 4's; the last is in both.
    for key in ("extra_special_tokens", "additional_special_tokens", "added_tokens_decoder"):
        tokens = settings.get(key)
        if isinstance(tokens, dict):
            tokens = list(tokens.values())
        listed = tokens if isinstance(tokens, list) else []
        if named := {text for token in listed if SENTINEL.fullmatch(text := _text(token))}:
            return len(named)
    number = settings.get("extra_ids", default)
    if type(number) is not int or not 0 <= number <= _MOST_SENTINELS:
        raise UserError(
            f"{folder / _SETTINGS}: extra_ids is {number!r}; expected the number of sentinels above "
            f"the pieces, 0 to {_MOST_SENTINELS} (T5 has {_USUAL_SENTINELS})."
        )
    return number


def _text(token: Any) -> str:
    """A token of tokenizer_config.json: its text, or a record with the text as 'content'."""
    return str(token["content"]) if isinstance(token, dict) and "content" in token else str(token)
