"""`mpt sweep --status`: how far a sweep is, live in a terminal."""

import contextlib
import math
import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mpt_jax.reporting.layout import Table, number
from mpt_jax.reporting.sweep.records import described
from mpt_jax.stages.sweep_ledger import Ledger
from mpt_jax.stages.sweep_trial import DONE, FAILED, PRUNED, RUNNING, WAITING
from mpt_jax.stages.sweep_workers import GRACE_SECONDS

REFRESH_SECONDS = 2.0


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
    now = time.time()
    workers = sum(now - when < GRACE_SECONDS for when in ledger.beats().values())
    table = Table("Sweep", [*counts, "best", "workers", "left"], text_columns=0)
    best = max(done, key=lambda trial: trial.score, default=None)
    table.add(
        *map(str, counts.values()), number(None if best is None else best.score), str(workers),
        _left([t.seconds for t in done], counts[RUNNING] + counts[WAITING], max(workers, 1)),
    )  # fmt: skip
    lines = []
    if best is not None and best.setting is not None:
        lines.append(f"best: {best.name}, {described(vars(best.setting), vars(ledger.base))}")
    for name in dict.fromkeys(t.population for t in trials if t.state == RUNNING):
        own = [t for t in trials if t.state == RUNNING and t.population == name]
        lines.append(f"running: {name or 'just asked for'}, {len(own)} trials, {own[0].worker}")
    lines += [f"failed: {t.name}: {t.reason}" for t in trials if t.state == FAILED]
    return Group(table.rich(width), Text("\n".join(lines)))


def _left(seconds: list[float], trials: int, workers: int) -> str:
    """How long the trials that are left will take, by those that are done."""
    known = [s for s in seconds if s > 0]
    if not trials:
        return "nothing"
    if not known:
        return "unknown"
    minutes = math.ceil(sum(known) / len(known) * trials / workers / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
