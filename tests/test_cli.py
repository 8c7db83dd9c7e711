import os
import signal
import subprocess
import sys
import time
import types

import jax
import pytest

from mpt_jax import cli, processes
from mpt_jax.cli import COMMANDS, Command, main
from mpt_jax.errors import Stopped, UserError

calls = []
SIGNALS = {97: signal.SIGTERM, 98: signal.SIGINT}


def run(
    *, model_dir: str, task_modules: tuple = (), steps: int = 1, dry_run=False, config_text=None
):
    if steps < 0:
        raise UserError(f"steps is {steps}, expected 0 or more")
    if steps > 99:
        raise Stopped("stopped at step 99; the same command goes on from there")
    if steps == 13:
        raise ZeroDivisionError
    if steps in SIGNALS:
        os.kill(os.getpid(), SIGNALS[steps])
        time.sleep(60)
    calls.append((model_dir, task_modules, steps, dry_run, config_text()))


@pytest.fixture
def doll(monkeypatch):
    package = types.ModuleType("doll_commands")
    package.__path__ = []
    module = types.ModuleType("doll_commands.doll")
    module.run = run
    package.doll = module
    monkeypatch.setitem(sys.modules, "doll_commands", package)
    monkeypatch.setitem(sys.modules, "doll_commands.doll", module)
    monkeypatch.setattr(run, "__module__", "doll_commands.doll")
    monkeypatch.setitem(COMMANDS, "doll", Command("doll_commands.doll", "a doll"))
    monkeypatch.setattr(cli, "prepare_process", lambda: None)
    calls.clear()
    return module


def test_flags_reach_the_stage_and_the_operative_text(doll):
    arguments = [
        "doll",
        "--model_dir=d",
        "--gin.doll.run.steps=3",
        "--dry_run",
        "--task_module",
        "t.py",
    ]
    assert main(arguments) == 0
    ((model_dir, task_modules, steps, dry_run, text),) = calls
    assert (model_dir, task_modules, steps, dry_run) == ("d", ("t.py",), 3, True)
    assert "MODEL_DIR = 'd'" in text and "run.steps = 3" in text


def test_gin_flags_may_stand_before_the_command(doll):
    assert main(["--gin.doll.run.steps=3", "doll", "--model_dir=d"]) == 0
    assert calls[0][2] == 3


def test_flags_of_a_stage_of_its_own(doll, monkeypatch):
    monkeypatch.setattr(
        doll,
        "add_arguments",
        lambda parser: parser.add_argument("--steps", type=int),
        raising=False,
    )
    assert main(["doll", "--model_dir=d", "--steps=4"]) == 0
    assert calls[0][2] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["doll", "--model_dir=d", "--gin.doll.run.steps=-1"],
            1,
            "steps is -1, expected 0 or more",
        ),
        (["doll", "--model_dir=d", "--gin.doll.run.steps=100"], 75, "stopped at step 99"),
        (["teech"], 1, "unknown command 'teech'; did you mean 'teach'"),
        (["--gin.A=1"], 1, "no command given"),
        (["doll"], 1, "--gin.doll.run.model_dir=VALUE"),
        (["doll", "--gin_file=absent.gin"], 1, "unknown gin file 'absent.gin'"),
        (
            ["doll", "--gin.doll.run.model_dir=gs://b/x"],
            1,
            "got gs://b/x; strings need quotes inside: --gin.doll.run.model_dir=\"'gs://b/x'\"",
        ),
    ],
)
def test_exit_codes_and_messages(doll, capsys, arguments, code, message):
    assert main(arguments) == code
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors


def test_wrong_usage_exits_with_two(doll):
    with pytest.raises(SystemExit) as caught:
        main(["doll", "--no_such_flag"])
    assert caught.value.code == 2


