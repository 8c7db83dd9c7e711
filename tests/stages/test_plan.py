"""`mpt plan`: real steps compiled without weights, on CPU devices and, ahead of time, for TPUs."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from mpt_jax.cli import main
from mpt_jax.planning.chips import CHIPS

NO_LIBTPU = "needs libtpu, which the extra `plan` brings: pip install 'mpt_jax[plan]'"
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason=NO_LIBTPU)
ONE_VARIANT = "--gin.distill.run.variants=(@mpt/distill.Variant(),)"
ACCUMULATE = "--gin.distill/fleet.Training.accumulate=2"
EMBEDDED = "--gin_file=models/embedded.gin"
OURS = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")  # settings of conftest.py


def words(stage, *more, files=(EMBEDDED,), topology="cpu:8", **macros):
    given = {"TRAIN_STEPS": 100, "BATCH_SIZE": 8, **macros}
    return [
        "plan", stage, *files, f"--gin_file=runs/{stage}.gin", f"--topology={topology}",
        *(f"--gin.{name}={value!r}" for name, value in given.items()), *more,
    ]  # fmt: skip


def planned(capsys, *arguments, code=0, **options):
    """What `mpt plan ... --json` says, in this process."""
    assert main(words(*arguments, "--json", **options)) == code
    return json.loads(capsys.readouterr().out)


def on_tpu(*arguments, **options):
    """The same in a process of its own, as libtpu is to be told of the topology first."""
    environment = {k: v for k, v in os.environ.items() if k not in OURS}
    command = [sys.executable, "-m", "mpt_jax", *words(*arguments, "--json", **options)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert found.returncode in (0, 1), found.stderr
    return json.loads(found.stdout)


def alone(script, stderr=""):
    """What a script prints in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in OURS}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert stderr in found.stderr
    return found.stdout


def total(plan, kind="all-reduce"):
    return plan["collectives"].get(kind, {"count": 0, "bytes": 0})


@pytest.mark.parametrize("stage", ["teach", "distill", "adapt"])
def test_every_stage_is_planned(stage, capsys):
    plans = planned(capsys, stage, "--tasks=2", BATCH_SIZE=16)
    assert plans
    for plan in plans:
        assert plan["fits"] and plan["stage"] == stage and plan["devices"] == 8
        assert plan["rows"] == 16 * plan["members"]
        assert (plan["inputs"], plan["targets"]) == (40, 16)  # 12 + 26 in multiples of 8, 4
        assert plan["arguments"] > 4 * 1_000_000  # the backbone's 1.05 M numbers
        assert plan["useful_flops"] == plan["executed_flops"] > 0
        assert plan["steps"] == 100


def test_methods_that_change_the_network_have_steps_of_their_own(capsys):
    plans = planned(capsys, "adapt", "--tasks=2", METHOD=("prompt_tuning", "bitfit"), BATCH_SIZE=8)
    assert [plan["program"] for plan in plans] == ["", "bitfit"]
    assert plans[1]["inputs"] == 32  # no prompt


def test_tasks_are_found_by_their_names(capsys):
    """Where the backbone is here, the mixture says how many there are."""
    (plan,) = planned(capsys, "teach", MIXTURE_OR_TASK_NAME="embedded_sources")
    assert plan["members"] > 1


def test_rows_of_a_replica_and_the_model_axis(capsys):
    flags = ("--tasks=3", "--rows_per_replica=6", "--model_axis=2", ONE_VARIANT)
    (plan,) = planned(capsys, "distill", *flags)
    assert (plan["setting"]["data"], plan["setting"]["model"]) == (4, 2)
    assert plan["rows"] == 24
    assert total(plan)["count"] > 2 * 2


def test_a_published_shape_needs_no_weights(capsys):
    flags = ("--tasks=2", "--model=t5-small", "--rows_per_replica=1", ONE_VARIANT)
    (plan,) = planned(capsys, "distill", *flags)
    assert plan["model"] == "t5-small"
    assert plan["arguments"] == pytest.approx(4 * 60.5e6, rel=0.02)
    assert total(plan)["count"] <= 2


