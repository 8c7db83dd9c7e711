import copy
import importlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.data.sentencepiece_file import sentencepiece_model
from mpt_jax.data.tasks import import_seqio
from mpt_jax.data.tokenizer_json import TokenizerJsonVocabulary
from mpt_jax.data.vocabularies import SentencePieceVocabulary, from_seqio
from mpt_jax.data.vocabulary_files import vocabulary_of
from mpt_jax.errors import UserError

# As in the conftest beside this, which importlib mode does not let a test import.
FORMS = [(f, "saved by 5") for f in ("t5", "mt5")] + [
    (f, "saved by 4") for f in ("t5", "mt5", "umt5")
]
ON_TOP = {"t5": 100, "mt5": 0, "umt5": 300}
texts = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(["the cat", " ", "   ", "\t", "▁", "ﬁ", "東京", "😀", "e\u0301", "\x85"]),
        st.sampled_from(
            ["</s>", "<pad>", "<unk>", "<s>", "<extra_id_0>", " <extra_id_99>", "<0x41>"]
        ),
    ),
    max_size=8,
).map("".join)


def proto_of(content):
    pb2 = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    return pb2.ModelProto.FromString(content)


@pytest.fixture(scope="module")
def rebuilt(json_folder):
    """By family and form: what is made of transformers' file, (content, extra_ids)."""
    return {pair: sentencepiece_model(vocabulary_of(json_folder(*pair))) for pair in FORMS}


@pytest.fixture(scope="module")
def pairs(rebuilt, model_folder):
    """By family and form: (the rebuilt vocabulary, the original)."""
    return {
        pair: (SentencePieceVocabulary(*made), vocabulary_of(model_folder(pair[0])))
        for pair, made in rebuilt.items()
    }


@pytest.mark.parametrize("pair", FORMS, ids=" ".join)
def test_the_rebuilt_model_is_the_original(rebuilt, pairs, model_folder, pair):
    content, extra_ids = rebuilt[pair]
    assert extra_ids == ON_TOP[pair[0]]
    made, original = pairs[pair]
    assert made.fingerprint() == original.fingerprint()
    assert (made.vocab_size, made.unk_id) == (original.vocab_size, original.unk_id)
    mine = proto_of(content)
    theirs = proto_of((model_folder(pair[0]) / "spiece.model").read_bytes())
    of = [[(p.piece, p.score, p.type) for p in proto.pieces] for proto in (mine, theirs)]
    assert of[0] == of[1]
    for field in ("model_type", "byte_fallback", "pad_id", "eos_id", "unk_id", "bos_id"):
        assert getattr(mine.trainer_spec, field) == getattr(theirs.trainer_spec, field), field
    assert mine.trainer_spec.vocab_size == len(mine.pieces)


@settings(deadline=None, max_examples=200)
@given(texts)
def test_texts_read_as_with_the_original(pairs, text):
    for key, (made, original) in pairs.items():
        ids = original.encode(text)
        assert made.encode(text) == ids, key
        assert made.decode(ids) == original.decode(ids), key


@pytest.mark.parametrize("pair", FORMS, ids=" ".join)
def test_seqio_reads_it(rebuilt, json_folder, pairs, tmp_path, pair):
    seqio = import_seqio()
    content, extra_ids = rebuilt[pair]
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    theirs = seqio.SentencePieceVocabulary(str(path), extra_ids)
    _, original = pairs[pair]
    for text in ("the cat", "Größe ﬁ 東京 😀", "the <extra_id_0> cat", "a  b", ""):
        assert list(theirs.encode(text)) == original.encode(text)
        assert theirs.encode_tf(text).numpy().tolist() == original.encode(text)
    assert (theirs.pad_id, theirs.eos_id, theirs.vocab_size) == (0, 1, original.vocab_size)
    # So a task that is registered with it fits the backbone whose vocabulary is the tokenizer.json.
    assert vocabulary_of(json_folder(*pair)).accepts(from_seqio(theirs))


def test_it_lies_in_a_folder_as_t5s_own(rebuilt, pairs, tmp_path):
    for pair, (content, extra_ids) in rebuilt.items():
        (tmp_path / "spiece.model").write_bytes(content)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": extra_ids}))
        assert vocabulary_of(tmp_path).fingerprint() == pairs[pair][1].fingerprint()


