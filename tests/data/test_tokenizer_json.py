import copy
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.data.tasks import import_seqio
from mpt_jax.data.tokenizer_json import TokenizerJsonVocabulary
from mpt_jax.data.vocabularies import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from mpt_jax.data.vocabulary_files import vocabulary_of
from mpt_jax.errors import UserError

# As in the conftest beside this, which importlib mode does not let a test import.
FORMS = [(f, "saved by 5") for f in ("t5", "mt5")] + [
    (f, "saved by 4") for f in ("t5", "mt5", "umt5")
]
SENTINELS = {"t5": 100, "mt5": 100, "umt5": 300}
SPELT_OUT = ("</s>", "<pad>", "<unk>", "<s>", "<extra_id_")


@pytest.fixture(scope="module")
def vocabularies(json_folder):
    """By family and form: the vocabulary of transformers' file."""
    return {pair: vocabulary_of(json_folder(*pair)) for pair in FORMS}


@pytest.fixture(scope="module")
def models(model_folder):
    """By family: the vocabulary of the SentencePiece file."""
    return {family: vocabulary_of(model_folder(family)) for family in SENTINELS}


@pytest.fixture(scope="module")
def recorded(request):
    path = request.path.parent / "reference" / "vocabulary_ids.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize("pair", FORMS, ids=" ".join)
def test_ids_are_those_that_transformers_gave(vocabularies, recorded, pair):
    vocabulary = vocabularies[pair]
    for text, ids in zip(recorded["texts"], recorded[" ".join(pair)], strict=True):
        assert vocabulary.encode(text) == ids, repr(text)


def test_bytes_are_those_that_transformers_gave(recorded):
    for text, ids in zip(recorded["texts"], recorded["ByT5"], strict=True):
        if not any(word in text for word in SPELT_OUT):
            assert ByteVocabulary().encode(text) == ids, repr(text)


@pytest.mark.parametrize("pair", FORMS, ids=" ".join)
def test_sizes_and_special_ids(vocabularies, models, pair):
    vocabulary, model = vocabularies[pair], models[pair[0]]
    assert isinstance(vocabulary, Vocabulary)
    assert vocabulary.vocab_size == model.vocab_size
    assert vocabulary.extra_ids == SENTINELS[pair[0]]
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, model.unk_id)


def test_sentinels_have_the_ids_of_t5(vocabularies):
    vocabulary = vocabularies["t5", "saved by 5"]
    assert vocabulary.encode("<extra_id_0>") == [vocabulary.vocab_size - 1]
    assert vocabulary.encode("<extra_id_99>") == [vocabulary.vocab_size - 100]


characters = st.characters(exclude_categories=["Cs"])


@settings(deadline=None, max_examples=200)
@given(st.text(st.one_of(st.sampled_from("  \t\nabthe▁ﬁ東"), characters), max_size=30))
def test_a_text_reads_as_with_sentencepiece(vocabularies, models, text):
    if not any(odd in text for odd in (*SPELT_OUT, "\x85")):
        ids = models["t5"].encode(text)
        assert vocabularies["t5", "saved by 5"].encode(text) == ids
        assert vocabularies["t5", "saved by 4"].encode(text) == ids


def test_where_a_text_does_not_read_as_with_sentencepiece(vocabularies, models):
    """The docstring's list; when one of these fails, mend the list."""
    theirs, ours = models["t5"], vocabularies["t5", "saved by 5"]
    assert ours.encode("</s>") == [1] and 1 not in theirs.encode("</s>")
    assert ours.vocab_size - 1 in ours.encode("jel<extra_id_0>ly")
    assert theirs.vocab_size - 1 not in theirs.encode("jel<extra_id_0>ly")
    assert theirs.encode("<extra_id_0>a") != ours.encode("<extra_id_0>a")
    assert ours.encode("<extra_id_0>a") == theirs.encode("<extra_id_0> a")
    assert ours.encode("a\x85b") == ours.encode("a b") != theirs.encode("a\x85b")
    assert 2 in vocabularies["mt5", "saved by 5"].encode("😀") and 2 not in models["mt5"].encode(
        "😀"
    )


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 800), max_size=12))
def test_any_ids_are_written_as_seqio_writes_them(vocabularies, models, ids):
    for (family, _), vocabulary in vocabularies.items():
        bytes_in = [i for i in ids if family != "t5" and 3 <= i < 260]
        if not bytes_in:  # broken UTF-8 is the one thing that is written differently
            assert vocabulary.decode(ids) == models[family].decode(ids)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=20))