def test_a_step_that_reads_recorded_teachers(capsys):
    flags = ("--tasks=2", ONE_VARIANT)
    (live,) = planned(capsys, "distill", *flags)
    (cached,) = planned(capsys, "distill", *flags, TEACHER_CACHE="nowhere")
    states = cached["rows"] * (40 + 16) * 128 * 4 // cached["devices"]
    tokens = cached["rows"] * 40 * 4 // cached["devices"]  # with the teachers' virtual ids
    teachers = 2 * 12 * 128 * 4
    assert cached["arguments"] == live["arguments"] + states - tokens - teachers
    assert cached["useful_flops"] < 0.8 * live["useful_flops"]


def test_what_does_not_fit_is_said(capsys, monkeypatch):
    from mpt_jax.planning import topologies

    small = topologies.Chip("tiny", memory=1e6, peak=1e12)
    monkeypatch.setattr(
        topologies, "_present", lambda name, devices: topologies.Topology(name, devices, small)
    )
    assert main(words("distill", "--tasks=2", "--json")) == 1
    shown = capsys.readouterr()
    (plan,) = json.loads(shown.out)
    assert not plan["fits"]
    assert "1 of 1 steps do not fit: cpu:8: needs 0.0 GB" in shown.err


def test_auto_takes_the_cheapest_that_fits(capsys, monkeypatch):
    from mpt_jax.planning import topologies

    flags = ("--tasks=2", ONE_VARIANT, "--auto", "--rows_per_replica=8")

    def search(memory):
        chip = topologies.Chip("chip", memory, 1e12, 1e12, 1e12)
        monkeypatch.setattr(
            topologies, "_present", lambda name, devices: topologies.Topology(name, devices, chip)
        )
        (plan,) = planned(capsys, "distill", *flags)
        assert plan["fits"]
        return plan

    roomy = search(1e12)
    assert roomy["setting"] == {"data": 8, "model": 1, "remat": "none", "accumulate": 1}
    assert roomy["reason"].startswith("data=8 model=1 remat=none is the cheapest that fits")
    needed = roomy["arguments"] + roomy["temporaries"]
    tight = search(0.8 * needed)
    assert tight["setting"] != roomy["setting"]
    assert tight["arguments"] + tight["temporaries"] <= 0.8 * needed
    assert "data=8 model=1 remat=none does not fit" in tight["reason"]


@pytest.mark.parametrize("form", ["--table", "--markdown"])
def test_for_people(form, capsys):
    assert main(words("distill", "--tasks=2", form)) == 0
    shown = capsys.readouterr().out
    assert "cpu:8 (8 x CPU)" in shown and "all-reduce" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology=v5e-4x4",), "topology: got 'v5e-4x4', expected a TPU's"),
        (("--tasks=2", "--topology=cpu:64"), "this process has 8 CPU devices"),
        (("--model=t5-huge", "--tasks=2"), "model size"),
        (("--tasks=2", "--model_axis=3"), "does not use up the 8 devices"),
        (("--tasks=2", "--rows_per_replica=3", ACCUMULATE), "does not divide"),
        (("--tasks=2", "--rows_per_replica=0"), "--rows_per_replica is 0, expected 1 or more"),
        (("--tasks=0",), "--tasks is 0, expected 1 or more"),
        (("--tasks=2", "--utilisation=40"), "--utilisation is 40, expected a share of the peak"),
        (("--tasks=2", "--model=./t5"), "--model: there is no folder './t5'"),
        ((), "Give --tasks"),
    ],
)  # fmt: skip
def test_wrong_requests(flags, message, capsys):
    assert main(words("distill", *flags)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e:4x4x4", "the chips of v5e lie in 2 dimensions, not 3"),
        ("v6e:32x16", "a pod of v6e has 256 chips, not 512; several slices"),
        ("v2:2x2", "got 'v2:2x2', expected a TPU's"),
    ],
)
def test_slices_that_no_pod_has(name, message, monkeypatch):
    """libtpu itself would end the process with a report for its developers."""
    from mpt_jax.errors import UserError
    from mpt_jax.planning.topologies import topology_named

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=message):
        topology_named(name)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0.0"),
        (12345.67, "12,345.7"),
        (0.25, "0.2"),
        (0.0173, "0.017"),
        (9e-6, "0.0000090"),
    ],
)
def test_small_numbers_do_not_read_as_nothing(value, text):
    from mpt_jax.stages.plan_tables import _number

    assert _number(value) == text


def test_a_log_says_what_is_being_compiled(capsys):
    assert main(words("distill", "--tasks=2")) == 0
    assert "compiling for cpu:8 ..." in capsys.readouterr().err


