import json
import shutil

import pytest

from mpt_jax.data.tokenizer_json import TokenizerJsonVocabulary
from mpt_jax.data.vocabularies import ByteVocabulary, SentencePieceVocabulary
from mpt_jax.data.vocabulary_files import files_of, open_vocabulary, vocabulary_of
from mpt_jax.errors import UserError


def settings(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def copy(source, folder, name=None):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, folder / (name or source.name))
    return folder


@pytest.fixture(scope="module")
def model(model_folder):
    return model_folder("t5") / "spiece.model"


@pytest.fixture(scope="module")
def tokenizer(json_folder):
    return json_folder("t5", "saved by 5") / "tokenizer.json"


def test_the_order_of_the_search(tmp_path, model, tokenizer):
    settings(tmp_path, tokenizer_class="ByT5Tokenizer")
    assert isinstance(vocabulary_of(tmp_path), ByteVocabulary)
    copy(tokenizer, tmp_path)
    assert isinstance(vocabulary_of(tmp_path), TokenizerJsonVocabulary)
    copy(model, tmp_path, "sentencepiece.model")
    assert "sentencepiece.model" in vocabulary_of(tmp_path).describe()
    copy(model, tmp_path)
    assert "spiece.model" in vocabulary_of(tmp_path).describe().replace("sentencepiece.", "")


def test_a_t5x_checkpoint_has_its_vocabulary_in_itself_or_beside(tmp_path, model, tokenizer):
    checkpoint = tmp_path / "t5_base" / "checkpoint_1100000"
    checkpoint.mkdir(parents=True)
    with pytest.raises(UserError, match=r"checkpoint_1100000 and .*t5_base holds no vocabulary"):
        vocabulary_of(checkpoint)
    copy(model, checkpoint.parent, "sentencepiece.model")
    assert vocabulary_of(checkpoint).vocab_size == 166
    copy(tokenizer, checkpoint)
    assert isinstance(vocabulary_of(checkpoint), TokenizerJsonVocabulary)


def test_only_a_checkpoints_parent_is_searched(tmp_path, model):
    copy(model, tmp_path)
    (tmp_path / "weights").mkdir()
    with pytest.raises(UserError, match="holds no vocabulary"):
        vocabulary_of(tmp_path / "weights")


def test_a_vocabulary_can_be_named(tmp_path, model, tokenizer):
    assert open_vocabulary("bytes").vocab_size == 384
    assert isinstance(open_vocabulary(str(model)), SentencePieceVocabulary)
    assert isinstance(open_vocabulary(str(model.parent)), SentencePieceVocabulary)
    assert isinstance(open_vocabulary(str(tokenizer)), TokenizerJsonVocabulary)


@pytest.mark.parametrize("name", ["", "byte", "no/such.model"])
def test_what_names_none_is_refused(name):
    with pytest.raises(UserError, match="expected the path of a .model file"):
        open_vocabulary(name)


@pytest.mark.parametrize(
    ("described", "sentinels"),
    [
        (None, 100),
        ({}, 100),
        ({"extra_ids": 7}, 7),
        ({"extra_ids": 0, "additional_special_tokens": None}, 0),
        ({"extra_special_tokens": ["<pad>", "<extra_id_0>", "<extra_id_1>"]}, 2),
        ({"additional_special_tokens": [{"content": "<extra_id_0>"}], "extra_ids": 1}, 1),
        ({"added_tokens_decoder": {"66": {"content": "<extra_id_0>"}}}, 1),
        ({"extra_special_tokens": {"image_token": "<image>"}, "extra_ids": 3}, 3),
        ({"added_tokens_decoder": [1, None], "extra_special_tokens": 5, "extra_ids": 3}, 3),
    ],
)
def test_sentinels_above_the_pieces(tmp_path, model, described, sentinels):
    copy(model, tmp_path)
    if described is not None:
        settings(tmp_path, **described)
    assert vocabulary_of(tmp_path).vocab_size == 66 + sentinels


