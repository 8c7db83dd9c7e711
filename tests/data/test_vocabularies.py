import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.data.tasks import import_seqio
from mpt_jax.data.vocabularies import ByteVocabulary, SentencePieceVocabulary, from_seqio
from mpt_jax.errors import UserError

SENTENCES = [
    "the cat sat on the mat", "a dog ran in the park", "we teach prompts to a frozen model",
    "prompts steer the model", "the model reads the cat", "Größe und Ärger über Öl",
] * 5  # fmt: skip


def train_sentencepiece(folder, name, **flags):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / name),
        vocab_size=40,
        minloglevel=2,
        **({"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | flags),
    )
    return folder / f"{name}.model"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return train_sentencepiece(tmp_path_factory.mktemp("spm"), "tiny")


@pytest.fixture(scope="module")
def pairs(model_file):
    """(ours, seqio's) of every kind."""
    seqio = import_seqio()
    path = str(model_file)
    return [
        (ByteVocabulary(125), seqio.ByteVocabulary(125)),
        (ByteVocabulary(0), seqio.ByteVocabulary()),
        (SentencePieceVocabulary(path), seqio.SentencePieceVocabulary(path)),
        (SentencePieceVocabulary(path, 10), seqio.SentencePieceVocabulary(path, 10)),
        (
            SentencePieceVocabulary(path, 10, reverse_extra_ids=False),
            seqio.SentencePieceVocabulary(path, 10, reverse_extra_ids=False),
        ),
    ]


def test_sizes_and_special_ids_equal_seqio(pairs):
    for ours, theirs in pairs:
        assert ours.vocab_size == theirs.vocab_size
        assert (ours.pad_id, ours.eos_id, ours.unk_id) == (0, theirs.eos_id, theirs.unk_id)
    assert ByteVocabulary().vocab_size == 384


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30))
def test_encoding_equals_seqio(pairs, text):
    for ours, theirs in pairs:
        ids = ours.encode(text)
        assert ids == list(theirs.encode(text))
        assert ours.decode(ids) == theirs.decode(ids)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 500), max_size=20))
def test_decoding_any_ids_equals_seqio(pairs, ids):
    for ours, theirs in pairs:
        assert ours.decode(ids) == theirs.decode(ids)


def test_sentinels_lie_at_the_top_from_the_last_id_downwards(model_file):
    vocabulary = SentencePieceVocabulary(model_file, extra_ids=10)
    assert vocabulary.encode("<extra_id_0>") == [vocabulary.vocab_size - 1]
    assert vocabulary.encode("<extra_id_9>") == [vocabulary.vocab_size - 10]


def test_decoding_stops_at_eos_and_drops_what_is_no_text():
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode("ab")
    assert vocabulary.decode([*ids, 0, 300, 5000, *ids, 1, *ids]) == "abab"


def test_from_seqio_reads_text_alike(pairs):
    for ours, theirs in pairs:
        assert from_seqio(theirs).fingerprint() == ours.fingerprint()


def test_from_seqio_keeps_normalizer_overrides(model_file):
    seqio = import_seqio()
    from sentencepiece import sentencepiece_model_pb2 as pb2

    spec = pb2.NormalizerSpec(remove_extra_whitespaces=False)
    theirs = seqio.SentencePieceVocabulary(str(model_file), normalizer_spec_overrides=spec)
    ours = from_seqio(theirs)
    assert ours.encode("the   cat") == theirs.encode("the   cat")
    assert ours.encode("the   cat") != SentencePieceVocabulary(model_file).encode("the   cat")
    assert ours.fingerprint() != SentencePieceVocabulary(model_file).fingerprint()


def test_from_seqio_names_what_it_does_not_know():
    seqio = import_seqio()
    with pytest.raises(UserError, match=r"PassThroughVocabulary.*Use seqio.SentencePiece"):
        from_seqio(seqio.PassThroughVocabulary(10))


def test_fingerprints_differ_by_kind_content_and_sentinels(model_file, tmp_path):
    other = train_sentencepiece(tmp_path, "other", model_type="bpe")
    prints = [
        ByteVocabulary().fingerprint(),
        SentencePieceVocabulary(model_file).fingerprint(),
        SentencePieceVocabulary(model_file, 10).fingerprint(),
        SentencePieceVocabulary(model_file, 10, reverse_extra_ids=False).fingerprint(),
        SentencePieceVocabulary(other).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)


def test_a_file_that_holds_its_sentinels_is_the_same_vocabulary(model_file):
    from sentencepiece import sentencepiece_model_pb2 as pb2

    proto = pb2.ModelProto.FromString(model_file.read_bytes())
    for i in (1, 0):
        proto.pieces.add(piece=f"▁<extra_id_{i}>", score=0.0, type=4)
    inside = SentencePieceVocabulary(proto.SerializeToString())
    assert inside.fingerprint() == SentencePieceVocabulary(model_file, 2).fingerprint()


def test_fingerprints_stay_what_prompt_files_and_stores_say():
    model = Path(__file__).parent / "reference" / "spiece_without_map.model"
    vocabularies = {
        "1c31626f568a": ByteVocabulary(),
        "72b89a170965": SentencePieceVocabulary(model),
        "0276b74f7fbb": SentencePieceVocabulary(model, 100),
    }
    for start, vocabulary in vocabularies.items():
        assert vocabulary.fingerprint().startswith(start)


def test_an_unknown_id_of_its_own_is_kept(tmp_path):
    vocabulary = SentencePieceVocabulary(train_sentencepiece(tmp_path, "umt5", bos_id=2, unk_id=3))
    assert vocabulary.unk_id == 3
    assert vocabulary.decode([10_000]) == vocabulary.decode([3]) == " ⁇ "


def test_pickled_vocabularies_still_read(model_file):
    vocabulary = pickle.loads(pickle.dumps(SentencePieceVocabulary(model_file, 3)))
    assert vocabulary.decode(vocabulary.encode("the cat")) == "the cat"


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    path = train_sentencepiece(tmp_path, "wrong", pad_id=1, eos_id=0)
    with pytest.raises(UserError, match=r"\(padding, EOS\) ids \(1, 0\); a T5 has \(0, 1\)"):
        SentencePieceVocabulary(path)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_text("not a model")
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        SentencePieceVocabulary(path)