def test_a_stage_needs_its_gin_file(capsys):
    arguments = ["plan", "distill", EMBEDDED, "--topology=cpu:8", "--tasks=2"]
    assert main(arguments) == 1
    assert "give the stage's gin file, --gin_file=runs/distill.gin" in capsys.readouterr().err


def test_a_fleet_laid_out_along_data_reduces_no_gradient(capsys):
    """Each device has its own members: only their losses' few numbers go round."""
    (own,) = planned(capsys, "teach", "--tasks=8")
    (shared,) = planned(capsys, "teach", "--tasks=4", BATCH_SIZE=16)
    gradient = 12 * 96 * 4  # of one prompt
    assert sum(one["bytes"] for one in own["collectives"].values()) < 1000 < gradient
    assert total(shared)["bytes"] > 4 * gradient


# Ahead of time for TPUs. First the shipped backbone, which takes seconds; its smallest matrix has 64 kB.


@needs_libtpu
@pytest.mark.quick_tpu
def test_a_small_model_on_whole_chips():
    flags = ("--tasks=6", "--rows_per_replica=8", ONE_VARIANT)
    (plan,) = on_tpu("distill", *flags, topology="v5e:2x2")
    assert plan["fits"] and plan["setting"]["data"] == 4 and plan["rows"] == 32
    assert set(plan["collectives"]) == {"all-reduce"}
    # The gradient of what is trained, and a few numbers: 12 x 128 shared, 6 x (12 + 128) of the tasks.
    assert total(plan)["count"] <= 2
    assert total(plan)["bytes"] < 1.05 * 4 * (12 * 128 + 6 * (12 + 128))


@needs_libtpu
@pytest.mark.quick_tpu
def test_a_small_model_on_parts_of_chips():
    flags = ("--tasks=6", "--rows_per_replica=8", "--model_axis=2", ONE_VARIANT)
    (plan,) = on_tpu("distill", *flags, topology="v5e:2x2")
    assert plan["fits"] and (plan["setting"]["data"], plan["setting"]["model"]) == (2, 2)
    assert total(plan)["count"] <= 29
    assert plan["largest_gather"] < 1e4  # no weight is gathered
    assert set(plan["collectives"]) <= {"all-reduce", "all-gather"}


@needs_libtpu
@pytest.mark.quick_tpu
def test_a_small_fleet_on_tpus_reduces_no_gradient():
    (plan,) = on_tpu("teach", "--tasks=4", "--rows_per_replica=4", topology="v5e:2x2")
    gradient = 12 * 128 * 4  # of one prompt
    assert sum(one["bytes"] for one in plan["collectives"].values()) < 1000 < gradient


@needs_libtpu
@pytest.mark.quick_tpu
def test_little_goes_from_slice_to_slice():
    flags = ("--tasks=6", "--rows_per_replica=8", "--model_axis=2", ONE_VARIANT)
    (plan,) = on_tpu("distill", *flags, topology="2xv5e:2x2")
    assert plan["fits"] and (plan["devices"], plan["hosts"]) == (8, 2)
    between = total(plan, "send to other slices")
    # The gradient, whose halves are summed in one slice each, and a few numbers.
    assert 0 < between["bytes"] < 1.1 * 4 * (12 * 128 + 6 * (12 + 128))
    assert plan["largest_gather"] < 2e4  # no weight is gathered


@needs_libtpu
@pytest.mark.quick_tpu
def test_every_host_of_real_pods_feeds_one_run_of_rows():
    script = (
        "import jax\n"
        "from mpt_jax.partitioning import make_mesh, process_data_shard\n"
        "from mpt_jax.planning.topologies import prepare, topology_named\n"
        "names = ['v3:4x4', 'v4:2x2x4', 'v5e:4x4', 'v5e:16x16', 'v5p:4x4x8', 'v6e:8x8', 'tpu7x:2x2x2', "
        "'3xv5e:2x4', '2xv5p:2x2x4']\n"
        "prepare(names)\n"
        "for topology in map(topology_named, names):\n"
        "    for model in (1, 2, 4, 8):\n"
        "        mesh, parts = make_mesh((-1, model), topology.devices), set()\n"
        "        for host in {device.process_index for device in topology.devices}:\n"
        "            jax.process_index = lambda host=host: host\n"
        "            part, count = process_data_shard(mesh)\n"
        "            parts.add(part)\n"
        "        assert parts == set(range(count)), (topology.name, model)\n"
        "        assert count == min(topology.hosts, mesh.shape['data']), (topology.name, model)\n"
        "        print(topology.name, model, count)\n"
    )
    assert len(alone(script).splitlines()) == 9 * 4


