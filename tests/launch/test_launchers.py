"""The launchers: what they refuse, what they run, and when they run again. Real tools are stood in for."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mpt_jax.cli import COMMANDS

LAUNCH = Path(__file__).parents[2] / "launch"
AWKWARD = """--gin.X='a "b" $(c) \\ $d'"""
"""One word as mpt should get it."""

GIVEN = {
    "slurm.sh": ["--work_dir=work"],
    "tpu_vm.sh": [
        "--name=teach", "--zone=us-west4-a", "--type=v5litepod-8", "--version=v2-alpha-tpuv5-lite",
    ],
    "kubernetes.sh": ["--name=teach", "--image=example.org/mpt:1", "--claim=shared:/shared"],
    "skypilot.sh": ["--name=teach", "--accelerators=H100:8", "--bucket=gs://b"],
}  # fmt: skip
SEVERAL = {
    "slurm.sh": ["--nodes=2"],
    "tpu_vm.sh": ["--slices=2", "--nfs=10.0.0.2:/share"],
    "kubernetes.sh": ["--hosts=2"],
    "skypilot.sh": ["--nodes=2"],
}
COMMAND = ["--", "teach", "--model_dir=runs/a", AWKWARD]


@pytest.fixture(autouse=True)
def no_real_tools(tmp_path_factory, monkeypatch):
    """What a launcher forgets to refuse ends at a stand-in that fails."""
    folder = tmp_path_factory.mktemp("tools")
    for name in ("docker", "gcloud", "kubectl", "python3", "python3.11", "sbatch", "sky"):
        stand_in(folder, name, "exit 1")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def launch(folder, script, *words, path=""):
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "TMPDIR": str(folder)}
    return subprocess.run(
        [LAUNCH / script, *words],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def shown(folder, script, *more):
    """What a dry run prints; it touches nothing."""
    done = launch(folder, script, *GIVEN[script], *more, "--dry_run", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done.stdout


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


def test_several_tpu_hosts_with_a_bucket_need_no_share(tmp_path):
    (tmp_path / "mine").mkdir()
    words = [
        *GIVEN["tpu_vm.sh"],
        "--slices=2",
        f"--stage={tmp_path / 'mine'}",
        "--dry_run",
        "--",
        "teach",
    ]
    done = launch(tmp_path, "tpu_vm.sh", *words, "--model_dir=gs://b/run")
    assert done.returncode == 0, done.stderr
    assert "whl[gcs]" in done.stdout.replace("\\", "") and "nfs" not in done.stdout
    staging = [line for line in done.stdout.splitlines() if "mpt_staged" in line]
    assert staging and all("--worker=all" in line for line in staging)
    assert launch(tmp_path, "tpu_vm.sh", *words, "--model_dir=gs/run").returncode == 2


@pytest.mark.parametrize("script", ["slurm.sh", "skypilot.sh"])
def test_what_addresses_need_is_installed(script, tmp_path):
    words = [*GIVEN[script], "--dry_run", "--", "teach", "--model_dir=gs://b/run"]
    done = launch(tmp_path, script, *words, "--gin.SOURCE_DIR='s3://c/run'")
    assert "whl[gcs,s3]" in done.stdout.replace("\\", ""), done.stderr


def test_slurm_hands_the_words_on(tmp_path):
    *_, line = shown(tmp_path, "slurm.sh", "--nodes=2", "--time=1:00:00").splitlines()
    words = shlex.split(line.replace("$'", "'"))
    assert words[0] == "sbatch" and {"--requeue", "--nodes=2", "--signal=TERM@300"} <= set(words)
    read = subprocess.run(
        ["bash", "-c", f'set -- {line}; printf "%s\\n" "${{@: -3}}"'],
        capture_output=True,
        text=True,
    )
    assert read.stdout.splitlines() == ["teach", "--model_dir=runs/a", AWKWARD]


def test_kubernetes_manifest(tmp_path):
    tpu = ("--hosts=4", "--slices=2", "--tpu=tpu-v5-lite-podslice:4x4", "--spot")
    first, _, text = shown(tmp_path, "kubernetes.sh", *tpu).partition("\n")
    assert first == "kubectl create --filename=-"
    spec = yaml.safe_load(text)["spec"]
    (job,) = spec["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    quoted = AWKWARD.replace("$(", "$$(")  # as Kubernetes reads it
    assert container["command"] == ["mpt", *COMMAND[1:3], quoted, "--multiprocess"]
    assert (job["replicas"], job["template"]["spec"]["completions"]) == (2, 4)
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == "/shared"
    assert pod["volumes"] == [{"name": "work", "persistentVolumeClaim": {"claimName": "shared"}}]


def test_kubernetes_without_a_volume(tmp_path):
    given = [word for word in GIVEN["kubernetes.sh"] if not word.startswith("--claim")]
    words = [*given, "--gpus=8", "--hosts=2", "--", "teach", "--model_dir=gs://b/run"]
    done = launch(tmp_path, "kubernetes.sh", "--dry_run", *words)
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load(done.stdout.partition("\n")[2])["spec"]["replicatedJobs"][0]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][:3] == ["mpt", "teach", "--model_dir=gs://b/run"]
    assert set(container) == {"name", "image", "command", "env", "resources"}
    assert set(pod) == {"restartPolicy", "terminationGracePeriodSeconds", "containers"}
    staged = launch(tmp_path, "kubernetes.sh", f"--stage={tmp_path}", *words)
    assert (staged.returncode, "--stage copies to a volume" in staged.stderr) == (2, True)


def test_kubernetes_processes_without_tpus(tmp_path):
    text = shown(tmp_path, "kubernetes.sh", "--hosts=3", "--gpus=8").partition("\n")[2]
    job = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"][-3:] == [
        "--coordinator_address=teach-hosts-0-0.teach:9911", "--process_count=3", "--process_index=$(INDEX)",
    ]  # fmt: skip
    field = container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"]
    assert re.fullmatch(r"metadata\.annotations\['[^']+/job-completion-index'\]", field)
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2]


def test_skypilot_task(tmp_path):
    text = shown(tmp_path, "skypilot.sh", "--nodes=2", "--spot")
    task = yaml.safe_load(text.split("task.yaml\n")[1])
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    mpt = task["run"].splitlines()[-1].replace("~/mpt_env/bin/mpt", "printf '%s\\n'")
    node = {
        "SKYPILOT_NODE_IPS": "10.1.1.1\n10.1.1.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
    }
    read = subprocess.run(["bash", "-c", mpt], env=node, capture_output=True, text=True)
    assert read.stdout.splitlines() == [
        *COMMAND[1:], "--coordinator_address=10.1.1.1:9911", "--process_count=2", "--process_index=1",
    ]  # fmt: skip


def stand_in(folder, name, text):
    path = folder / name
    path.unlink(missing_ok=True)  # never write through a link
    path.write_text(f"#!/bin/bash\n{text}")
    path.chmod(0o755)


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (134, False), (75, True)])
def test_slurm_runs_again_only_after_75(code, again, tmp_path, monkeypatch):
    stand_in(tmp_path, "srun", f'echo "$@" >>srun.txt; exit {code}')
    stand_in(tmp_path, "scontrol", 'echo "$@" >>scontrol.txt')
    for name, value in {"NTASKS": 2, "JOB_ID": 7, "JOB_NODELIST": "n[1-2]"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    done = launch(tmp_path, "slurm_job.sh", "mpt", "teach", path=str(tmp_path))
    assert done.returncode == code
    assert (tmp_path / "srun.txt").read_text().endswith("mpt teach --multiprocess\n")
    assert (tmp_path / "scontrol.txt").exists() is again


GCLOUD = """
# The file `machines` holds their state, and each line of `answers` what they say next of mpt.
echo "$4 ${@: -1}" | head -1 >>calls
case "$4" in
    create) echo ACTIVE >machines ;;
    delete) rm machines ;;
    describe) cat machines ;;
    ssh)
        if [[ "${@: -1}" == *mpt-on-host* ]]; then
            answer=$(head -1 answers); sed -i 1d answers
            if [[ $answer == preempted ]]; then echo SUSPENDED >machines; exit 1; fi
            for code in $answer; do echo "mpt-on-host $code"; done
        fi ;;
