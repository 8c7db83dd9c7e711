"""mpt import, export, add-task, merge and show, on the prompts of a finished run and on others'."""

import contextlib
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mpt_jax import bucket_lock
from mpt_jax.cli import main
from mpt_jax.errors import UserError
from mpt_jax.methods import prompt_file
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.methods.prompt_sources import load_prompts
from mpt_jax.places import Bucket
from mpt_jax.stages import add_task

TASKS = ("toy_head", "toy_tail", "toy_sound")


@pytest.fixture
def mpt(capsys):
    """Runs a command that must succeed (or fail, with `code=1`), and returns what it said."""

    def run(*words, code=0):
        assert main([str(word) for word in words]) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return re.sub(r"\s+", " ", captured.out if code == 0 else captured.err)

    return run


@pytest.fixture
def distilled(whole_job):
    return whole_job / "distill" / "prompts" / "mpt" / "seed0.safetensors"


@pytest.fixture
def of_backbone(toy):
    """The flag that says which backbone."""
    return f"--gin.INITIAL_CHECKPOINT_PATH={str(toy.backbone)!r}"


def answers(toy, prompts, *flags, capsys):
    capsys.readouterr()
    assert toy.run("infer", None, f"--prompts={prompts}", *flags) == 0
    return capsys.readouterr().out


def test_a_run_to_peft_and_back(mpt, whole_job, distilled, of_backbone, tmp_path):
    adapter, back = tmp_path / "adapter", tmp_path / "back.safetensors"
    run = whole_job / "distill"
    said = mpt("export", run, "--format=peft", f"--output={adapter}", code=1)
    assert "--name=mpt/seed0" in said
    said = mpt("export", run, "--name=mpt/seed0", "--format=peft", f"--output={adapter}")
    names = load_prompt_file(distilled).metadata.task_names
    assert set(names) == set(TASKS)
    assert all(f"task_ids {k}: {task}" in said for k, task in enumerate(names))
    said = mpt("import", adapter, f"--output={back}", of_backbone)
    assert "on your word" in said
    before, after = load_prompt_file(distilled), load_prompt_file(back)
    assert before.metadata.task_names == after.metadata.task_names
    assert before.metadata.backbone_fingerprint == after.metadata.backbone_fingerprint
    assert before.metadata.vocabulary_fingerprint == after.metadata.vocabulary_fingerprint
    for name, array in before.arrays.items():
        assert after.arrays[name].tobytes() == array.tobytes()
    assert "is a prompt file of mpt_jax already" in mpt(
        "import", back, f"--output={tmp_path / 'x.safetensors'}", of_backbone, code=1
    )


def test_names_given_at_import(mpt, distilled, of_backbone, tmp_path):
    adapter, out = tmp_path / "adapter", tmp_path / "out.safetensors"
    mpt("export", distilled, "--format=peft", f"--output={adapter}")
    (adapter / "tasks.json").unlink()
    words = ["import", adapter, f"--output={out}", of_backbone]
    assert "3 task(s), but 1 name(s)" in mpt(*words, "--task_name=a", code=1)
    mpt(*words, "--task_name=a", "--task_name=b", "--task_name=c")
    assert load_prompt_file(out).metadata.task_names == ("a", "b", "c")
    assert "exists" in mpt(*words, code=1)
    other = tmp_path / "other.safetensors"
    assert "note: " in (said := mpt("import", adapter, f"--output={other}", of_backbone))
    assert "they are called task0" in said


def test_import_refuses_another_width(mpt, of_backbone, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 17), np.float32))
    out = tmp_path / "x.safetensors"
    said = mpt("import", tmp_path / "x.npy", f"--output={out}", of_backbone, code=1)
    assert "width 17" in said and "width 16" in said and not out.exists()
    said = mpt("import", tmp_path / "x.npy", f"--output={out}", code=1)
    assert "INITIAL_CHECKPOINT_PATH" in said