# T5 v1.1 XL and XXL, distillation, 256 + 100 inputs, 16 targets.


def tpu_model(size):
    return (f"--gin_file=models/t5_v1_1_{size}.gin",)


@needs_libtpu
@pytest.mark.slow
def test_xl_on_whole_chips():
    flags = ("--tasks=6", "--model=t5-v1_1-xl", "--rows_per_replica=8", ONE_VARIANT)
    (plan,) = on_tpu("distill", *flags, files=tpu_model("xl"), topology="v5e:2x2")
    assert set(plan["collectives"]) == {"all-reduce"}
    assert total(plan)["count"] <= 2 and total(plan)["bytes"] < 5e6
    assert plan["arguments"] + plan["temporaries"] <= 6.5e9


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(("model", "most"), [(2, 0.8 * 16e9), (4, 6.5e9)])
def test_xxl_on_parts_of_chips(model, most):
    flags = (
        "--tasks=6", "--model=t5-v1_1-xxl", "--rows_per_replica=8", f"--model_axis={model}", ONE_VARIANT,
    )  # fmt: skip
    (plan,) = on_tpu("distill", *flags, files=tpu_model("xxl"), topology="v5e:2x2")
    assert plan["arguments"] + plan["temporaries"] <= most
    assert total(plan)["count"] <= 442
    assert plan["largest_gather"] < 1e5  # no weight is gathered
    assert set(plan["collectives"]) <= {"all-reduce", "all-gather"}


@needs_libtpu
@pytest.mark.slow
def test_a_fleet_on_tpus_reduces_no_gradient():
    flags = ("--tasks=4", "--model=t5-v1_1-small", "--rows_per_replica=4")
    (plan,) = on_tpu("teach", *flags, files=tpu_model("xl"), topology="v5e:2x2")
    assert sum(one["bytes"] for one in plan["collectives"].values()) < 2000


@needs_libtpu
@pytest.mark.slow
def test_xl_on_slices_sends_between_them_what_one_slice_reduces():
    flags = ("--tasks=6", "--model=t5-v1_1-xl", "--rows_per_replica=8", ONE_VARIANT)
    (plan,) = on_tpu("distill", *flags, files=tpu_model("xl"), topology="2xv5e:2x2")
    assert 0 < total(plan, "send to other slices")["bytes"] < 1e6
    assert sum(one["bytes"] for one in plan["collectives"].values()) < 5e6
    assert plan["arguments"] + plan["temporaries"] <= 6.5e9


@needs_libtpu
@pytest.mark.quick_tpu
def test_chips_are_known():
    """Every kind of device in the table is one that libtpu names, where it is a TPU's."""
    script = (
        "from mpt_jax.planning.topologies import prepare, topology_named\n"
        "names = ['v3:2x2', 'v4:2x2x1', 'v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1']\n"
        "prepare(names)\n"
        "found = list(map(topology_named, names))\n"
        "print([one.chip.name for one in found], [len(one.devices) for one in found])\n"
    )
    tpus = [chip.name for kind, chip in CHIPS.items() if kind.startswith("TPU")]
    # Of four chips each: the table says what a device is, so a chip that is two has half of everything.
    devices = [8 if "half" in name else 4 for name in tpus]
    assert alone(script).strip() == f"{tpus} {devices}"


@needs_libtpu
@pytest.mark.quick_tpu
def test_libtpu_is_silent_where_there_is_no_tpu(tmp_path):
    """What it says for want of a TPU looks like errors, and stood before every command's own words."""
    environment = {k: v for k, v in os.environ.items() if k not in OURS}
    command = [
        sys.executable, "-m", "mpt_jax", "teach", EMBEDDED, "--gin_file=runs/teach.gin", "--dry_run",
        "--gin.TRAIN_STEPS=1", "--gin.BATCH_SIZE=4", "--gin.MIXTURE_OR_TASK_NAME='embedded_sources'",
        f"--model_dir={tmp_path}",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "TPU" not in found.stderr and "INVALID_ARGUMENT" not in found.stderr