def test_it_is_made_the_same_each_time(rebuilt, json_folder):
    for pair, made in rebuilt.items():
        assert sentencepiece_model(vocabulary_of(json_folder(*pair))) == made


@pytest.fixture
def changed(json_folder, tmp_path):
    """Opens a tokenizer.json with a change made to it."""

    def read(change, family="t5", form="saved by 5", **named) -> TokenizerJsonVocabulary:
        original = json_folder(family, form) / "tokenizer.json"
        described = copy.deepcopy(json.loads(original.read_text()))
        change(described)
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(described))
        return TokenizerJsonVocabulary(path, **named)

    return read


def added(i, content, special=False):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": content, **flags, "special": special}


def kinds(content):
    """By text: the type's name."""
    proto = proto_of(content)
    return {p.piece: p.Type.Name(p.type) for p in proto.pieces}


def test_types_of_pieces(rebuilt):
    t5 = kinds(rebuilt["t5", "saved by 5"][0])
    assert (t5["<pad>"], t5["</s>"], t5["<unk>"], t5["▁"]) == (
        "CONTROL", "CONTROL", "UNKNOWN", "NORMAL",
    )  # fmt: skip
    assert "<extra_id_0>" not in t5 and "▁<extra_id_0>" not in t5
    mt5 = kinds(rebuilt["mt5", "saved by 5"][0])
    assert (mt5["<0x00>"], mt5["<0xFF>"]) == ("BYTE", "BYTE")
    assert mt5["▁<extra_id_0>"] == mt5["▁<extra_id_99>"] == "USER_DEFINED"
    assert kinds(rebuilt["umt5", "saved by 4"][0])["<s>"] == "CONTROL"


def test_without_all_256_of_them_byte_pieces_are_plain(changed):
    def one_less(it):
        it["model"]["vocab"][100][0] = "zzz"

    content, _ = sentencepiece_model(changed(one_less, "mt5"))
    assert not proto_of(content).trainer_spec.byte_fallback
    assert kinds(content)["<0x00>"] == "NORMAL"


def test_without_a_character_map_texts_are_read_as_they_are(changed):
    vocabulary = changed(lambda it: it.update(normalizer=None))
    made = SentencePieceVocabulary(*sentencepiece_model(vocabulary))
    with_map = vocabulary_of(vocabulary.path.parent)
    assert made.unk_id in made.encode("ｔhe")
    assert made.encode("ｔhe cat") == vocabulary.encode("ｔhe cat") == with_map.encode("ｔhe cat")


def test_tokens_of_a_user_keep_all_ids(changed):
    """seqio would put the sentinels above them, so these go into the file."""
    more = [added(166, "zebra"), added(167, "<sep>", True), added(168, "\n")]
    vocabulary = changed(lambda it: it["added_tokens"].extend(more))
    content, extra_ids = sentencepiece_model(vocabulary)
    assert extra_ids == 0
    made = SentencePieceVocabulary(content)
    assert made.vocab_size == vocabulary.vocab_size == 169
    assert vocabulary.accepts(made)
    text = "the <extra_id_0> cat"
    assert made.encode(text) == vocabulary.encode(text)
    for text, i in (("azebra", 166), ("a<sep>b", 167), ("a\nb", 168)):
        assert i in made.encode(text) and i in vocabulary.encode(text)
    space = [list(kinds(content)).index("▁")]
    ids = vocabulary.encode("the zebra cat")
    before = ids.index(166)
    assert made.encode("the zebra cat") == ids[:before] + space + ids[before:]


def test_an_added_token_that_is_a_trained_piece_leaves_it_as_it_is(changed, pairs):
    def mark(it):
        piece, score = it["model"]["vocab"][10]
        assert score < 0
        it["added_tokens"].append(added(10, piece, special=True))

    made = SentencePieceVocabulary(*sentencepiece_model(changed(mark)))
    assert made.fingerprint() == pairs["t5", "saved by 5"][1].fingerprint()


def test_sentinels_in_another_order_stay_inside(changed):
    def upwards(it):
        it["model"]["vocab"][-100:] = reversed(it["model"]["vocab"][-100:])
        for i, token in enumerate(it["added_tokens"][-100:]):
            token["content"] = f"<extra_id_{i}>"

    vocabulary = changed(upwards)
    content, extra_ids = sentencepiece_model(vocabulary)
    assert extra_ids == 0
    made = SentencePieceVocabulary(content)
    assert made.encode("the <extra_id_7> cat") == vocabulary.encode("the <extra_id_7> cat")
    assert made.encode("<extra_id_7>") == [66 + 7]
    assert vocabulary.accepts(made)


