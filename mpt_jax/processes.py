"""This process among others: joining those that run the same command, and how it ends.

Nothing heavy is imported here before it is needed.
"""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from mpt_jax.errors import Stopped, UserError

FLAGS: dict[str, tuple[type, str]] = {
    "multiprocess": (bool, "this is one of several processes; Slurm and TPU pods say which"),
    "coordinator_address": (str, "HOST:PORT of the first process, elsewhere"),
    "process_count": (int, "how many processes there are"),
    "process_index": (int, "which of them this is; the first, 0, writes the results"),
}

# Until nobody waits for a dead process. JAX sends heartbeats from a thread of its own, so that compiling or
# loading does not delay them.
SECONDS_TO_MISS_A_PROCESS = 30

LOST = (
    "the processes have lost each other. If one of them died or was killed, JAX now aborts the others "
    "(exit code 134, whatever it prints); give the same command again in all of them, and it goes on "
    "from what is saved."
)

# How the runtime's reports begin, whatever the exception that brings them.
_STATUS = re.compile("(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")


def join(given: Mapping[str, Any]) -> None:
    """Makes this process one of several that run the same command, where a flag says so.

    When one of them dies, JAX's coordination service misses its heartbeat and aborts all others (SIGABRT,
    exit code 134), whatever collective they wait in.

    Args:
        given: values of `FLAGS`; none for a process alone.

    Raises:
        UserError: the processes do not find each other.
    """
    if not given:
        return
    import jax

    if jax.distributed.is_initialized():
        return
    # JAX's own service would take SIGTERM and keep it to itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            given.get("coordinator_address"),
            given.get("process_count"),
            given.get("process_index"),
            heartbeat_timeout_seconds=SECONDS_TO_MISS_A_PROCESS,
            shutdown_timeout_seconds=SECONDS_TO_MISS_A_PROCESS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes did not find each other ({error}); outside of Slurm and TPU pods give "
            "--coordinator_address, --process_count and --process_index"
        ) from error


def one_of_several() -> bool:
    """Whether other processes run the same command."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def may_be_of_another_process(error: Exception) -> bool:
    """Whether a collective may have failed because another process died.

    Then Python's usual exit finds out: JAX waits there for the others, and aborts if one is missing. What the
    runtime reports comes as a JaxRuntimeError, but out of a call also as a ValueError ("UNKNOWN: Gloo
    AllGather failed: ... Connection reset by peer"); Orbax wraps what its barriers raise.
    """
    import jax

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, jax.errors.JaxRuntimeError) or _STATUS.match(str(found)):
            return True
        found = found.__cause__ or found.__context__
    return False


def failed(code: int) -> int:
    """The exit code of a failure; one of several processes ends with it here.

    Python's usual exit would wait for the other processes, which wait for this one in a collective.
    """
    if one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@contextlib.contextmanager
def ends_to_be_repeated() -> Iterator[None]:
    """SIGTERM and SIGINT end the process with the code that says "the same command goes on" (75).

    The training loop listens to them itself, and saves; this is for all else that a command does, such as
    loading, filling token stores and scoring, which leaves nothing half made.
    """
    before: dict[int, Any] = {}

    def end(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"mpt: {name}: stopped; give the same command again\n".encode())
        raise SystemExit(failed(Stopped.exit_code))

    try:
        for listened in (signal.SIGTERM, signal.SIGINT):
            before[listened] = signal.signal(listened, end)
    except ValueError:  # not in the main thread, which alone gets signals
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
