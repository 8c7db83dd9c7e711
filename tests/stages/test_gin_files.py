"""Every shipped gin file is run, or at least resolved and checked, on the toy tasks."""

import re

import pytest

from mpt_jax.cli import main
from mpt_jax.data import tasks
from mpt_jax.gin_files import SHIPPED
from mpt_jax.stages.data import DEFAULT_MODULES

# Those in t5x/ are for T5X's commands: tests/t5x/test_mains.py runs them. Those in paper/ are each dry-run in
# test_paper_tables.py.
SHIPPED_FILES = sorted(
    name
    for path in SHIPPED.rglob("*.gin")
    if not (name := path.relative_to(SHIPPED).as_posix()).startswith(("t5x/", "paper/"))
)
MODEL = "models/embedded.gin"

# gin file -> the command that reads it, and the files that it needs before it.
COMMANDS = {
    MODEL: ("teach", (MODEL, "runs/teach.gin")),
    "runs/teach.gin": ("teach", (MODEL, "runs/teach.gin")),
    "runs/distill.gin": ("distill", (MODEL, "runs/distill.gin")),
    "runs/adapt.gin": ("adapt", (MODEL, "runs/adapt.gin")),
    "methods.gin": ("adapt", (MODEL, "runs/adapt.gin")),
    "runs/evaluate.gin": ("evaluate", (MODEL, "runs/evaluate.gin")),
    "runs/mpt.gin": ("run", (MODEL, "runs/mpt.gin")),
    "quickstart.gin": ("run", ("quickstart.gin",)),
    "comparison.gin": ("run", ("comparison.gin",)),
    "sweeps/embedded_rates.gin": ("run", ("sweeps/embedded_rates.gin",)),
    "sweeps/embedded_distillation.gin": ("distill", ("sweeps/embedded_distillation.gin",)),
    "pretrain_embedded.gin": ("pretrain", ("pretrain_embedded.gin",)),
    # Both dry-run in test_compare.py.
    "compare.gin": None,
    "compare_embedded.gin": None,
    # Planned in test_plan.py.
    "models/t5_v1_1_xl.gin": None,
    "models/t5_v1_1_xxl.gin": None,
    # Both dry-run and run, in test_sweep.py.
    "runs/sweep.gin": None,
    "sweeps/mixture_distillation.gin": None,
    "sweeps/embedded_mixtures.gin": None,
    # Run for its answers in test_end_to_end.py; it has nothing to dry-run.
    "runs/infer.gin": None,
    # Run in test_prompt_commands.py.
    "runs/import.gin": None,
    "runs/show.gin": None,
    # Run in test_params.py.
    "runs/params.gin": None,
    # Run in test_own_table.py.
    "runs/table.gin": None,
    # Run in test_tasks.py.
    "runs/benchmark.gin": None,
    "runs/tasks.gin": None,
}


def test_none_is_forgotten():
    assert set(COMMANDS) == set(SHIPPED_FILES)


@pytest.mark.parametrize("name", [name for name in SHIPPED_FILES if COMMANDS.get(name)])
def test_a_dry_run_checks_it_and_makes_nothing(name, toy, tmp_path, capsys):
    command, files = COMMANDS[name]
    folder = tmp_path / "run"
    words = [command, "--dry_run", f"--model_dir={folder}", *(f"--gin_file={f}" for f in files)]
    if command == "pretrain":
        words += ["--gin.TRAIN_STEPS=1", "--gin.BATCH_SIZE=8"]
    else:
        flags = toy.flags(command, folder, **sources(command, tmp_path))
        words += [f for f in flags if f.startswith(("--task_module", "--gin."))]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "dry run: everything checked" in shown
    assert f"{command}.run:" in shown or command in ("run", "pretrain")
    assert not folder.exists()


def sources(command, tmp_path):
    """Runs of earlier stages, which a dry run need not find."""
    missing = {name: str(tmp_path / name) for name in ("teach", "distill")}
    return {
        "distill": {"TEACHER_DIR": missing["teach"]},
        "adapt": {"TEACHER_DIR": missing["teach"], "SOURCE_DIR": missing["distill"]},
        "evaluate": {"SOURCES": (missing["teach"],)},
    }.get(command, {})


@pytest.mark.parametrize("name", SHIPPED_FILES)
def test_its_tasks_are_registered(name):
    tasks.load_task_modules(DEFAULT_MODULES)
    named = re.findall(r'^\w*MIXTURE_OR_TASK_NAME = "(\w+)"', (SHIPPED / name).read_text(), re.M)
    assert all(tasks.expand(task) for task in named)