def test_a_bug_is_not_taken_for_a_user_error(doll):
    with pytest.raises(ZeroDivisionError):
        main(["doll", "--model_dir=d", "--gin.doll.run.steps=13"])


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Read error: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("Gloo context is gone"), True),
        (ValueError("rows: got 3"), False),
        (KeyError("UNKNOWN"), False),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_one_of_several_waits_for_the_others_where_a_collective_may_have_failed(
    monkeypatch, capsys, error, waits, wrapped
):
    """JAX then aborts it if another is dead; with a mistake of its own it ends at once."""

    def fails(arguments):
        if not wrapped:
            raise error
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("the checkpoint was not saved") from cause

    def exits(code):
        raise SystemExit(code)

    monkeypatch.setattr(processes, "one_of_several", lambda: True)
    monkeypatch.setattr(cli, "_dispatch", fails)
    monkeypatch.setattr("os._exit", exits)
    if waits:
        assert main(["teach"]) == 1
        said = capsys.readouterr().err
        assert "Traceback" in said and "mpt: the processes have lost each other" in said
    else:
        with pytest.raises(SystemExit) as ended:
            main(["teach"])
        assert ended.value.code == 1


@pytest.mark.parametrize("steps", SIGNALS)
def test_a_signal_outside_of_the_loop_asks_for_the_same_command(doll, capfd, steps):
    number = SIGNALS[steps]
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        main(["doll", "--model_dir=d", f"--gin.doll.run.steps={steps}"])
    assert ended.value.code == 75
    assert f"{number.name}: stopped; give the same command again" in capfd.readouterr().err
    assert signal.getsignal(number) == before


def test_what_several_processes_cannot_run(capsys):
    assert main(["sweep", "--multiprocess"]) == 1
    message = capsys.readouterr().err
    assert "mpt sweep is for one process; on several run quickstart, run, teach" in message


def test_help_names_every_command_and_loads_nothing_heavy():
    """Start-up stays fast: neither TensorFlow nor JAX nor gin is needed to say what there is."""
    code = (
        "import sys, mpt_jax, mpt_jax.cli; code = mpt_jax.cli.main(['--help']); "
        "heavy = {'tensorflow', 'jax', 'seqio', 'flax', 'torch', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert all(f"  {name} " in result.stdout for name in COMMANDS)


def test_python_m_is_the_same():
    result = subprocess.run(
        [sys.executable, "-m", "mpt_jax"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert "usage: mpt COMMAND" in result.stdout


def test_a_command_that_reads_a_file_of_its_own_and_launches_others(
    doll, monkeypatch, tmp_path, capsys
):
    """Its file comes before those of the user, who has the last word; errors come out as they are."""
    (tmp_path / "first.gin").write_text(
        "STEPS = 1\nfrom doll_commands import doll\ndoll.run.steps = %STEPS\n"
    )
    (tmp_path / "second.gin").write_text("STEPS = 2\n")
    for name in ("first", "second"):
        path = tmp_path / f"{name}.gin"
        path.write_text("from __gin__ import dynamic_registration\n" + path.read_text())
    package = sys.modules["doll_commands"]
    leader = types.ModuleType("doll_commands.leader")

    def run(launch, gin_words, more):
        launch(["doll", *gin_words, "--model_dir=d", "--gin.doll.run.dry_run=True"])
        launch(["doll", *gin_words, f"--gin.STEPS={more}", "--model_dir=e"])

    run.__module__, leader.run = "doll_commands.leader", run
    leader.add_arguments = lambda parser: (
        parser.add_argument("name"), parser.add_argument("--more", type=int)
    )  # fmt: skip
    leader.gin_files = lambda given: (str(tmp_path / f"{given.pop('name')}.gin"),)
    package.leader = leader
    monkeypatch.setitem(sys.modules, "doll_commands.leader", leader)
    monkeypatch.setitem(COMMANDS, "leader", Command("doll_commands.leader", "leads"))
    second = f"--gin_file={tmp_path / 'second.gin'}"
    assert main(["leader", "first", "--more=5", second]) == 0
    assert [(directory, steps, dry) for directory, _, steps, dry, _ in calls] == [
        ("d", 2, True), ("e", 5, False),
    ]  # fmt: skip
    assert main(["leader", "first", "--more=-1"]) == 1
    assert "steps is -1" in capsys.readouterr().err
    assert main(["leader", "first", "--more=100"]) == 75
    assert main(["leader", "frist", "--more=5"]) == 1
