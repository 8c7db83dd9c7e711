"""One step's memory kept for the next, where the host's CPU does the steps.

XLA asks the C library for all temporaries of a step in one block, and gives it back after the step. A
large block comes fresh from the kernel, which clears each page at its first use: for a gigabyte over a
tenth of a step's time. Here the C library is told to keep freed blocks. Steps must then run in the
caller's thread: in a thread of JAX's own the next step's block may be asked for before the last one is
freed, and two would be kept. They do so only if their inputs are there, which `shard_batch` waits for.
"""

import ctypes
import sys

import jax
from jax.sharding import Mesh

_INLINE = "jax_cpu_enable_async_dispatch"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER, _NONE = -1, 0


def run_in_callers_thread() -> None:
    """Has a CPU work in the thread that calls; must come before JAX looks for its devices.

    Accelerators, and programs on several devices or processes, gain nothing by it.
    """
    jax.config.update(_INLINE, False)


def keep_freed_memory(mesh: Mesh) -> None:
    """Keeps what is freed from now on for later, if the steps on `mesh` run in the caller's thread.

    Call it when all is loaded: what loading frees goes back to the system then. Does nothing on
    accelerators, on several devices, and where the C library is not glibc.
    """
    (device, *others) = mesh.devices.flat
    if others or device.platform != "cpu" or jax.config.read(_INLINE) or sys.platform != "linux":
        return
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_M_MMAP_MAX, _NONE)
        change(_M_TRIM_THRESHOLD, _NEVER)
