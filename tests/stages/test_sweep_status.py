"""`mpt sweep --status` tells living workers from dead ones, and what becomes of a dead one's settings."""

import io
import re
import time

import pytest
from rich.console import Console

from mpt_jax.stages import sweep_ledger
from mpt_jax.stages.sweep_ledger import Ledger
from mpt_jax.stages.sweep_setup import Setup
from mpt_jax.stages.sweep_space import Setting, Space, resolve
from mpt_jax.stages.sweep_status import show_status
from mpt_jax.stages.sweep_trial import DONE
from mpt_jax.stages.sweep_workers import BEAT_SECONDS, GRACE_SECONDS, Worker

from .conftest import another_worker

pytest.importorskip("optuna", reason="pip install 'mpt_jax[sweep]'")

SPACE = Space(Setting(prompt_length=3), ({"weight": (0.0, 0.3, 0.9)}, {"rank": (2, 4)}))


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_ledger, "CLAIM_SECONDS", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    setup = Setup(SPACE, "s", "t", 1, 1, 1, 1, 1, 1, 1, 1, 1, population=3)
    settings = resolve(setup.space, ("a", "b"), lambda names: (names,))
    return Ledger(None, str(tmp_path), setup, settings)


def shown(ledger):
    """The count of workers, and each worker's line."""
    out = io.StringIO()
    show_status(ledger, Console(file=out, width=400))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    counts = next(b for a, b in zip(lines, lines[2:], strict=False) if a.startswith("done running"))
    workers = {line.split()[0]: line for line in lines if "-" in line.split(" ")[0]}
    return int(counts.split()[6]), workers


def test_a_worker_elsewhere_is_at_work_then_silent_then_lost(ledger):
    ledger.ask("far-1-a")
    for age, count, wanted in (
        (10, 1, r"10 s ago at work 3 of p0000$"),
        (
            4 * BEAT_SECONDS,
            1,
            r"1:00 min ago silent 3 of p0000; others may take over from \d\d:\d\d:\d\d on",
        ),
        (
            GRACE_SECONDS + 9,
            0,
            r"3:09 min ago lost 3 of p0000: to be taken over by the next worker that is started$",
        ),
        (7300, 0, r"2 h 1 min ago lost"),
    ):
        ledger.beat("far-1-a", time.time() - age)
        workers, lines = shown(ledger)
        assert workers == count and re.search(wanted, lines["far-1-a"]), lines


def test_who_took_over_is_said_until_that_is_done(ledger):
    ledger.ask("far-1-a")
    ledger.beat("far-1-a", time.time() - 2 * GRACE_SECONDS)
    ledger.beat("far-2-b", time.time())
    workers, lines = shown(ledger)
    assert workers == 1 and lines["far-2-b"].endswith("at work –")
    assert lines["far-1-a"].endswith("to be taken over by a worker that has finished its own")
    (lost,) = ledger.stale(lambda name: name != "far-1-a")
    assert ledger.claim(lost, "far-2-b")
    workers, lines = shown(ledger)
    assert workers == 1 and lines["far-2-b"].endswith("at work 3 of p0000")
    assert lines["far-1-a"].endswith("lost 3 of p0000: taken over by far-2-b")
    for trial in lost:
        ledger.tell(trial.number, DONE, 0.5)
    assert set(shown(ledger)[1]) == {"far-2-b"}


def test_who_stopped_is_no_worker(ledger):
    ledger.ask("far-1-a")
    ledger.beat("far-1-a", 0.0)
    workers, lines = shown(ledger)
    assert workers == 0 and "– stopped 3 of p0000: to be taken over by the next" in lines["far-1-a"]


def test_a_worker_of_this_host_is_lost_as_soon_as_it_is_killed(ledger):
    process, name = another_worker()
    ledger.ask(name)
    ledger.beat(name, time.time() - 4 * BEAT_SECONDS)  # a busy ledger; its lock says that it lives
    with Worker(ledger.beat) as other:
        workers, lines = shown(ledger)
        assert workers == 2 and lines[name].endswith("silent 3 of p0000")
        process.kill()
        process.communicate()
        ledger.beat(name, time.time())
        workers, lines = shown(ledger)
        assert workers == 1 and "s ago lost 3 of p0000" in lines[name]
        assert "at work" in lines[other.name]