def test_the_bytes_of_a_text_are_written_as_the_text(vocabularies, models, text):
    for family in ("mt5", "umt5"):
        ids = models[family].encode(text)
        assert vocabularies[family, "saved by 4"].decode(ids) == models[family].decode(ids)


def test_decoding_stops_at_the_first_end(vocabularies):
    for vocabulary in vocabularies.values():
        ids = vocabulary.encode("the cat")
        assert vocabulary.decode([*ids, 1, *ids]) == "the cat"


@pytest.mark.parametrize("pair", FORMS, ids=" ".join)
def test_the_model_file_of_the_same_vocabulary_is_accepted(vocabularies, models, pair):
    for family, model in models.items():
        assert vocabularies[pair].accepts(model) == (family == pair[0])
    assert not vocabularies[pair].accepts(ByteVocabulary())


def test_another_number_of_sentinels_is_not_accepted(vocabularies, model_folder):
    path = model_folder("t5") / "spiece.model"
    for extra_ids, same in ((0, False), (99, False), (100, True)):
        model = SentencePieceVocabulary(path, extra_ids)
        assert vocabularies["t5", "saved by 5"].accepts(model) == same
    upwards = SentencePieceVocabulary(path, 100, reverse_extra_ids=False)
    assert not vocabularies["t5", "saved by 5"].accepts(upwards)


@pytest.fixture
def changed(json_folder, tmp_path):
    """Writes T5's tokenizer.json with a change made to it, and reads it."""
    original = json.loads((json_folder("t5", "saved by 5") / "tokenizer.json").read_text())

    def read(change) -> TokenizerJsonVocabulary:
        described = copy.deepcopy(original)
        change(SimpleNamespace(file=described, model=described["model"]))
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(described))
        return TokenizerJsonVocabulary(path)

    return read


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.model["vocab"].append(["zzz", 0.0]),
        lambda it: it.model["vocab"][5].__setitem__(0, "zzz"),
        lambda it: it.model["vocab"][5].__setitem__(1, -1.25),
        lambda it: it.model["vocab"].insert(4, it.model["vocab"].pop(5)),
        lambda it: it.file.update(normalizer=None),
    ],
    ids=["longer", "another piece", "another score", "another order", "no normaliser"],
)
def test_another_vocabulary_is_not_accepted(changed, models, vocabularies, change):
    other = changed(change)
    assert not other.accepts(models["t5"])
    assert other.fingerprint() != vocabularies["t5", "saved by 5"].fingerprint()


def test_a_missing_normaliser_is_named(changed):
    described = changed(lambda it: it.file.update(normalizer=None)).describe()
    assert "no normaliser of SentencePiece" in described


def test_equal_files_have_equal_fingerprints(changed, vocabularies):
    fingerprints = {vocabulary.fingerprint() for vocabulary in vocabularies.values()}
    assert len(fingerprints) == len(FORMS)
    assert changed(lambda it: None).fingerprint() in fingerprints


def test_a_file_that_cuts_and_pads_does_neither_here(changed, vocabularies):
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    pad = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    vocabulary = changed(lambda it: it.file.update(truncation=cut, padding=pad))
    assert vocabulary.encode("the cat sat") == vocabularies["t5", "saved by 5"].encode(
        "the cat sat"
    )


