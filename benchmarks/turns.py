"""Workers that take turns: the only fair way to time programs on a machine that others use too.

Each worker is a process of its own. It prepares (imports, weights, compiling, a first step), then waits;
in every round each worker has one turn while the others sleep. What is compared is the median of
the rounds' ratios, in wall time and in CPU-seconds of the process, which other jobs hardly disturb.

    workers = {"ours": Worker("train_step:ours", folder=...), "peft": Worker("train_step:peft", ...)}
    rounds = take_turns(workers, 7)

A worker's function prepares and returns `Prepared`; it runs in a fresh interpreter, on any Python.
"""

import dataclasses
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = {
    # Torch's waiting threads otherwise spin, and lose two to three times the time on a machine in use.
    "OMP_WAIT_POLICY": "PASSIVE",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several workers share one GPU
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
}


class WorkerFailed(Exception):
    """A worker ended before its time; what it printed stands on the terminal."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a worker's function returns.

    Attributes:
        turn: does what is timed, and returns when it is done.
        facts: anything worth knowing, as JSON: losses, FLOPs, tokens.
    """

    turn: Callable[[], Any]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn: wall time, and CPU-seconds of the worker's process."""

    wall: float
    cpu: float


class Worker:
    """A process that prepares at once and then works in turns.

    Args:
        function: "module:name" of what prepares it; the module lies in this folder.
        python: the interpreter; by default this one.
        env: environment variables for it.
        arguments: of the function, plain JSON.
    """

    def __init__(
        self,
        function: str,
        /,
        python: str = sys.executable,
        env: Mapping[str, str] = {},
        **arguments,
    ):
        self.function = function
        paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [python, __file__, function, json.dumps(arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths), **env},
        )  # fmt: skip
        self.facts: dict[str, Any] = {}
        self.peak_bytes = 0

    def wait_ready(self) -> None:
        """Returns when it has prepared; `facts` are there then."""
        self.facts = self._answer()

    def turn(self) -> Turn:
        self._say("turn")
        return Turn(**self._answer())

    def end(self) -> None:
        """Ends the process; `peak_bytes`, of its resident memory, is there then."""
        self._say("end")
        self.peak_bytes = self._answer()["peak_bytes"]
        self._process.communicate()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _say(self, word: str) -> None:
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self.function) from None

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(f"{self.function}: exit code {self._process.wait()}")
        return json.loads(line)


def take_turns(
    workers: Mapping[str, Worker],
    rounds: int,
    check: Callable[[Mapping[str, Worker]], None] = lambda workers: None,
) -> dict[str, list[Turn]]:
    """Waits for the workers to prepare, gives each `rounds` turns, and ends them.

    Args:
        check: looks at their facts before anything is timed, and raises if they do different work.
    """
    try:
        for worker in workers.values():
            worker.wait_ready()
        check(workers)
        turns: dict[str, list[Turn]] = {name: [] for name in workers}
        for number in range(rounds):
            # Forward and back, so that nobody always runs behind the same one.
            order = list(workers) if number % 2 == 0 else list(reversed(workers))
            for name in order:
                turns[name].append(workers[name].turn())
        for worker in workers.values():
            worker.end()
        return turns
    except BaseException:
        for worker in workers.values():
            worker.kill()
        raise


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another, by rounds.

    Attributes:
        wall, cpu: medians of the rounds' ratios.
        wall_spread, cpu_spread: largest ratio less smallest.
    """

    wall: float
    cpu: float
    wall_spread: float
    cpu_spread: float

    def scaled(self, factor: float) -> "Ratio":
        return Ratio(*(factor * value for value in dataclasses.astuple(self)))


def ratio(over: list[Turn], under: list[Turn]) -> Ratio:
    wall = [a.wall / b.wall for a, b in zip(over, under, strict=True)]
    cpu = [a.cpu / b.cpu for a, b in zip(over, under, strict=True)]
    return Ratio(
        statistics.median(wall), statistics.median(cpu), max(wall) - min(wall), max(cpu) - min(cpu)
    )


def timed(turn: Callable[[], Any]) -> Turn:
    wall, cpu = time.perf_counter(), time.process_time()
    turn()
    return Turn(time.perf_counter() - wall, time.process_time() - cpu)


def peak_bytes() -> int:
    """Peak of this process's resident memory."""
    if not Path("/proc/self/status").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def _work(function: str, arguments: str) -> None:
    """The worker's side. Answers go out on the real stdout; whatever a library prints, on stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Mapping[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    module, name = function.split(":")
    prepared = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    answer(prepared.facts)
    for line in sys.stdin:
        if line.strip() == "end":
            answer({"peak_bytes": peak_bytes()})
            return
        answer(dataclasses.asdict(timed(prepared.turn)))


if __name__ == "__main__":
    _work(*sys.argv[1:])
