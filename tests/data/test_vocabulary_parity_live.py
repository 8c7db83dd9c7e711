"""Our vocabularies beside transformers' own, on the same folders."""

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt_jax.data.sentencepiece_file import sentencepiece_model
from mpt_jax.data.vocabularies import ByteVocabulary, SentencePieceVocabulary
from mpt_jax.data.vocabulary_files import vocabulary_of

NEEDS_PARITY = "needs the `parity` extra (torch and transformers)"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason=NEEDS_PARITY)

# As in the conftest beside this, which importlib mode does not let a test import.
FORMS = [(f, "saved by 5") for f in ("t5", "mt5")] + [
    (f, "saved by 4") for f in ("t5", "mt5", "umt5")
]
SPECIAL = ["</s>", "<pad>", "<unk>", "<s>", "<extra_id_0>", "<extra_id_99>", "▁<extra_id_5>"]
parts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["the cat", " ", "   ", "\t", "\n", "▁", "ﬁ", "東京", "😀", "e\u0301", "\x85"]),
    st.sampled_from(SPECIAL),
)
texts = st.lists(parts, max_size=8).map("".join)


class Theirs:
    """A tokenizer of transformers, whose own repr would be in the way when a test fails."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encode(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids


def opened(folder, model_type):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Theirs(transformers.AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def pairs(json_folder):
    """(ours, transformers') of every family and form."""
    found = {}
    for family, form in FORMS:
        folder = json_folder(family, form)
        # 5 rebuilds a T5's tokenizer in its own form, and takes an umT5's as the file has it.
        reader = "t5" if form == "saved by 5" else "umt5"
        found[family, form] = vocabulary_of(folder), opened(folder, reader)
    return found


@settings(deadline=None, max_examples=300)
@given(texts)
def test_ids_equal_those_of_transformers(pairs, text):
    for key, (ours, theirs) in pairs.items():
        assert ours.encode(text) == theirs.encode(text), key


@pytest.mark.parametrize("pair", FORMS, ids=" ".join)
def test_sizes_and_special_ids_equal_those_of_transformers(pairs, pair):
    ours, theirs = pairs[pair]
    read = theirs.tokenizer
    assert ours.vocab_size == len(read)
    special = (read.pad_token_id, read.eos_token_id, read.unk_token_id)
    assert (ours.pad_id, ours.eos_id, ours.unk_id) == special


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(3, 65), max_size=12))
def test_plain_pieces_are_written_as_by_transformers(pairs, ids):
    ours, theirs = pairs["t5", "saved by 5"]
    # seqio drops the spaces of several pieces at the beginning, transformers that of the first.
    assert ours.decode(ids).lstrip(" ") == theirs.tokenizer.decode(ids).lstrip(" ")


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_transformers_writes_the_file_that_these_tests_use(
    family, model_folder, json_folder, tmp_path
):
    shared = model_folder(family)
    theirs = transformers.T5Tokenizer.from_pretrained(shared)
    theirs.save_pretrained(tmp_path)
    assert not (tmp_path / "spiece.model").exists()
    wanted = json.loads((json_folder(family, "saved by 5") / "tokenizer.json").read_text())
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == wanted
    assert vocabulary_of(tmp_path).accepts(vocabulary_of(shared))


@pytest.mark.parametrize(
    ("extra_ids", "flags"),
    [
        (0, {}),
        (7, {}),
        (7, {"normalization_rule_name": "identity"}),
        (7, {"normalization_rule_name": "nmt_nfkc_cf"}),
        (7, {"byte_fallback": True, "vocab_size": 300}),
        (7, {"control_symbols": ["<ctl>"], "user_defined_symbols": ["[X]", "ﬁ"]}),
        (0, {"user_defined_symbols": ["<extra_id_0>", "▁<extra_id_1>"]}),
    ],
    ids=str,
)
def test_a_model_is_rebuilt_from_what_transformers_makes_of_it(tmp_path, flags, extra_ids):
    import sentencepiece

    usual = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 60}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "Größe und Ärger über Öl"] * 5),
        model_prefix=str(tmp_path / "spiece"),
        hard_vocab_limit=False,
        minloglevel=2,
        **(usual | flags),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.T5Tokenizer.from_pretrained(tmp_path, extra_ids=extra_ids)
    theirs.save_pretrained(tmp_path / "saved")
    content, on_top = sentencepiece_model(vocabulary_of(tmp_path / "saved"))
    assert on_top == extra_ids
    original = SentencePieceVocabulary(tmp_path / "spiece.model", extra_ids)
    assert SentencePieceVocabulary(content, on_top).fingerprint() == original.fingerprint()


@pytest.fixture(scope="module")
def model_files(model_folder):
    folder = model_folder("t5")
    return vocabulary_of(folder), Theirs(transformers.T5Tokenizer.from_pretrained(folder))


@settings(deadline=None, max_examples=200)
@given(texts)
def test_a_model_file_reads_as_with_transformers(model_files, text):
    ours, theirs = model_files
    # Special tokens in a text and U+0085: TokenizerJsonVocabulary's docstring has the differences.
    for word in ("<", "\x85"):
        text = text.replace(word, "")
    assert ours.encode(text) == theirs.encode(text)


@pytest.fixture(scope="module")
def byt5(tmp_path_factory):
    """(ours, transformers') of a folder that transformers saved."""
    folder = tmp_path_factory.mktemp("byt5")
    theirs = transformers.ByT5Tokenizer()
    theirs.save_pretrained(folder)
    return vocabulary_of(folder), Theirs(theirs)


def test_byt5_as_transformers_saves_it(byt5):
    ours, theirs = byt5
    assert isinstance(ours, ByteVocabulary)
    assert ours.vocab_size == len(theirs.tokenizer) == 384


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=30))
def test_bytes_equal_those_of_transformers(byt5, text):
    ours, theirs = byt5
    if not any(word in text for word in SPECIAL):
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.tokenizer.decode(ids) == text


def test_where_bytes_do_not_equal_those_of_transformers(byt5):
    """ByteVocabulary's docstring; ByT5 was pretrained on seqio's reading, where these are bytes."""
    ours, theirs = byt5
    assert theirs.encode("<extra_id_7>") == [259 + 7]
    assert theirs.encode("a </s> b") == [100, 1, 101]
    for text in ("<extra_id_7>", "a </s> b"):
        assert ours.encode(text) == [byte + 3 for byte in text.encode()]