def test_one_task_as_an_array(mpt, distilled, tmp_path):
    words = ["export", distilled, "--format=npy", f"--output={tmp_path / 'x.npy'}"]
    assert "Choose one with --task=NAME" in mpt(*words, code=1)
    assert "did you mean 'toy_tail'" in mpt(*words, "--task=toy_tial", code=1)
    assert "--base_model does not go with" in mpt(*words, "--base_model=t5", code=1)
    mpt(*words, "--task=toy_tail")
    expected = load_prompt_file(distilled).prompt("toy_tail")
    assert np.load(tmp_path / "x.npy").tobytes() == expected.tobytes()


def test_foreign_prompts_answer_as_our_own(toy, mpt, distilled, tmp_path, capsys, monkeypatch):
    """PEFT, .npy, numpy_checkpoints, merged and by reference: the same texts out."""
    monkeypatch.setattr("sys.stdin.read", lambda: "badge\nkit\n", raising=False)
    wanted = "--task=toy_tail"
    expected = answers(toy, distilled, wanted, capsys=capsys)
    forms = {"peft": "adapter", "npy": "x.npy", "factors": "tasks"}
    for form, name in forms.items():
        task = [wanted] if form == "npy" else []
        mpt("export", distilled, f"--format={form}", f"--output={tmp_path / name}", *task)
    mpt("export", distilled, "--format=npy", wanted, f"--output={tmp_path / 'run'}")
    mpt("merge", distilled, f"--output={tmp_path / 'merged.safetensors'}")
    for name in ("tasks/toy_tail.safetensors", "tasks", "merged.safetensors"):
        assert answers(toy, tmp_path / name, wanted, capsys=capsys) == expected
    for name in ("adapter", "x.npy", "run"):
        task = [wanted] if name == "adapter" else []
        with pytest.warns(UserWarning, match="cannot be verified"):
            assert answers(toy, tmp_path / name, *task, capsys=capsys) == expected


def test_evaluate_takes_a_file_that_refers(toy, whole_job, tmp_path):
    run, prompts = tmp_path / "distill", tmp_path / "distill" / "prompts" / "mpt"
    shutil.copytree(whole_job / "distill", run)
    file = load_prompt_file(prompts / "seed0.safetensors")
    shared, about = file.take([]), file.metadata.arguments()
    path = save_prompt_file(
        prompts / "shared.safetensors", shared.arrays, **about | {"task_names": ()}
    )
    (prompts / "seed0.safetensors").unlink()
    references = {"shared": path}
    save_prompt_file(prompts / "seed0.safetensors", file.arrays, **about, references=references)
    scores = []
    for number, source in enumerate((whole_job / "distill", run)):
        folder = tmp_path / f"scores{number}"
        assert toy.run("evaluate", folder, SOURCES=(str(source),), MAX_EXAMPLES=4) == 0
        scores.append(json.loads((folder / "results.json").read_text())["scores"])
    assert scores[0] == scores[1] and scores[0]


def test_merge_multiplies_out(mpt, distilled, tmp_path):
    out = tmp_path / "out.safetensors"
    mpt("merge", distilled, f"--output={out}", "--task=toy_tail", "--task=toy_head")
    merged, before = load_prompt_file(out), load_prompt_file(distilled)
    assert merged.metadata.kind == "prompt_tuning"
    assert merged.metadata.task_names == ("toy_tail", "toy_head")
    assert merged.metadata.backbone_fingerprint == before.metadata.backbone_fingerprint
    for task in merged.metadata.task_names:
        assert merged.prompt(task).tobytes() == before.prompt(task).tobytes()
    assert "exists" in mpt("merge", distilled, f"--output={out}", code=1)


@pytest.fixture
def parts(mpt, distilled, tmp_path):
    """Two MPT files that share P*, with the tasks (toy_head, toy_tail) and (toy_sound,)."""
    file = load_prompt_file(distilled)
    for name, tasks in (("two", TASKS[:2]), ("one", TASKS[2:])):
        taken = file.take(tasks)
        save_prompt_file(
            tmp_path / f"{name}.safetensors", taken.arrays, **taken.metadata.arguments()
        )
    return tmp_path / "two.safetensors", tmp_path / "one.safetensors"


