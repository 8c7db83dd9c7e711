"""SIGTERM and SIGINT as a flag that a loop reads between two steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopFlag:
    """Set by a signal; read between steps."""

    def __init__(self) -> None:
        self.name = ""

    def agreed(self, step: int, period: int) -> bool:
        """Whether to stop after this step: the same answer in every process.

        Several processes must leave the loop at the same step, or the others wait for ever in a
        collective; they compare notes every `period` steps.
        """
        if jax.process_count() == 1:
            return bool(self.name)
        if step % period:
            return False
        flags = multihost_utils.process_allgather(np.asarray([bool(self.name)]))
        if flags.any() and not self.name:
            self.name = "a signal to another process"
        return bool(flags.any())


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Turns SIGTERM and SIGINT into a flag; a second one acts as it would have without us."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # signals reach the main thread only
        return
    previous: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        flag.name = signal.Signals(number).name
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, note)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
