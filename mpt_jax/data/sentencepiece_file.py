"""A SentencePiece `.model` out of a `tokenizer.json`: transformers 5 saves none, seqio reads no other."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Any

from mpt_jax.data.tokenizer_json import Contents, TokenizerJsonVocabulary, read_contents
from mpt_jax.data.vocabularies import (
    EOS_ID,
    PAD_ID,
    SENTINEL,
    UNIGRAM,
    SentencePieceVocabulary,
)
from mpt_jax.errors import UserError

_USER_DEFINED = "USER_DEFINED"
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def sentencepiece_model(vocabulary: TokenizerJsonVocabulary) -> tuple[bytes, int]:
    """The model file that transformers made a `tokenizer.json` from, as far as that file tells.

    It has the pieces, scores and compiled normaliser of the original, and so its fingerprint, if
    the original was trained with SentencePiece's default flags for spaces, as those of T5, mT5 and
    umT5 were. A `tokenizer.json` does not hold these flags, nor which pieces are marked as unused.

    Sentinels in T5's order at the top are left out, as in T5's own file, since seqio adds them;
    others stay inside. Some texts have other ids than by the `tokenizer.json`:
    TokenizerJsonVocabulary lists them. A token that a user added is in the model too, but
    SentencePiece makes a piece of its own of the space before it.

    Without a compiled normaliser in the file, the model has none either: so it reads texts as the
    file does. transformers makes such a file of a model that was trained with
    `--normalization_rule_name=identity`.

    Args:
        vocabulary: of the file.

    Returns:
        The content of a `.model` file, and the `extra_ids` that seqio has to be given with it.

    Raises:
        UserError: no SentencePiece model reads texts as the file does (other steps in its normaliser
            or in cutting words, added tokens with a space), or SentencePiece does not take the
            pieces.
    """
    # By name, since the generated module has its classes at run time only.
    pb2: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    contents = read_contents(vocabulary.path)
    _check_steps(vocabulary, contents.described)
    if contents.unk_id in (PAD_ID, EOS_ID):
        raise _impossible(vocabulary, "its unknown piece is also padding or the end of a text")
    extra_ids = _sentinels_at_the_top(contents.pieces)
    inside = len(contents.pieces) - extra_ids

    proto = pb2.ModelProto()
    for text, score, kind in _typed(contents, inside):
        if kind == _USER_DEFINED and " " in text:
            raise _impossible(
                vocabulary, f"SentencePiece finds no added token with a space, as is {text!r}"
            )
        proto.pieces.add(
            piece=text, score=score, type=pb2.ModelProto.SentencePiece.Type.Value(kind)
        )
    names = [piece.piece for piece in proto.pieces]
    trainer = proto.trainer_spec
    trainer.model_type, trainer.vocab_size = UNIGRAM, inside
    trainer.byte_fallback = _BYTES.issubset(names)
    trainer.pad_id, trainer.eos_id, trainer.unk_id = PAD_ID, EOS_ID, contents.unk_id
    trainer.pad_piece, trainer.eos_piece = names[PAD_ID], names[EOS_ID]
    trainer.unk_piece = names[contents.unk_id]
    trainer.bos_id = names.index(trainer.bos_piece) if trainer.bos_piece in names else -1
    normalizer = proto.normalizer_spec
    normalizer.precompiled_charsmap = contents.character_map
    # What transformers' reading comes to; also SentencePiece's defaults.
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = True
    normalizer.escape_whitespaces = True

    content = proto.SerializeToString(deterministic=True)
    try:
        rebuilt = SentencePieceVocabulary(content, extra_ids)
    except UserError as error:
        raise _impossible(vocabulary, f"SentencePiece refuses it ({error.__cause__})") from error
    if not vocabulary.accepts(rebuilt):
        raise _impossible(vocabulary, "it has changed since it was opened")
    return content, extra_ids


def _sentinels_at_the_top(pieces: list[tuple[str, float]]) -> int:
    """How many of the last pieces are those that seqio puts there: <extra_id_0> last, and so on."""
    wanted = ((f"<extra_id_{i}>", 0.0) for i in itertools.count())
    pairs = zip(reversed(pieces), wanted, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _typed(contents: Contents, inside: int) -> Iterator[tuple[str, float, str]]:
    """Text, score and type of each piece of the model; the types by their names in SentencePiece."""
    has_bytes = _BYTES.issubset(text for text, _ in contents.pieces)
    for i, (text, score) in enumerate(contents.pieces[:inside]):
        # Only pieces that nobody trained have the score 0: a trained piece that was made an added
        # token later is still cut from texts as before.
        added = i in contents.added and score == 0.0
        if i == contents.unk_id:
            yield text, score, "UNKNOWN"
        elif i in (PAD_ID, EOS_ID):
            yield text, score, "CONTROL"
        elif has_bytes and text in _BYTES:
            yield text, score, "BYTE"
        elif added and i in contents.special and SENTINEL.fullmatch(text):
            # transformers' own, which it writes without the mark of a word's start; those of a
            # model file are not special.
            yield f"▁{text.removeprefix('▁')}", score, _USER_DEFINED
        elif added and i in contents.special and i < contents.own:
            yield text, score, "CONTROL"
        else:
            yield text, score, _USER_DEFINED if added else "NORMAL"


def _check_steps(vocabulary: TokenizerJsonVocabulary, described: dict[str, Any]) -> None:
    """Raises UserError unless a text is normalised and cut as a SentencePiece model does it."""
    cuts = _steps(described.get("pre_tokenizer"), "pretokenizers")
    for step in _steps(described.get("normalizer"), "normalizers") + cuts:
        if not _is_usual(step):
            raise _impossible(
                vocabulary, f"it has the step {step['type']}, which no such model has"
            )
    if not any(step["type"] == "Metaspace" for step in cuts):
        raise _impossible(vocabulary, "it does not mark the beginnings of words with ▁")


def _steps(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return step[inner] if step["type"] == "Sequence" else [step]


def _is_usual(step: dict[str, Any]) -> bool:
    """Whether transformers writes this step for T5s; the types are those of the tokenizers library."""
    match step:
        case {"type": "Precompiled" | "WhitespaceSplit"} | {"type": "Strip", "strip_right": True}:
            return True
        case {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " " | "▁"}:
            return True
        case {"type": "Metaspace", "replacement": "▁"}:
            # Releases differ in how they spell that a text begins with a mark.
            return step.get("prepend_scheme") != "never" and step.get("add_prefix_space", True)
    return False


def _impossible(vocabulary: TokenizerJsonVocabulary, why: str) -> UserError:
    return UserError(
        f"{vocabulary.path} cannot be written as a SentencePiece model: {why}. Copy spiece.model from "
        "where the model is from, if it has one; without it the vocabulary serves for everything but "
        "the registration of seqio tasks."
    )
