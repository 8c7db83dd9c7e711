"""`mpt sweep --status`: how far a sweep is, live in a terminal."""

import contextlib
import math
import time
from collections.abc import Collection, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mpt_jax.reporting.layout import NOTHING, Table, number
from mpt_jax.reporting.sweep.records import described
from mpt_jax.stages.sweep_ledger import Ledger
from mpt_jax.stages.sweep_trial import DONE, FAILED, PRUNED, RUNNING, WAITING, Trial
from mpt_jax.stages.sweep_workers import BEAT_SECONDS, dead_at

REFRESH_SECONDS = 2.0
SILENT_SECONDS = 3 * BEAT_SECONDS


def show_status(ledger: Ledger, console: Console) -> None:
    """Prints the status; in a terminal it is kept up to date until all is done or Ctrl-C."""
    if not console.is_terminal:
        console.print(status(ledger, console.width))
        return
    with Live(console=console, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            live.update(status(ledger, console.width), refresh=True)
            trials = ledger.trials()
            if not ledger.left(trials) and not any(trial.state == RUNNING for trial in trials):
                return
            time.sleep(REFRESH_SECONDS)


def status(ledger: Ledger, width: int) -> Group:
    """Counts by state, the best so far, when it will be done, and what is running or failed."""
    trials = ledger.trials()
    done = [trial for trial in trials if trial.state == DONE]
    counts = {
        DONE: len(done),
        RUNNING: sum(t.state == RUNNING for t in trials),
        PRUNED: sum(t.state == PRUNED for t in trials),
        FAILED: sum(t.state == FAILED for t in trials),
        WAITING: ledger.left(trials),
    }
    beats = ledger.beats()
    workers = len(_living(beats))
    table = Table("Sweep", [*counts, "best", "workers", "left"], text_columns=0)
    best = max(done, key=lambda trial: trial.score, default=None)
    table.add(
        *map(str, counts.values()), number(None if best is None else best.score), str(workers),
        _left([t.seconds for t in done], counts[RUNNING] + counts[WAITING], max(workers, 1)),
    )  # fmt: skip
    lines = []
    if best is not None and best.setting is not None:
        lines.append(f"best: {best.name}, {described(vars(best.setting), vars(ledger.base))}")
    lines += [f"failed: {t.name}: {t.reason}" for t in trials if t.state == FAILED]
    at_work = worker_table([t for t in trials if t.state == RUNNING], beats)
    parts = [one.rich(width) for one in (table, at_work) if one.rows]
    return Group(*parts, Text("\n".join(lines)))


def worker_table(running: Sequence[Trial], beats: Mapping[str, float]) -> Table:
    """Who is at work, who is lost, and what becomes of the settings that a lost one had.

    Args:
        running: the trials that are not finished.
        beats: worker -> when it was last heard of; 0 when it has gone.
    """
    table = Table("Workers", ["worker", "last heard of", "state", "settings"], text_columns=4)
    living = _living(beats)
    had = [name for trial in running for name in (trial.worker, trial.taken_from)]
    for name in dict.fromkeys((*living, *had)):
        own = [trial for trial in running if trial.worker == name]
        when = beats.get(name, 0.0)
        age = time.time() - when
        heard = f"{_duration(age)} ago" if when > 0 else NOTHING
        if name in living:
            silent = age > SILENT_SECONDS
            later = ""
            if silent and own and math.isfinite(due := living[name]):
                clock = time.strftime("%H:%M:%S", time.localtime(due))
                later = f"; others may take over from {clock} on, if it stays silent"
            table.add(name, heard, "silent" if silent else "at work", _counted(own) + later)
        elif name:
            table.add(name, heard, "lost" if when > 0 else "stopped", _fate(name, running, living))
    return table


def _living(beats: Mapping[str, float]) -> dict[str, float]:
    """The workers that are not known to be dead -> when they will be."""
    dead = {name: dead_at(name, beats) for name, when in beats.items() if when > 0}
    return {name: when for name, when in dead.items() if time.time() < when}


def _fate(worker: str, running: Sequence[Trial], living: Collection[str]) -> str:
    """What becomes of the settings of a worker that is not at work any more."""
    own = [trial for trial in running if trial.worker == worker]
    fates = []
    if own:
        whom = "a worker that has finished its own" if living else "the next worker that is started"
        fates.append(f"{_counted(own)}: to be taken over by {whom}")
    taken = [trial for trial in running if trial.taken_from == worker]
    for heir in dict.fromkeys(trial.worker for trial in taken):
        share = [trial for trial in taken if trial.worker == heir]
        fates.append(f"{_counted(share)}: taken over by {heir}")
    return "; ".join(fates)


def _counted(trials: Sequence[Trial]) -> str:
    """How many of which populations."""
    names = [trial.population for trial in trials]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    texts = [f"{n} of {name}" if name else f"{n} just asked for" for name, n in counts.items()]
    return ", ".join(texts) or NOTHING


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(int(seconds), 0), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"


def _left(seconds: list[float], trials: int, workers: int) -> str:
    """How long the trials that are left will take, by those that are done."""
    known = [s for s in seconds if s > 0]
    if not trials:
        return "nothing"
    if not known:
        return "unknown"
    minutes = math.ceil(sum(known) / len(known) * trials / workers / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
