"""What the launchers refuse before they touch anything."""

import shutil
import subprocess

import pytest

from mpt_jax.cli import COMMANDS

from .conftest import COMMAND, GIVEN, LAUNCH, SEVERAL, launch, stand_in


@pytest.mark.parametrize("script", GIVEN)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nam=x", *COMMAND], "unknown option --nam"),
        (["teach"], "the mpt command stands after --"),
        ([], "the mpt command is missing"),
        (["--", "teach"], "no --model_dir"),
        (
            ["--", "nonsense", "--model_dir=a"],
            "nonsense is no command of mpt; after -- comes one of quickstart, run,",
        ),
        (["--", "mpt", "teach", "--model_dir=a"], "without mpt"),
        ([*COMMAND, "--process_index=0"], "is given by this script"),
        ([*COMMAND, "--gin.X=a\nb"], "more than one line"),
        (["--dry_run=no", *COMMAND], "--dry_run takes no value"),
        (["--stage=nowhere", *COMMAND], "nowhere is no folder"),
        (["--name=Big", *COMMAND], "expected small letters"),
    ],
)
def test_what_all_refuse(script, words, message, tmp_path):
    done = launch(tmp_path, script, *GIVEN[script], *words)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", GIVEN)
def test_what_several_processes_refuse(script, tmp_path):
    words = [*GIVEN[script], *SEVERAL[script], "--", "paper", "--model_dir=a"]
    refusal = launch(tmp_path, script, *words).stderr
    assert "mpt paper is for one process: give it one host (" in refusal
    assert "several hosts take quickstart, run, teach, distill, adapt, evaluate" in refusal
    words = [*GIVEN[script], *SEVERAL[script], "--", "sweep", "--model_dir=a"]
    assert "start it again under another --name" in launch(tmp_path, script, *words).stderr


def test_the_commands_are_those_of_mpt():
    names = 'printf "%s " "${on_several[@]}"; echo; printf "%s " "${on_one[@]}"'
    read = subprocess.run(
        ["bash", "-c", f"source {LAUNCH}/common.sh; {names}"], capture_output=True, text=True
    )
    on_several, on_one = (line.split() for line in read.stdout.splitlines())
    assert on_several == [name for name, command in COMMANDS.items() if command.on_several]
    assert on_one == [name for name, command in COMMANDS.items() if not command.on_several]


@pytest.mark.parametrize("script", GIVEN)
def test_what_is_missing(script, tmp_path):
    for given in GIVEN[script]:
        others = [word for word in GIVEN[script] if word != given]
        done = launch(tmp_path, script, *others, *COMMAND)
        name = given.partition("=")[0]
        assert (done.returncode, f"{name}=VALUE is missing" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("script", "word", "message"),
    [
        ("slurm.sh", "--nodes=0", "whole number"),
        ("slurm.sh", "--grace=5m", "whole number"),
        ("slurm.sh", "--time=forever", "expected minutes, MINUTES:SECONDS"),
        ("slurm.sh", "--time=1:2:3:4", "expected minutes, MINUTES:SECONDS"),
        ("slurm.sh", "--time=1-", "expected minutes, MINUTES:SECONDS"),
        ("tpu_vm.sh", "--zone=here", "expected one like us-west4-a"),
        ("tpu_vm.sh", "--type=a100", "expected one like v5litepod-16"),
        ("tpu_vm.sh", "--type=v5litepod-16", "need --nfs"),
        ("kubernetes.sh", "--claim=shared", "expected NAME:/PATH"),
        ("kubernetes.sh", "--install=jax[tpu]", "--install is for --build"),
        ("kubernetes.sh", "--tpu=v5e", "expected TYPE:TOPOLOGY"),
        ("kubernetes.sh", "--slices=2", "needs --tpu"),
        ("skypilot.sh", "--bucket=here", "expected one like gs://NAME"),
        ("skypilot.sh", "--accelerators=H100:0", "expected one like H100:8"),
    ],
)
def test_what_one_refuses(script, word, message, tmp_path):
    done = launch(tmp_path, script, *GIVEN[script], word, *COMMAND)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


