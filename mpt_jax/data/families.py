"""Families of tasks that are registered for a backbone, with its vocabulary, when a stage opens.

A user's own file registers tasks as it is imported, with a vocabulary that it names. What mpt_jax
registers by itself (the benchmark's data sets, a table of the user's) waits for the backbone, so that
one configuration serves every model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mpt_jax.data.sentencepiece_file import sentencepiece_model
from mpt_jax.data.tasks import import_seqio
from mpt_jax.data.tokenizer_json import TokenizerJsonVocabulary
from mpt_jax.data.vocabularies import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from mpt_jax.errors import UserError
from mpt_jax.whole_files import write_whole


@runtime_checkable
class TaskFamily(Protocol):
    """Tasks and mixtures under one configuration. Hashable: a frozen dataclass of plain values."""

    def register(self, vocabulary: Any) -> None:
        """Adds the tasks to seqio's registries.

        Args:
            vocabulary: seqio's, for inputs and targets.

        Raises:
            UserError: something in the configuration or the data is wrong.
        """
        ...

    def split_rules(self) -> Mapping[str, str]:
        """Task name -> rule of `mpt_jax.data.splits`, for tasks that do not have "official" splits."""
        ...


_registered: dict[
    TaskFamily, str
] = {}  # family -> the vocabulary's fingerprint; seqio's are global too


def register_families(
    families: Iterable[TaskFamily], vocabulary: Vocabulary, cache: Path | None = None
) -> None:
    """Registers each family once in this process.

    Args:
        families: which.
        vocabulary: the backbone's.
        cache: folder for a `.model` file that has to be made; None for the user's.

    Raises:
        UserError: a family's own, or the family is registered with another vocabulary already.
    """
    fingerprint = vocabulary.fingerprint()
    for family in families:
        if (before := _registered.get(family)) is None:
            family.register(to_seqio(vocabulary, cache))
            _registered[family] = fingerprint
        elif before != fingerprint:
            raise UserError(
                f"The tasks of {family} are registered in this process with another vocabulary "
                f"(fingerprint {before[:12]}) than {vocabulary.describe()}; start a new process."
            )


def to_seqio(vocabulary: Vocabulary, cache: Path | None = None) -> Any:
    """seqio's vocabulary with the same ids: the inverse of `vocabularies.from_seqio`.

    seqio reads SentencePiece from a `.model` file only; one that is made from a `tokenizer.json` is
    kept in `cache`.

    Raises:
        UserError: no such file can be made.
    """
    seqio = import_seqio()
    if isinstance(vocabulary, ByteVocabulary):
        return seqio.ByteVocabulary(vocabulary.extra_ids)
    if isinstance(vocabulary, SentencePieceVocabulary) and vocabulary.path is not None:
        return seqio.SentencePieceVocabulary(str(vocabulary.path), vocabulary.extra_ids)
    if isinstance(vocabulary, TokenizerJsonVocabulary):
        content, extra_ids = sentencepiece_model(vocabulary)
        path = (cache or _user_cache()) / f"{vocabulary.fingerprint()[:16]}.model"
        write_whole(path, content)
        return seqio.SentencePieceVocabulary(str(path), extra_ids)
    raise UserError(f"{vocabulary.describe()} has no file that seqio could read.")


def _user_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mpt_jax" / "vocabularies"
