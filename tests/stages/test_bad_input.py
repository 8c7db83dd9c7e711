"""What users get wrong: each fails before the first step, with a message that says how to mend it."""

import json
import re
import shutil

import pytest

from mpt_jax.cli import main


@pytest.fixture
def fails(toy, tmp_path, capsys):
    """Runs a command that must exit with 1, and returns its message as one line."""

    def run(stage, *more, folder=None, **macros):
        folder = tmp_path / "run" if folder is None else folder
        assert toy.run(stage, folder, *more, **macros) == 1
        captured = capsys.readouterr()
        assert "compiled the step" not in captured.out
        assert captured.err.startswith("mpt: error: ") and "configurable" not in captured.err
        return re.sub(r"\s+", " ", captured.err)

    return run


def test_an_unknown_task_and_the_nearest(fails):
    assert "did you mean 'toy_head'" in fails("teach", MIXTURE_OR_TASK_NAME="toy_haed")


def test_unknown_gin_names_and_the_nearest(fails):
    assert "did you mean 'TRAIN_STEPS'" in fails("teach", TRAIN_STEP=1)
    error = fails("teach", **{"teach.run.learning_rat": 0.1})
    assert "learning_rate" in error


def test_an_unknown_gin_file_and_the_nearest(fails):
    assert "did you mean 'runs/teach.gin'" in fails("teach", "--gin_file=runs/teech.gin")


def test_a_task_of_another_vocabulary(fails):
    error = fails("teach", MIXTURE_OR_TASK_NAME="toy_other_vocabulary")
    assert "(559 ids" in error and "(384 ids" in error


def test_a_backbone_without_vocabulary(fails, toy, tmp_path):
    changed = tmp_path / "sentencepiece"
    shutil.copytree(toy.backbone, changed)
    (changed / "tokenizer_config.json").unlink()
    error = fails("teach", INITIAL_CHECKPOINT_PATH=changed)
    assert "holds no vocabulary" in error and "spiece.model" in error


def test_prompts_of_another_backbone(fails, whole_job, other_backbone, tmp_path):
    own = json.loads((whole_job / "results.json").read_text())["backbone"]["fingerprint"]
    error = fails(
        "distill",
        TEACHER_DIR=str(whole_job / "teach"),
        INITIAL_CHECKPOINT_PATH=other_backbone,
    )
    found = set(re.findall(r"\b[0-9a-f]{16}\b", error))
    assert own in found and len(found) == 2, error


def test_a_run_of_another_backbone_is_not_resumed(fails, whole_job, other_backbone, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole_job / "teach", folder)
    error = fails("teach", folder=folder, INITIAL_CHECKPOINT_PATH=other_backbone)
    assert len(set(re.findall(r"\b[0-9a-f]{16}\b", error))) == 2, error


def test_lengths_without_room_for_text(fails):
    error = fails("teach", TASK_FEATURE_LENGTHS={"inputs": 1, "targets": 6})
    assert "no room for text" in error


def test_a_label_longer_than_the_target_length(fails):
    error = fails("teach", MIXTURE_OR_TASK_NAME="toy_wordy")
    assert "toy_wordy" in error and "TASK_FEATURE_LENGTHS" in error


def test_an_empty_split(fails):
    error = fails("teach", MIXTURE_OR_TASK_NAME="toy_empty")
    assert "toy_empty" in error and "validation" in error


