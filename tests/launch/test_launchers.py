"""What the launchers run, and when they run again."""

import re
import shlex
import subprocess

import pytest
import yaml

from .conftest import AWKWARD, COMMAND, GIVEN, launch, shown, stand_in


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