def test_sentinels_beside_the_model_are_as_those_in_it(changed, rebuilt):
    def outside(it):
        del it["model"]["vocab"][-100:]

    assert sentencepiece_model(changed(outside)) == rebuilt["t5", "saved by 5"]


def test_special_tokens_of_other_names(changed):
    def renamed(it):
        it["model"]["vocab"][0][0] = it["added_tokens"][0]["content"] = "[PAD]"

    content, extra_ids = sentencepiece_model(changed(renamed, pad_token="[PAD]"))
    made = SentencePieceVocabulary(content, extra_ids)
    assert made.decode([0]) == "" and kinds(content)["[PAD]"] == "CONTROL"


def test_the_spelling_of_older_releases(changed, rebuilt):
    def spelt(it):
        words = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
        it["decoder"] = it["pre_tokenizer"]["pretokenizers"][1] = words
        del it["model"]["type"], it["model"]["byte_fallback"]

    assert sentencepiece_model(changed(spelt)) == rebuilt["t5", "saved by 5"]


def step(normalizer=None, cut=None):
    """Puts one more step at the end."""

    def change(it):
        if normalizer:
            it["normalizer"] = {"type": "Sequence", "normalizers": [it["normalizer"], normalizer]}
        if cut:
            it["pre_tokenizer"]["pretokenizers"].append(cut)

    return change


WORDS = {"type": "Metaspace", "replacement": "▁", "split": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (step({"type": "NFKC"}), "the step NFKC, which no such model has"),
        (step({"type": "Lowercase"}), "the step Lowercase"),
        (step({"type": "Replace", "pattern": {"String": "a"}, "content": "b"}), "the step Replace"),
        (step({"type": "Strip", "strip_left": True, "strip_right": False}), "the step Strip"),
        (step(cut={"type": "Digits", "individual_digits": True}), "the step Digits"),
        (step(cut={"type": "Punctuation", "behavior": "Isolated"}), "the step Punctuation"),
        (step(cut=WORDS | {"prepend_scheme": "never"}), "the step Metaspace"),
        (step(cut=WORDS | {"replacement": "_", "prepend_scheme": "always"}), "the step Metaspace"),
        (lambda it: it.update(pre_tokenizer=None), "does not mark the beginnings of words"),
        (lambda it: it.update(pre_tokenizer={"type": "WhitespaceSplit"}), "does not mark"),
        (
            lambda it: it["added_tokens"].append(added(166, "a b")),
            "no added token with a space, as is 'a b'",
        ),
        (lambda it: it["model"]["vocab"][5].__setitem__(0, ""), "SentencePiece refuses it"),
        (lambda it: it["model"]["vocab"][5].__setitem__(0, "▁<extra_id_3>"), "refuses it"),
        (lambda it: it["model"].update(unk_id=1), "its unknown piece is also padding or the end"),
    ],
)
def test_what_no_model_can_read_alike_is_refused(changed, change, message):
    vocabulary = changed(change)
    with pytest.raises(UserError, match=message) as error:
        sentencepiece_model(vocabulary)
    assert "None" not in str(error.value)
    assert "tokenizer.json cannot be written as a SentencePiece model" in str(error.value)


def test_a_file_that_changed_since_is_refused(changed):
    vocabulary = changed(lambda it: None)
    changed(lambda it: it["model"]["vocab"][9].__setitem__(1, -1.5))
    with pytest.raises(UserError, match="has changed since it was opened"):
        sentencepiece_model(vocabulary)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-20, -(2.0**-20), width=32), min_size=60, max_size=60))
def test_scores_go_through_json_unchanged(json_folder, tmp_path_factory, scores):
    described = json.loads((json_folder("t5", "saved by 5") / "tokenizer.json").read_text())
    for i, score in enumerate(scores):
        described["model"]["vocab"][4 + i][1] = score
    path = tmp_path_factory.mktemp("scores") / "tokenizer.json"
    path.write_text(json.dumps(described))
    content, _ = sentencepiece_model(TokenizerJsonVocabulary(path))
    assert [piece.score for piece in proto_of(content).pieces[4:64]] == scores
