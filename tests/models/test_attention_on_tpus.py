"""The kernels and a whole step with them, compiled ahead of time for TPUs that are not here."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu, which the extra `plan` brings: pip install 'mpt_jax[plan]'",
)
# In a process of its own, as libtpu is to be told of the topology first.
OURS = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")  # settings of conftest.py
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in OURS}

KERNELS = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from mpt_jax.models.attention_kernels import Segments, backward, forward, heads_of_a_step
from mpt_jax.planning.topologies import prepare, topology_named

name, cases = sys.argv[1], json.loads(sys.argv[2])
prepare([name])
device = SingleDeviceSharding(topology_named(name).devices[0])
for H, K, T, dtype in cases:
    def of(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=device)
    B, Z = 2, 128
    N = T // Z
    O = min(5, 2 * N - 1)
    heads = heads_of_a_step(H, K, T, jnp.dtype(dtype).itemsize, offsets=O, block=Z)
    x, tiles = of(B, T, H * K), of(H, O, Z, Z)
    ids, bound = of(B, N, 1, Z, dtype="int32"), of(B, N, dtype="int32")
    rows, sums = Segments(ids, bound, bound), of(B, H // heads, N, heads, Z, dtype="float32")
    options = dict(static_argnames=("heads", "interpret"))
    static = dict(heads=heads, interpret=False)
    jax.jit(forward, **options).lower(x, x, x, rows, tiles, **static).compile()
    jax.jit(backward, **options).lower(x, x, x, rows, tiles, sums, sums, x, **static).compile()
    print(H, heads)
"""


def heads_of_steps(topology, cases):
    """Compiles both kernels for each case: heads, their width, positions, dtype."""
    command = [sys.executable, "-c", KERNELS, topology, json.dumps(cases)]
    found = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


@pytest.mark.quick_tpu
def test_the_kernels_compile():
    assert heads_of_steps("v5e:2x2", [(4, 64, 512, "float32")]) == ["4 4"]


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v6e:2x2"])
def test_the_kernels_compile_up_to_the_longest_rows(topology):
    cases = [  # the longest rows but for the first
        (16, 64, 1024, "bfloat16"), (16, 64, 3072, "bfloat16"), (6, 64, 6912, "bfloat16"),
        (12, 64, 1536, "float32"), (3, 64, 1664, "float32"), (2, 128, 7168, "bfloat16"),
    ]  # fmt: skip
    assert heads_of_steps(topology, cases) == ["16 4", "16 4", "6 2", "12 4", "3 3", "2 1"]


def planned(attention):
    command = [
        sys.executable, "-m", "mpt_jax", "plan", "teach", "--json", "--topology=v5e:2x2",
        "--gin_file=models/t5_v1_1_xl.gin", "--gin_file=runs/teach.gin", "--gin.TRAIN_STEPS=100",
        "--tasks=4", "--model=t5-v1_1-small", "--rows_per_replica=4", "--model_axis=2",
        "--gin.teach/fleet.Training.packed_lengths=(1024, 64)",
        f"--gin.backbone.BackboneSource.attention='{attention}'",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=1800)
    assert found.returncode == 0, found.stderr
    (plan,) = json.loads(found.stdout)
    return plan


@pytest.mark.slow
def test_a_step_on_packed_rows_moves_nothing_more_and_needs_less():
    """On a mesh of 2 x 2, with three heads on each device."""
    plain, fused = planned("plain"), planned("auto")
    assert fused["temporaries"] < 0.6 * plain["temporaries"]
    assert fused["largest_gather"] < 1e5  # neither rows nor weights
    for kind in ("all-reduce", "all-to-all", "collective-permute"):
        least = plain["collectives"].get(kind, {"bytes": 0})["bytes"]
        assert fused["collectives"].get(kind, {"bytes": 0})["bytes"] <= 1.01 * least, kind
