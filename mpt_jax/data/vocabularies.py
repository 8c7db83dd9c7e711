"""Text to token ids and back, without TensorFlow; the ids are those of seqio's vocabularies.

Id 0 is padding and id 1 is the end of a sequence (EOS) everywhere in the program, as in every T5.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mpt_jax.errors import UserError

PAD_ID = 0
EOS_ID = 1


@runtime_checkable
class Vocabulary(Protocol):
    """What the program needs of a vocabulary. `decode` stops at the first EOS."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, extra ids included."""
        ...

    @property
    def eos_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def unk_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without EOS."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` up to the first EOS."""
        ...

    def fingerprint(self) -> str:
        """Equal for two vocabularies exactly if they read and write text with the same ids."""
        ...

    def pieces_fingerprint(self) -> str:
        """Equal if the ids stand for the same pieces, cut from text by the same scores.

        It leaves out what a model file and a `tokenizer.json` of one vocabulary disagree about:
        spaces, and special tokens spelt out in a text.
        """
        ...

    def accepts(self, other: Vocabulary) -> bool:
        """Whether ids that `other` made mean the same to a model that has this vocabulary."""
        ...

    def describe(self) -> str:
        """Kind, size and fingerprint, for messages."""
        ...


class VocabularyBase:
    """The half of a vocabulary that all kinds share."""

    eos_id = EOS_ID
    pad_id = PAD_ID
    unk_id = 2

    def until_eos(self, ids: Iterable[int], known: int) -> list[int]:
        """`ids` with those from `known` up made unknown, cut behind the first EOS (as seqio)."""
        clean = [self.unk_id if i >= known else int(i) for i in ids]
        return clean[: clean.index(EOS_ID) + 1] if EOS_ID in clean else clean