def test_sentinels_inside_the_file_are_not_put_on_top_again(tmp_path, model_folder):
    copy(model_folder("mt5") / "spiece.model", tmp_path)
    vocabulary = vocabulary_of(tmp_path)
    assert vocabulary.vocab_size == 422
    assert vocabulary.encode("<extra_id_0>") == [421]


@pytest.mark.parametrize(
    ("described", "size"),
    [
        ({}, 384),
        ({"extra_ids": 0, "extra_special_tokens": [f"<extra_id_{i}>" for i in range(125)]}, 384),
        ({"extra_ids": 10}, 269),
        ({"extra_ids": 0}, 259),
    ],
)
def test_byt5(tmp_path, described, size):
    settings(tmp_path, tokenizer_class="ByT5Tokenizer", **described)
    assert vocabulary_of(tmp_path).vocab_size == size


def test_special_tokens_of_other_names(tmp_path, tokenizer):
    content = tokenizer.read_text().replace('"<pad>"', '"[PAD]"')
    settings(tmp_path, pad_token={"content": "[PAD]"}, eos_token="</s>")
    (tmp_path / "tokenizer.json").write_text(content)
    assert vocabulary_of(tmp_path).decode([0, 0]) == ""
    settings(tmp_path)
    with pytest.raises(
        UserError, match=r"tokenizer\.json has the \(padding, EOS\) ids \(None, 1\)"
    ):
        vocabulary_of(tmp_path)


@pytest.mark.parametrize("number", [-1, 10**9, "100", 1.5, None, True])
def test_impossible_numbers_of_sentinels(tmp_path, model, number):
    copy(model, tmp_path)
    settings(tmp_path, extra_ids=number)
    with pytest.raises(UserError, match="tokenizer_config.json: extra_ids is"):
        vocabulary_of(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[" * 200_000, "[]", '"text"'])
def test_damaged_settings(tmp_path, model, content):
    copy(model, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json (is not JSON|holds a)"):
        vocabulary_of(tmp_path)


def test_a_model_file_cut_anywhere_is_refused(tmp_path, model):
    content = model.read_bytes()
    for end in (0, 1, 300, 700, 790, len(content) // 2, len(content) - 1):
        (tmp_path / "spiece.model").write_bytes(content[:end])
        with pytest.raises(UserError, match=r"spiece\.model is not a SentencePiece model, or not"):
            vocabulary_of(tmp_path)


def written(folder, name):
    folder.mkdir()
    for file, content in files_of(str(name)).items():
        (folder / file).write_bytes(content)
    return vocabulary_of(folder)


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_copied_files_are_the_same_vocabulary(model_folder, tmp_path, family):
    source = model_folder(family)
    for number, name in enumerate((source, source / "spiece.model")):
        copied = written(tmp_path / str(number), name)
        assert copied.fingerprint() == vocabulary_of(source).fingerprint()
    assert written(tmp_path / "bytes", "bytes").vocab_size == 384


@pytest.mark.parametrize("family", ["t5", "mt5"])
@pytest.mark.parametrize("form", ["saved by 4", "saved by 5"])
def test_a_tokenizer_json_gets_a_sentencepiece_model_beside_it(json_folder, tmp_path, family, form):
    source = json_folder(family, form)
    for number, name in enumerate((source, source / "tokenizer.json")):
        original, copied = vocabulary_of(source), written(tmp_path / str(number), name)
        assert isinstance(copied, SentencePieceVocabulary)
        assert copied.vocab_size == original.vocab_size
        assert original.accepts(copied)
        assert (tmp_path / str(number) / "tokenizer.json").is_file()


def test_a_vocabulary_that_was_never_sentencepiece_keeps_to_its_json(json_folder, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(json_folder("t5", "saved by 5"), folder)
    described = json.loads((folder / "tokenizer.json").read_text())
    described["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(described))
    with pytest.warns(UserWarning, match="No spiece.model is made"):
        files = files_of(str(folder))
    assert "tokenizer.json" in files and "spiece.model" not in files