def test_add_task_grows_a_file_or_writes_a_new_one(mpt, distilled, parts, tmp_path):
    two, one = parts
    before, whole = two.read_bytes(), load_prompt_file(distilled)
    mpt("add-task", two, f"--source={one}", f"--output={tmp_path / 'new.safetensors'}")
    assert two.read_bytes() == before
    mpt("add-task", two, f"--source={one}")
    assert two.read_bytes() == (tmp_path / "new.safetensors").read_bytes()
    grown = load_prompt_file(two)
    assert grown.metadata.task_names == TASKS
    for task in TASKS:
        assert grown.prompt(task).tobytes() == whole.prompt(task).tobytes()
    assert "holds the tasks ['toy_sound'] already" in mpt(
        "add-task", two, f"--source={one}", code=1
    )


def test_add_task_to_a_folder_of_factors(mpt, parts, tmp_path):
    two, one = parts
    folder = tmp_path / "tasks"
    mpt("export", two, "--format=factors", f"--output={folder}")
    mpt("add-task", folder, f"--source={one}")
    small = load_prompt_file(folder / "toy_sound.safetensors")
    assert small.metadata.references["shared"].file == "shared.safetensors"
    assert small.prompt().tobytes() == load_prompt_file(one).prompt().tobytes()
    assert "exists" in mpt("add-task", folder, f"--source={one}", code=1)
    assert "leave out --output" in mpt(
        "add-task", folder, f"--source={one}", "--output=x.safetensors", code=1
    )
    # A small file grows too, and still refers.
    mpt("add-task", folder / "toy_head.safetensors", f"--source={one}")
    grown = load_prompt_file(folder / "toy_head.safetensors")
    assert grown.metadata.task_names == ("toy_head", "toy_sound") and grown.metadata.references
    assert "takes its 'shared' from shared.safetensors" not in mpt(
        "show", folder / "shared.safetensors"
    )
    assert "taken from shared.safetensors" in mpt("show", folder / "toy_head.safetensors")


@pytest.fixture
def both_write_at_once(monkeypatch):
    """Runs functions side by side; each writes its file when all have come so far, if they do."""
    write_whole = prompt_file.write_whole

    def run(*functions):
        together = threading.Barrier(len(functions))

        def written(path, data):
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(1.0)  # where one holds the lock, the other does not come
            write_whole(path, data)

        monkeypatch.setattr(prompt_file, "write_whole", written)
        with ThreadPoolExecutor(len(functions)) as pool:
            futures = [pool.submit(function) for function in functions]
        monkeypatch.setattr(prompt_file, "write_whole", write_whole)
        return [future.exception() for future in futures]

    return run


def test_two_that_add_to_one_file_lose_no_task(mpt, parts, tmp_path, both_write_at_once):
    two, one = map(str, parts)
    errors = both_write_at_once(
        lambda: add_task.run(one, two, TASKS[:1]), lambda: add_task.run(one, two, TASKS[1:2])
    )
    assert errors == [None, None]
    names = load_prompt_file(one).metadata.task_names
    assert names[0] == TASKS[2] and set(names) == set(TASKS)
    # A writer that was killed stands in nobody's way, and nothing is left beside the prompts.
    lock = tmp_path / ".one.safetensors.lock"
    lock.write_text("process 1 on a host that is gone\n")
    assert "toy_tail'] already" in mpt("add-task", one, f"--source={one}", code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one.safetensors",
        "two.safetensors",
    ]
    lock.mkdir()
    said = mpt("add-task", one, f"--source={two}", code=1)
    assert "one.safetensors cannot be locked" in said and "Is a directory" in said