NEEDED = "bash basename cat dirname mktemp realpath rm sed".split()
"""What the scripts themselves call before they touch anything."""


@pytest.mark.parametrize(
    ("script", "tools"),
    [
        ("slurm.sh", ["sbatch", "python3"]),
        ("tpu_vm.sh", ["gcloud", "python3"]),
        ("kubernetes.sh", ["kubectl", "docker", "python3"]),
        ("skypilot.sh", ["sky", "python3"]),
    ],
)
def test_a_missing_tool_is_named_before_anything_is_done(script, tools, tmp_path, monkeypatch):
    bin_folder, work = tmp_path / "bin", tmp_path / "work"
    work.mkdir()
    bin_folder.mkdir()
    for name in NEEDED:
        (bin_folder / name).symlink_to(shutil.which(name))
    for name in {*tools, "python3.11"}:
        stand_in(bin_folder, name, "")
    monkeypatch.setenv("PATH", str(bin_folder))
    words = [*GIVEN[script], *(["--build"] if "docker" in tools else [])]
    for tool in tools:
        (bin_folder / tool).rename(tmp_path / tool)
        done = launch(work, script, *words, *COMMAND)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"{tool} is not on this machine: it is a part of " in line
        assert not list(work.iterdir())
        dry = launch(work, script, *words, "--dry_run", *COMMAND)
        assert (dry.returncode, dry.stderr) == (0, "")
        (tmp_path / tool).rename(bin_folder / tool)
    stand_in(bin_folder, "python3", "exit 1")  # as where pip is missing
    assert "python3 has no pip" in launch(work, script, *words, *COMMAND).stderr
    assert not list(work.iterdir())


@pytest.fixture
def slurm(tmp_path):
    """Runs slurm.sh in an empty folder, with a stand-in of sbatch that prints its words."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "here").mkdir()
    stand_in(tmp_path / "bin", "python3", "")
    stand_in(tmp_path / "bin", "sbatch", 'printf "%s\\n" "$@"')

    def run(*words):
        path = str(tmp_path / "bin")
        return launch(
            tmp_path / "here", "slurm.sh", *GIVEN["slurm.sh"], *words, *COMMAND, path=path
        )

    return run


@pytest.mark.parametrize(
    "time",
    ["90", "90:30", "4:00:00", "2-0", "2-12:30", "2-12:30:15", "UNLIMITED", "infinite"],
)
def test_times_that_slurm_takes(time, slurm):
    assert f"--time={time}" in slurm("--dry_run", f"--time={time}").stdout


def test_an_mpt_for_slurm(slurm, tmp_path):
    done = slurm("--mpt=mine/mpt")  # perhaps on the nodes' disks
    assert done.returncode == 0
    assert f"{tmp_path}/here/mine/mpt is not on this machine; the nodes must have it" in done.stderr
    (tmp_path / "here/mine").mkdir()
    done = slurm("--mpt=mine/mpt")
    assert (done.returncode, "mine/mpt cannot be executed" in done.stderr) == (2, True)
    assert slurm("--mpt=mine/mpt", "--dry_run").returncode == 0
    stand_in(tmp_path / "here/mine", "mpt", "")
    done = slurm("--mpt=mine/mpt")  # mpt is called in another folder
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/here/mine/mpt" in done.stdout.splitlines()
    assert "--install is for" in slurm("--mpt=mine/mpt", "--install=jax").stderr


@pytest.mark.parametrize("python", ["python9", "./old"])
def test_a_python_for_slurm(python, slurm, tmp_path):
    stand_in(tmp_path / "here", "old", "exit 1")
    done = slurm(f"--python={python}")
    assert (done.returncode, "expected a Python from 3.11 on" in done.stderr) == (2, True)
    assert not (tmp_path / "here/work").exists()
    assert slurm(f"--python={python}", "--dry_run").returncode == 0


def test_the_slurm_job_by_hand(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    done = launch(tmp_path, "slurm_job.sh", "mpt", "teach")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "call slurm.sh" in line
