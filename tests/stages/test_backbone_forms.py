"""One backbone in every form: the same runs from each, and conversions that change nothing."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from mpt_jax.cli import main
from mpt_jax.data.vocabulary_files import files_of
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.t5 import T5Config, init_params

BYTES = "--gin.backbone.BackboneSource.vocabulary='bytes'"


@pytest.fixture
def fails(capsys):
    def run(*words) -> str:
        assert main([str(word) for word in words]) == 1
        return " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture
def t5x(toy, tmp_path):
    """The tiny backbone as a T5X run's folder with one checkpoint."""
    assert main(["convert", str(toy.backbone), str(tmp_path / "t5x"), "--format=t5x"]) == 0
    return tmp_path / "t5x"


def test_a_run_from_a_t5x_checkpoint_is_the_run_from_the_folder(
    toy, t5x, whole_job, tmp_path, capsys
):
    capsys.readouterr()
    assert toy.run("teach", tmp_path / "run", BYTES, INITIAL_CHECKPOINT_PATH=t5x) == 0
    assert "backbone t5x/checkpoint_0 " in capsys.readouterr().out
    got, expected = toy.prompts(tmp_path / "run"), toy.prompts(whole_job / "teach")
    assert got.keys() == expected.keys()
    for name, prompt in expected.items():
        np.testing.assert_array_equal(got[name], prompt, err_msg=name)


def test_there_and_back_again(toy, t5x, tmp_path):
    words = ["convert", str(t5x / "checkpoint_0"), str(tmp_path / "hf"), "--vocabulary=bytes"]
    assert main(words) == 0
    before = load_file(toy.backbone / "model.safetensors")
    after = load_file(tmp_path / "hf" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert after[name].dtype == weight.dtype
        np.testing.assert_array_equal(after[name], weight, err_msg=name)
    assert (tmp_path / "hf" / "tokenizer_config.json").is_file()
    for name in ("config.json",):
        assert (tmp_path / "hf" / name).read_text() == (toy.backbone / name).read_text()


def test_half_precision(toy, tmp_path):
    assert main(["convert", str(toy.backbone), str(tmp_path / "half"), "--dtype=bfloat16"]) == 0
    dtypes = {w.dtype.name for w in load_file(tmp_path / "half" / "model.safetensors").values()}
    assert dtypes == {"bfloat16"}


def test_conversions_that_are_refused(toy, t5x, fails, tmp_path):
    assert "nothing is overwritten" in fails("convert", toy.backbone, t5x)
    assert "nothing is overwritten" in fails("convert", toy.backbone, t5x, "--format=t5x")
    error = fails("convert", t5x, tmp_path / "new")
    assert "holds no vocabulary" in error and "--vocabulary" in error
    assert "cannot be converted" in fails("convert", tmp_path / "absent", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_damaged_backbones_stop_a_stage_at_its_start(toy, t5x, fails, tmp_path):
    (t5x / "checkpoint_0" / "checkpoint").write_bytes(b"\x82\xa7version\x03")
    error = fails(*toy.flags("teach", tmp_path / "run", INITIAL_CHECKPOINT_PATH=t5x), BYTES)
    assert "checkpoint_0" in error and "cannot be read" in error
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in toy.backbone.iterdir():
        (copy / path.name).write_bytes(path.read_bytes()[:1000])
    error = fails(*toy.flags("teach", tmp_path / "run", INITIAL_CHECKPOINT_PATH=copy))
    assert "model.safetensors" in error and "truncated" in error


def test_what_t5x_s_network_cannot_hold(fails, tmp_path):
    config = T5Config(384, 16, 2, 8, 16, 1, 1, relpos_per_layer=True)
    params = init_params(config, jax.random.key(0))
    save_backbone(tmp_path / "umt5", config, params, files=files_of("bytes"))
    error = fails("convert", tmp_path / "umt5", tmp_path / "new", "--format=t5x")
    assert "one position bias for all layers" in error and "--format=hf" in error
    assert not (tmp_path / "new").exists()