esac
"""


@pytest.mark.parametrize(
    ("answers", "code", "created", "started"),
    [
        (["lost", "running", "0 0"], 0, 1, 1),
        (["lost", "running running", "75 75", "75 75", "0 0"], 0, 1, 2),
        (["lost", "running running", "preempted", "lost", "running", "0 0"], 0, 2, 2),
        (["lost", "running running", "lost 134", "lost lost", "0 0"], 0, 2, 2),
        (["lost", "75 1"], 1, 1, 1),
        (["lost", "134 137"], 137, 1, 1),
        (["lost", "running 1", "134 1"], 134, 1, 1),
        (["running", "0"], 0, 1, 0),
    ],
)
def test_when_tpu_vms_run_again(answers, code, created, started, tmp_path):
    stand_in(tmp_path, "gcloud", GCLOUD)
    stand_in(tmp_path, "sleep", "")
    stand_in(tmp_path, "python3", "")
    (tmp_path / "answers").write_text("".join(f"{answer}\n" for answer in answers))
    done = launch(tmp_path, "tpu_vm.sh", *GIVEN["tpu_vm.sh"], *COMMAND, path=str(tmp_path))
    calls = (tmp_path / "calls").read_text()
    assert done.returncode == code, done.stderr
    assert calls.count("create ") == created
    assert calls.count("mkdir -p teach-logs") == started
    assert not (tmp_path / "answers").read_text()
    assert not (tmp_path / "machines").exists()  # nothing is left running


KUBECTL = """
shift  # the namespace
case "$1 $2" in
    "--filename=- ") cat >manifest ;;
    "get pods") cat pods ;;
    "logs --follow") cat pods ;;
    "get jobset") head -1 states; sed -i 1d states; echo restarted >pods ;;
esac
"""


@pytest.mark.parametrize(("ended", "code"), [("Completed", 0), ("Failed", 1)])
def test_kubernetes_follows_to_the_end(ended, code, tmp_path):
    """Two pods one after the other: each is followed once, although the set is asked three times."""
    stand_in(tmp_path, "kubectl", KUBECTL)
    stand_in(tmp_path, "sleep", "")
    (tmp_path / "pods").write_text("first\n")
    (tmp_path / "states").write_text(f"\n\n{ended}\n")
    given = GIVEN["kubernetes.sh"]
    done = launch(tmp_path, "kubernetes.sh", *given, *COMMAND, path=str(tmp_path))
    assert done.returncode == code, done.stderr
    assert yaml.safe_load((tmp_path / "manifest").read_text())["kind"] == "JobSet"
    assert (tmp_path / "teach-logs/mpt.log").read_text() == "first\nrestarted\n"