class ByteVocabulary(VocabularyBase):
    """UTF-8 bytes from id 3 up, as `seqio.ByteVocabulary` (ByT5, Xue et al. 2022).

    transformers' `ByT5Tokenizer` gives the same ids, except where a text spells out a special token:
    it makes one id of `</s>`, `<pad>`, `<unk>` (and drops the spaces beside them) and of
    `<extra_id_7>` (259 + 7), which here, as in seqio and in ByT5's pretraining, are bytes like any.

    Args:
        extra_ids: ids at the top that stand for no text (ByT5 has 125, which makes 384 in all).
    """

    _SPECIAL = 3  # padding, EOS, unknown
    _KNOWN = 256 + _SPECIAL

    def __init__(self, extra_ids: int = 125):
        self.extra_ids = extra_ids

    @property
    def vocab_size(self) -> int:
        return self._KNOWN + self.extra_ids

    def encode(self, text: str) -> list[int]:
        return [byte + self._SPECIAL for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first EOS; ids that are no bytes and broken UTF-8 are left out."""
        clean = self.until_eos(ids, self._KNOWN)
        content = bytes(i - self._SPECIAL for i in clean if i >= self._SPECIAL)
        return content.decode("utf-8", errors="ignore")

    def fingerprint(self) -> str:
        # Extra ids stand for no text, so seqio.ByteVocabulary() serves a ByT5 of 384 ids as well.
        return hashlib.sha256(b"byte").hexdigest()

    def pieces_fingerprint(self) -> str:
        return self.fingerprint()

    def accepts(self, other: Vocabulary) -> bool:
        return other.fingerprint() == self.fingerprint() and other.vocab_size <= self.vocab_size

    def describe(self) -> str:
        return f"byte vocabulary ({self.vocab_size} ids, fingerprint {self.fingerprint()[:12]})"


class SentencePieceVocabulary(VocabularyBase):
    """A SentencePiece model, as `seqio.SentencePieceVocabulary`.

    Args:
        model: path of the `.model` file, or its bytes.
        extra_ids: sentinels put at the top of the vocabulary. T5 numbers them downwards:
            `<extra_id_0>` is the last id.
        reverse_extra_ids: False numbers them upwards instead.
        normalizer_overrides: a serialised `NormalizerSpec` merged into the model's own.

    Raises:
        UserError: the file is no SentencePiece model, or its padding and EOS ids are not 0 and 1.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        extra_ids: int = 0,
        *,
        reverse_extra_ids: bool = True,
        normalizer_overrides: bytes | None = None,
    ):
        import sentencepiece

        # By name, since the generated module has its classes at run time only.
        pb2: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
        self.extra_ids = extra_ids
        self.path = None if isinstance(model, bytes) else Path(model)
        self._name = "bytes" if isinstance(model, bytes) else str(model)
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        try:
            proto = pb2.ModelProto.FromString(content)
        except Exception as error:  # protobuf's DecodeError moves between its versions
            raise self._no_model(error) from error
        numbers = range(extra_ids)
        for i in reversed(numbers) if reverse_extra_ids else numbers:
            proto.pieces.add(
                piece=f"▁<extra_id_{i}>",
                score=0.0,
                type=pb2.ModelProto.SentencePiece.USER_DEFINED,
            )
        if normalizer_overrides is not None:
            overrides = pb2.NormalizerSpec.FromString(normalizer_overrides)
            proto.normalizer_spec.MergeFrom(overrides)
            proto.denormalizer_spec.MergeFrom(overrides)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(proto.SerializeToString())
        except RuntimeError as error:
            raise self._no_model(error) from error
        check_special_ids(self._name, self._processor.pad_id(), self._processor.eos_id())
        self.unk_id = self._processor.unk_id()
        self._fingerprint = _sentencepiece_fingerprint(proto)
        self._pieces_fingerprint = pieces_fingerprint(
            proto.trainer_spec.model_type,
            ((piece.piece, piece.score) for piece in proto.pieces),
            proto.normalizer_spec.precompiled_charsmap,
        )

    def _no_model(self, error: Exception) -> UserError:
        return UserError(
            f"{self._name} is not a SentencePiece model, or not a whole one: {error}. Expected the "
            "`.model` file that the checkpoint came with (spiece.model or sentencepiece.model)."
        )

    @property
    def vocab_size(self) -> int:
        return self._processor.GetPieceSize()

    def encode(self, text: str) -> list[int]:
        return self._processor.EncodeAsIds(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.DecodeIds(self.until_eos(ids, self.vocab_size))

    def fingerprint(self) -> str:
        return self._fingerprint

    def pieces_fingerprint(self) -> str:
        return self._pieces_fingerprint

    def accepts(self, other: Vocabulary) -> bool:
        return other.fingerprint() == self._fingerprint

    def describe(self) -> str:
        return (
            f"SentencePiece vocabulary {self._name} ({self.vocab_size} ids, "
            f"{self.extra_ids} of them extra, fingerprint {self._fingerprint[:12]})"
        )


def _sentencepiece_fingerprint(proto: Any) -> str:
    """A hash of the pieces and the normaliser, not of the file.

    T5's vocabulary exists with its 100 sentinels inside the file and as a file of 32,000 pieces
    that they are added to; both read text alike and so have one fingerprint.
    """
    digest = hashlib.sha256(b"sentencepiece")
    digest.update(str(proto.trainer_spec.model_type).encode())
    for piece in proto.pieces:
        digest.update(f"{piece.piece}\0{piece.score!r}\0{piece.type}\n".encode())
    spec = proto.normalizer_spec
    flags = (spec.add_dummy_prefix, spec.remove_extra_whitespaces, spec.escape_whitespaces)
    digest.update(repr(flags).encode() + spec.precompiled_charsmap)
    return digest.hexdigest()


SENTINEL = re.compile(r"▁?(<extra_id_\d+>)")
UNIGRAM = 1  # in SentencePiece's enum of model types


def pieces_fingerprint(
    model_type: int, pieces: Iterable[tuple[str, float]], character_map: bytes
) -> str:
    """What `Vocabulary.pieces_fingerprint` promises.

    Args:
        model_type: of SentencePiece's enum.
        pieces: text and score of each id; a score counts as the float32 that model files hold.
        character_map: SentencePiece's compiled normaliser, empty if there is none.
    """
    digest = hashlib.sha256(f"pieces of model type {model_type}\n".encode())
    for text, score in pieces:
        # seqio writes a sentinel with the mark of a word's start, Hugging Face without it.
        sentinel = SENTINEL.fullmatch(text)
        digest.update(f"{sentinel[1] if sentinel else text}\0{np.float32(score)}\n".encode())
    digest.update(character_map)
    return digest.hexdigest()


def check_special_ids(name: str, pad_id: int | None, eos_id: int | None) -> None:
    """Raises UserError unless padding and EOS have the ids that they have in every T5."""
    if (pad_id, eos_id) != (PAD_ID, EOS_ID):
        raise UserError(
            f"{name} has the (padding, EOS) ids ({pad_id}, {eos_id}); a T5 has (0, 1). This is the "
            "vocabulary of another kind of model; SentencePiece trains one for T5 with "
            "--pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1."
        )


def from_seqio(vocabulary: Any) -> Vocabulary:
    """The vocabulary here that reads and writes text as seqio's does.

    Args:
        vocabulary: a `seqio.ByteVocabulary` or `seqio.SentencePieceVocabulary`.

    Raises:
        UserError: any other kind.
    """
    import seqio

    if isinstance(vocabulary, seqio.ByteVocabulary):
        return ByteVocabulary(vocabulary.extra_ids)
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        import tensorflow as tf

        path = vocabulary.sentencepiece_model_file
        state = vocabulary.__getstate__()
        overrides = state["_normalizer_spec_overrides"]
        local = Path(path)
        return SentencePieceVocabulary(
            # seqio's usual paths are gs:// ones, which only TensorFlow's file layer reads.
            local if local.is_file() else tf.io.gfile.GFile(path, "rb").read(),
            vocabulary.extra_ids,
            reverse_extra_ids=state["_reverse_extra_ids"],
            normalizer_overrides=overrides.SerializeToString() if overrides else None,
        )
    raise UserError(
        f"Vocabulary {type(vocabulary).__name__} of a task is not supported. Use "
        "seqio.SentencePieceVocabulary or seqio.ByteVocabulary in its output features."
    )