def test_the_spelling_of_older_releases(changed, vocabularies, recorded):
    def spelt(it):
        words = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
        it.file["decoder"] = words
        it.file["pre_tokenizer"]["pretokenizers"][1] = words
        del it.model["type"], it.model["byte_fallback"]

    old, new = changed(spelt), vocabularies["t5", "saved by 5"]
    assert [old.encode(t) for t in recorded["texts"]] == [new.encode(t) for t in recorded["texts"]]
    assert old.pieces_fingerprint() == new.pieces_fingerprint()


def test_tokens_added_by_a_user_lie_above(changed, vocabularies, models):
    plain = vocabularies["t5", "saved by 5"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added = {"id": plain.vocab_size, "content": "zebra", **flags}
    vocabulary = changed(lambda it: it.file["added_tokens"].append(added))
    assert vocabulary.vocab_size == plain.vocab_size + 1
    assert vocabulary.encode("zebra") == [plain.vocab_size]
    assert vocabulary.decode([plain.vocab_size]) == "zebra"
    assert not vocabulary.accepts(models["t5"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it.model.update(type="BPE"), "holds a BPE model; a T5 has a Unigram one"),
        (lambda it: it.model.update(type="WordPiece"), "holds a WordPiece model"),
        (lambda it: it.model["vocab"].reverse(), r"\(padding, EOS\) ids \(165, 164\)"),
        (lambda it: it.model["vocab"].pop(0), r"\(padding, EOS\) ids \(165, 0\)"),
        (lambda it: it.model.update(unk_id=None), "names no 'unk_id'"),
        (lambda it: it.model.update(unk_id=10**6), "cannot be read as a vocabulary"),
        (lambda it: it.model.update(vocab=[]), "cannot be read as a vocabulary"),
        (lambda it: it.model.update(vocab={"<pad>": 0}), "no list of pieces"),
        (lambda it: it.model.update(vocab=[["<pad>", 10**400]]), "no list of pieces"),
        (lambda it: it.model["vocab"].append(["▁", 0.0]), "it has a piece twice"),
        (lambda it: it.file.pop("model"), "it has no 'model'"),
        (lambda it: it.file["normalizer"].update(precompiled_charsmap="%%"), "Precompiled"),
        (lambda it: it.file["normalizer"].update(precompiled_charsmap="AAAA"), "Precompiled"),
        (lambda it: it.file.update(normalizer={"type": "No"}), "cannot be read as a vocabulary"),
        (lambda it: it.file.update(normalizer=[]), "cannot be read as a vocabulary"),
    ],
)
def test_damaged_files_say_so(changed, change, message):
    with pytest.raises(UserError, match=message) as error:
        changed(change)
    assert "tokenizer.json" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'"text"', b"[" * 200_000, b"\xff\xfe{}", b'{"a": 1' + b"0" * 9000],
)
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read .*spiece\.model"):
        TokenizerJsonVocabulary(path)


def test_a_file_cut_anywhere_is_refused(json_folder, tmp_path):
    content = (json_folder("t5", "saved by 5") / "tokenizer.json").read_bytes()
    path = tmp_path / "tokenizer.json"
    for end in (10, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="it is not JSON"):
            TokenizerJsonVocabulary(path)


def test_a_task_of_the_model_file_fits_a_folder_with_the_tokenizer(json_folder, model_folder):
    seqio = import_seqio()
    from mpt_jax.data.tasks import check_vocabulary

    def register(name, extra_ids, family="t5"):
        path = str(model_folder(family) / "spiece.model")
        feature = seqio.Feature(seqio.SentencePieceVocabulary(path, extra_ids))
        source = seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"])
        seqio.TaskRegistry.add(
            name, source, output_features={"inputs": feature, "targets": feature}
        )

    register("same", 100)
    register("other", 0, "mt5")
    backbone = vocabulary_of(json_folder("t5", "saved by 5"))
    check_vocabulary("same", backbone)
    with pytest.raises(UserError, match=r"spiece\.model \(422 ids.*tokenizer\.json \(166 ids"):
        check_vocabulary("other", backbone)