def test_model_dir_is_a_file(fails, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "give a directory" in fails("teach", folder=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_model_dir_holds_a_users_files(fails, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    error = fails("teach", folder=folder)
    assert "thesis.txt" in error and "nothing there is overwritten" in error


def test_model_dir_of_another_stage(fails, whole_job):
    assert "belongs to a run of 'distill'" in fails("teach", folder=whole_job / "distill")


def test_a_run_directory_whose_record_is_cut_off(fails, tmp_path):
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "run.json").write_text('{"stage": "te')
    assert "run.json cannot be read" in fails("teach", folder=folder)


def test_a_whole_job_finds_a_late_mistake_before_it_trains(fails, tmp_path):
    error = fails("run", TARGET_MIXTURE_OR_TASK_NAME="toy_target")
    assert "did you mean 'toy_targets'" in error
    assert not (tmp_path / "run").exists()


def test_starting_from_a_stage_that_did_not_finish(fails, whole_job, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(whole_job / "teach", half)
    record = json.loads((half / "run.json").read_text())
    (half / "run.json").write_text(json.dumps({**record, "complete": False}))
    assert "did not finish" in fails("evaluate", SOURCES=(str(half),))


def test_teachers_of_another_length(fails, whole_job):
    error = fails("distill", TEACHER_DIR=str(whole_job / "teach"), PROMPT_LENGTH=5)
    assert "PROMPT_LENGTH" in error


def test_k_larger_than_what_there_is(fails, whole_job):
    sources = {"TEACHER_DIR": str(whole_job / "teach"), "SOURCE_DIR": str(whole_job / "distill")}
    error = fails("adapt", SHOTS=(1000,), **sources)
    assert "only 32 examples" in error


NONE = {"SOURCE_DIR": None, "TEACHER_DIR": None}


def test_an_unknown_method_and_the_nearest(fails):
    assert "did you mean 'bitfit'" in fails("adapt", METHOD="bitfitt", **NONE)
    assert "known are" in fails("adapt", METHOD="", **NONE)


def test_no_method_at_all(fails):
    assert "METHOD names no method" in fails("adapt", METHOD=(), **NONE)


def test_a_start_that_the_method_does_not_have(fails):
    error = fails("adapt", METHOD="bitfit", **NONE, **{"bitfit/adapt.Variant.start": "distilled"})
    assert "start of variant bitfit" in error and "backbone" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rnk": 2}, "options of mpt are: length, rank, train_shared"),
        ({"rank": 0}, "rank is 0; it has to be at least 1"),
        ({"rank": "two"}, "rank is 'two'; it has to be of type int"),
        ({"rank": 1.5}, "rank is 1.5; it has to be of type int"),
        ({"train_shared": "no"}, "train_shared is 'no'; it has to be of type bool"),
        ({"members": 3}, "'members'"),
    ],
)
def test_options_that_a_method_does_not_take(fails, options, words, whole_job):
    """Found with the configuration: the source is not even opened."""
    bindings = {"mpt/adapt.Variant.options": options, "TEACHER_DIR": None}
    error = fails("adapt", METHOD="mpt", SOURCE_DIR="no/such/run", **bindings)
    assert words in error and "variant mpt: options" in error


def test_a_learning_rate_below_zero(fails):
    rate = {"bitfit/adapt.Variant.learning_rate": -0.1}
    assert "variant bitfit: learning rates" in fails("adapt", METHOD="bitfit", **NONE, **rate)


def test_stacked_layers_under_a_method_that_names_them(fails):
    stacked = {"backbone.BackboneSource.scan_layers": True}
    assert "scan_layers = False" in fails("adapt", METHOD="bitfit", **NONE, **stacked)


def test_a_source_that_only_some_methods_need(fails):
    error = fails("adapt", METHOD=("bitfit", "mpt"), **NONE)
    assert "adapt.run.distilled is not given" in error and "['mpt'] start" in error
    error = fails("adapt", METHOD=("spot", "full"), **NONE)
    assert "adapt.run.teachers is not given" in error and "['spot'] start" in error


def test_a_batch_that_does_not_divide_over_devices(fails, devices, whole_job):
    """Of the second program, and found before the first one trains."""
    devices(8)
    sources = {"TEACHER_DIR": None, "SOURCE_DIR": str(whole_job / "distill")}
    # 8 rows of the prompts' four variants with two members each, 2 of bitfit.
    prompts = ("mpt", "mpt_frozen", "prompt_tuning", "mpt_no_distillation")
    settings = {"METHOD": (*prompts, "bitfit"), "SEEDS": (0,), "BATCH_SIZE": 1}
    error = fails("adapt", **settings, **sources)
    assert "2 rows (1 for each member)" in error and "do not divide over 8 devices" in error


def test_a_backbone_without_weights(fails, toy, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(toy.backbone, broken)
    (broken / "model.safetensors").unlink()
    assert "model.safetensors" in fails("teach", INITIAL_CHECKPOINT_PATH=broken)


def test_no_such_command(capsys):
    assert main(["teech"]) == 1
    assert "did you mean 'teach'" in capsys.readouterr().err
