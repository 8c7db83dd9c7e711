"""Freed memory is kept where steps run in the caller's thread, and only there."""

import os
import platform
import subprocess
import sys

import pytest

# Two blocks of 256 MB one after another, as the steps of a training have them. Prints how many pages the
# kernel had to make for the second.
PROGRAM = """
import ctypes, resource, sys
import jax
from mpt_jax import host_memory
from mpt_jax.partitioning import make_mesh
if sys.argv[1] == "inline":
    host_memory.run_in_callers_thread()
host_memory.keep_freed_memory(make_mesh(None))
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = c.malloc(256 << 20)
    ctypes.memset(block, 1, 256 << 20)
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    c.free(block)
print(pages)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="is about glibc's malloc",
)
@pytest.mark.parametrize(
    "mode, devices, kept", [("inline", 1, True), ("async", 1, False), ("inline", 2, False)]
)
def test_a_second_block_is_the_first_one_again(mode, devices, kept):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "GLIBC_TUNABLES": ""},
    )  # fmt: skip
    assert (int(done.stdout) < 100) == kept
