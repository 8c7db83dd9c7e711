"""A backbone whose folder has no vocabulary, as T5X checkpoints have none."""

import shutil

import pytest

from mpt_jax.data.vocabularies import ByteVocabulary
from mpt_jax.errors import UserError
from mpt_jax.stages.backbone import BackboneSource


@pytest.fixture
def bare(tiny_backbone, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(tiny_backbone, folder)
    (folder / "tokenizer_config.json").unlink()
    return folder


def test_the_vocabulary_can_be_named(bare, tiny_backbone):
    with pytest.raises(UserError, match=r"BackboneSource\.vocabulary = '<path>' or 'bytes'"):
        BackboneSource(str(bare)).open()
    for name in ("bytes", str(tiny_backbone)):
        assert isinstance(BackboneSource(str(bare), name).open().vocabulary, ByteVocabulary)


def test_and_named_on_the_command_line(bare, toy, tmp_path, capsys):
    def dry_run(name):
        vocabulary = {"backbone.BackboneSource.vocabulary": name}
        macros = {"INITIAL_CHECKPOINT_PATH": bare, **vocabulary}
        return toy.run("teach", tmp_path / "run", "--dry_run", **macros)

    assert dry_run("bytes") == 0
    assert dry_run("byte") == 1
    assert "expected the path of a .model file" in " ".join(capsys.readouterr().err.split())


def test_the_named_one_counts_before_the_folders(tiny_backbone, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "ByT5Tokenizer", "extra_ids": 1}'
    )
    source = BackboneSource(str(tiny_backbone), vocabulary=str(tmp_path))
    assert source.open().vocabulary.vocab_size == 260
