import dataclasses

import pytest

from mpt_jax.data import families
from mpt_jax.data.families import TaskFamily, register_families, to_seqio
from mpt_jax.data.vocabularies import ByteVocabulary, SentencePieceVocabulary, from_seqio
from mpt_jax.data.vocabulary_files import vocabulary_of
from mpt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Family:
    name: str
    seen: list = dataclasses.field(default_factory=list, hash=False, compare=False)

    def register(self, vocabulary):
        self.seen.append(vocabulary)

    def split_rules(self):
        return {self.name: "mnli"}


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(families, "_registered", {})


def test_once_with_the_backbones_vocabulary():
    family = Family("a")
    assert isinstance(family, TaskFamily)
    register_families([family, Family("a"), Family("b")], ByteVocabulary())
    register_families([family], ByteVocabulary())
    assert len(family.seen) == 1
    assert from_seqio(family.seen[0]).fingerprint() == ByteVocabulary().fingerprint()


def test_another_vocabulary_needs_another_process(model_folder):
    register_families([Family("a")], ByteVocabulary())
    with pytest.raises(UserError, match="start a new process"):
        register_families([Family("a")], vocabulary_of(model_folder("t5")))


@pytest.mark.parametrize("form", ["spiece.model", "saved by 4", "saved by 5"])
@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_seqio_has_the_same_ids(model_folder, json_folder, tmp_path, family, form):
    folder = model_folder(family) if form == "spiece.model" else json_folder(family, form)
    ours = vocabulary_of(folder)
    theirs = to_seqio(ours, tmp_path)
    assert ours.accepts(from_seqio(theirs))
    assert theirs.vocab_size == ours.vocab_size
    assert list(theirs.encode("the cat")) == ours.encode("the cat")


def test_a_vocabulary_without_a_file(model_folder):
    content = (model_folder("t5") / "spiece.model").read_bytes()
    with pytest.raises(UserError, match="no file that seqio could read"):
        to_seqio(SentencePieceVocabulary(content))