def test_two_that_add_one_task_to_a_folder_do_not_overwrite(
    mpt, parts, tmp_path, both_write_at_once
):
    two, one = map(str, parts)
    folder = tmp_path / "tasks"
    mpt("export", two, "--format=factors", f"--output={folder}")
    before = sorted(path.name for path in folder.iterdir())
    errors = both_write_at_once(*[lambda: add_task.run(str(folder), one)] * 2)
    assert sorted(map(type, errors), key=str) == sorted([type(None), UserError], key=str)
    assert any("toy_sound.safetensors exists" in str(error) for error in errors)
    after = sorted(path.name for path in folder.iterdir())
    assert after == sorted([*before, "toy_sound.safetensors"])


def test_add_task_in_a_bucket_changes_what_it_would_on_a_disk(
    mpt, parts, tmp_path, bucket, monkeypatch
):
    two, one = parts
    folder = tmp_path / "tasks"
    mpt("export", two, "--format=factors", f"--output={folder}")
    shutil.copytree(folder, bucket / "p" / "tasks")
    shutil.copy(two, bucket / "p")
    for place in (two, folder, folder / "toy_head.safetensors"):
        there = place.relative_to(tmp_path)
        mpt("add-task", place, f"--source={one}")
        said = mpt("add-task", f"gs://bucket/p/{there}", f"--source={one}")
        assert f"gs://bucket/p/{there}" in said and "working" not in said
    names = sorted(path.name for path in (bucket / "p" / "tasks").glob("*.safetensors"))
    assert names == sorted(path.name for path in folder.iterdir())
    for path in (two, *folder.iterdir()):
        far = bucket / "p" / path.relative_to(tmp_path)
        assert far.read_bytes() == path.read_bytes()
    again = mpt("add-task", "gs://bucket/p/tasks", f"--source={one}", code=1)
    assert "gs://bucket/p/tasks/toy_sound.safetensors exists" in again
    assert "nothing is there" in mpt("add-task", "gs://bucket/q/a", f"--source={one}", code=1)
    assert not (bucket / "q").exists()

    monkeypatch.setattr(bucket_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(bucket_lock, "ENDING_SECONDS", 0.1)
    with bucket_lock.bucket_lock(Bucket("gs://bucket/p")):
        said = mpt("add-task", "gs://bucket/p/two.safetensors", f"--source={one}", code=1)
    assert "is writing gs://bucket/p" in said


def test_add_task_compares_shared_prompts_by_hash(mpt, whole_job, parts):
    two, _ = parts
    adapted = whole_job / "adapt" / "prompts" / "toy_turn" / "k4" / "seed0" / "mpt.safetensors"
    before = two.read_bytes()
    said = mpt("add-task", two, f"--source={adapted}", code=1)
    hashes = re.findall(r"SHA-256 (\w{16})|\((\w{16})\.\.\.\)", said)
    assert len(hashes) == 2 and "learning rate of 0" in said
    teacher = next((whole_job / "teach" / "prompts").rglob("*.safetensors"))
    assert "prompt_tuning, which have no task factors" in mpt(
        "add-task", two, f"--source={teacher}", code=1
    )
    assert two.read_bytes() == before


def test_show_compares_with_a_backbone(mpt, toy, distilled, other_backbone, tmp_path):
    flags = ["--gin_file=runs/show.gin", f"--gin.INITIAL_CHECKPOINT_PATH={str(toy.backbone)!r}"]
    said = mpt("show", distilled, *flags, "--gin.NEAREST=2")
    assert "cosines of whole prompts" in said and "cosines of mean slots" in said
    assert "norms of slots and factors" in said and "nearest tokens: toy_tail" in said
    assert "ratio: rms over the embeddings'" in said
    plain = mpt("show", distilled)
    assert "nearest tokens" not in plain and "cosines of mean slots" in plain
    flags[1] = f"--gin.INITIAL_CHECKPOINT_PATH={str(other_backbone)!r}"
    assert "was trained on the backbone tiny" in mpt("show", distilled, *flags, code=1)
    mpt("export", distilled, "--format=peft", f"--output={tmp_path / 'adapter'}")
    said = mpt("show", tmp_path / "adapter")
    assert "not told by the file" in said and "toy_sound" in said


def test_adapters_as_teachers_and_as_shared_prompts(toy, mpt, whole_job, tmp_path):
    """SOURCE_DIR and TEACHER_DIR are folders of adapters, named as a run's files are."""
    shared, teachers = tmp_path / "shared", tmp_path / "teachers"
    for name in ("mpt", "mpt_no_distillation"):
        words = ["export", whole_job / "distill", f"--name={name}/seed0", "--format=peft"]
        mpt(*words, f"--output={shared / name}")
    for path in sorted((whole_job / "teach" / "prompts").rglob("*.safetensors")):
        (task,) = load_prompts(path).metadata.task_names
        mpt("export", path, "--format=peft", f"--output={teachers / task}")
    common = {"MIXTURE_OR_TASK_NAME": "toy_turn", "SEEDS": (0,), "TRAIN_STEPS": 2}
    own = {"SOURCE_DIR": str(whole_job / "distill"), "TEACHER_DIR": str(whole_job / "teach")}
    assert toy.run("adapt", tmp_path / "ours", **common, **own) == 0
    foreign = {"SOURCE_DIR": str(shared), "TEACHER_DIR": str(teachers)}
    with pytest.warns(UserWarning, match="cannot be verified"):
        assert toy.run("adapt", tmp_path / "theirs", **common, **foreign) == 0
    ours, theirs = (toy.prompts(tmp_path / name) for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys() and len(ours) > 3
    for name, array in ours.items():
        np.testing.assert_array_equal(theirs[name], array, err_msg=name)
    # One adapter cannot stand for two distilled variants.
    foreign["SOURCE_DIR"] = str(shared / "mpt_no_distillation")
    with pytest.warns(UserWarning, match="cannot be verified"):
        assert toy.run("adapt", tmp_path / "alone", "--dry_run", **common, **foreign) == 1
    # For the only one that is asked for it does, whatever it is called.
    common["METHOD"] = ("mpt", "spot")
    with pytest.warns(UserWarning, match="cannot be verified"):
        assert toy.run("adapt", tmp_path / "alone", "--dry_run", **common, **foreign) == 0


def test_a_folder_is_searched_for_prompts_but_not_for_arrays(mpt, distilled, tmp_path):
    folder = tmp_path / "many"
    mpt("export", distilled, "--format=peft", f"--output={folder / 'v1.0'}")
    shutil.copy(distilled, folder / "ours.safetensors")
    np.save(folder / "embeddings.npy", np.zeros((3, 16), np.float32))
    said = mpt("export", folder, "--format=npy", f"--output={tmp_path / 'x'}", code=1)
    assert "holds 2 prompt files" in said and "--name=v1.0" in said and "--name=ours" in said
    said = mpt(
        "export", folder, "--name=v1.00", "--format=npy", f"--output={tmp_path / 'x'}", code=1
    )
    assert "did you mean 'v1.0'" in said


def test_a_warning_needs_no_line_of_code(toy, mpt, distilled, tmp_path, monkeypatch):
    import warnings

    mpt("export", distilled, "--format=peft", f"--output={tmp_path / 'adapter'}")
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings, "showwarning",
            lambda message, category, *place: shown.append(
                warnings.formatwarning(message, category, *place[:2])
            ),
        )  # fmt: skip
        flags = ["--gin_file=runs/show.gin", f"--gin.INITIAL_CHECKPOINT_PATH={str(toy.backbone)!r}"]
        mpt("show", tmp_path / "adapter", *flags)
    assert [line for line in shown if line.startswith("mpt: warning: ") and ".py" not in line]


def test_a_tasks_list_is_json_that_people_can_edit(mpt, distilled, tmp_path):
    mpt("export", distilled, "--format=peft", f"--output={tmp_path / 'adapter'}")
    path = tmp_path / "adapter" / "tasks.json"
    listed = json.loads(path.read_text())
    path.write_text(json.dumps(listed | {"tasks": ["x", "y", "z"]}))
    assert load_prompts(tmp_path / "adapter").metadata.task_names == ("x", "y", "z")
