"""The ledger of a sweep, shared by several workers: nothing is trained twice, nothing is lost."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from mpt_jax.errors import UserError
from mpt_jax.places import Bucket
from mpt_jax.stages import sweep, sweep_ledger, sweep_workers
from mpt_jax.stages.sweep_journal import BucketJournal
from mpt_jax.stages.sweep_ledger import Ledger
from mpt_jax.stages.sweep_population import Trainer
from mpt_jax.stages.sweep_setup import Setup
from mpt_jax.stages.sweep_space import Range, Setting, Space, resolve
from mpt_jax.stages.sweep_trial import DONE, FAILED, PRUNED, RUNNING, WAITING
from mpt_jax.stages.sweep_workers import GRACE_SECONDS, Worker

from .conftest import another_worker

pytest.importorskip("optuna", reason="pip install 'mpt_jax[sweep]'")

PARTS = ({"weight": (0.0, 0.3, 0.9)}, {"prompt_length": (3, 5)}, {"rank": (2, 4)})
SETUP = Setup(
    Space(Setting(prompt_length=3), PARTS), "s", "t", 1, 1, 1, 1, 1, 1, 1, 1, 1, population=3
)


@pytest.fixture(params=["sqlite", "journal", "bucket"])
def storage(request, tmp_path):
    if request.param == "bucket":
        request.getfixturevalue("bucket")
        return "gs://bucket/ledger"
    return None if request.param == "sqlite" else str(tmp_path / "journal.log")


@pytest.fixture(autouse=True)
def quick_claims(monkeypatch):
    monkeypatch.setattr(sweep_ledger, "CLAIM_SECONDS", 0.0)


def opened(tmp_path, storage=None, **changes):
    setup = dataclasses.replace(SETUP, **changes)
    settings = resolve(setup.space, ("a", "b"), lambda names: (names,))
    return Ledger(storage, str(tmp_path), setup, settings)


def tell(ledger, population, score=0.5):
    for trial in population:
        ledger.note(trial.number, rows=[{"task": "t", "k": 16, "seed": 0, "score": score}])
        ledger.tell(trial.number, DONE, score)


def states(ledger):
    return [trial.state for trial in ledger.trials()]


def test_two_workers_share_the_queue_and_ask_for_what_compiles_alike(tmp_path, storage):
    one, two = opened(tmp_path, storage), opened(tmp_path, storage)
    assert len(one.trials()) == len(two.trials()) == 6  # filled once
    (first,), (second,), (third,) = one.ask("one"), two.ask("two"), one.ask("one")
    assert [len(first), len(second), len(third)] == [3, 2, 1]
    everything = [t for population in (first, second, third) for t in population]
    assert len({t.number for t in everything}) == len({t.setting for t in everything}) == 6
    assert {t.setting.prompt_length for t in (*first, *second)} == {3}
    assert [t.setting.prompt_length for t in third] == [5]
    assert len({t.population for t in everything}) == 3
    assert one.ask("one") == two.ask("two") == []
    tell(one, first)
    assert states(two) == [DONE] * 3 + [RUNNING] * 3
    assert two.trials()[0].score == 0.5


def test_what_was_queued_twice_is_trained_once(tmp_path):
    """As by workers on two machines that begin at once, where no lock file is common to both."""
    ledger = opened(tmp_path)
    ledger._put(ledger._settings.grid()[:4])
    found = []
    while population := ledger.ask("one"):
        found += [trial.setting for one in population for trial in one]
    assert found == ledger._settings.grid()
    assert len(ledger.trials()) == 6


def test_a_dead_workers_population_is_taken_over_whole_by_one(tmp_path, storage):
    dead, one, two = (opened(tmp_path, storage) for _ in range(3))
    (population,) = dead.ask("dead")
    tell(dead, population[:1])
    assert one.stale(lambda name: True) == []
    (lost,) = one.stale(lambda name: name != "dead")
    assert [t.number for t in lost] == [t.number for t in population]
    assert one.claim(lost, "one")
    two.note(lost[1].number, worker="two")  # was a moment later, before `one` looked again
    two.note(lost[2].number, worker="two")
    assert two.claim(lost, "two")
    assert {t.worker for t in one.trials()[1:3]} == {"two"}
    assert one.stale(lambda name: name != "dead") == []


def test_a_worker_that_dies_while_asking_leaves_nothing_behind(tmp_path):
    ledger = opened(tmp_path)
    assert ledger._ask("dead", None) is not None  # it was to ask for more
    (population,) = ledger.stale(lambda name: False)
    assert [t.setting for t in population] == ledger._settings.grid()[:1]
    ledger.study.ask()  # not even its name is written down; it may still be alive
    assert len(ledger.stale(lambda name: False)) == 1


def test_failed_trials_have_a_reason_and_may_be_tried_again(tmp_path, storage):
    ledger = opened(tmp_path, storage)
    (population,) = ledger.ask("one")
    ledger.note(population[0].number, reason="diverged")
    ledger.tell(population[0].number, FAILED)
    tell(ledger, population[1:])
    assert [(t.state, t.reason) for t in ledger.trials()[:2]] == [(FAILED, "diverged"), (DONE, "")]
    assert ledger.retry_failed() == 1
    again = opened(tmp_path, storage)
    assert states(again) == [DONE] * 2 + [WAITING] * 4
    assert again.trials()[-1].setting == population[0].setting
    numbers = [t.number for p in iter(lambda: again.ask("two"), []) for one in p for t in one]
    assert len(numbers) == 4 and population[0].number not in numbers


def test_another_sweep_is_refused_and_more_workers_are_not(tmp_path):
    opened(tmp_path)
    opened(tmp_path, population=1)
    with pytest.raises(UserError, match="distill_steps was 1, is 2"):
        opened(tmp_path, distill_steps=2)
    with pytest.raises(UserError, match="axes was"):
        opened(tmp_path, space=Space(Setting(prompt_length=3), ({"weight": (0.1,)},)))
    with pytest.raises(UserError, match="cannot be opened"):
        opened(tmp_path, storage="nosuchdatabase://there")
    with pytest.raises(UserError, match="no sweep"):
        Ledger(
            None, str(tmp_path / "other"), SETUP, resolve(SETUP.space, ("a",), tuple), joins=False
        )


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_samplers_draw_so_many_trials_together_and_populations_that_compile_alike(
    tmp_path, sampler
):
    space = Space(
        Setting(prompt_length=3),
        ({"temperature": Range(0.5, 4.0, log=True), "prompt_length": (3, 5)}, {"rank": (1, 2)}),
    )
    changes = {"sampler": sampler, "trials": 10, "space": space}
    one, two = opened(tmp_path, **changes), opened(tmp_path, **changes)
    drawn = []
    for ledger in (one, two, one, two, one):
        for population in ledger.ask("worker"):
            assert len({t.setting.compiled for t in population}) == 1
            tell(ledger, population, score=len(drawn) / 10)
            drawn += [t.setting for t in population]
    assert len(drawn) == 10 and one.ask("worker") == two.ask("worker") == []
    assert len({s.temperature for s in drawn}) == 10  # no two workers draw the same
    assert all(0.5 <= s.temperature <= 4.0 for s in drawn)


def test_no_setting_is_drawn_twice(tmp_path):
    space = Space(Setting(prompt_length=3), ({"rank": (1, 2), "weight": (0.0, 0.9)},))
    journal = str(tmp_path / "journal.log")
    ledger = opened(tmp_path, journal, sampler="random", trials=9, space=space, population=8)
    (population,) = ledger.ask("one")
    assert len({t.setting for t in population}) == len(population) == 4
    assert ledger.ask("one") == []


def test_workers_that_write_at_once_lose_nothing(bucket):
    journals = [BucketJournal("gs://bucket/ledger") for _ in range(4)]

    def write(worker):
        for number in range(10):
            journals[worker].append_logs([{"worker": worker, "number": number}])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    entries = BucketJournal("gs://bucket/ledger").read_logs(0)
    assert all(journal.read_logs(0) == entries for journal in journals)
    for worker in range(4):
        own = [entry["number"] for entry in entries if entry["worker"] == worker]
        assert own == list(range(10))
    assert journals[0].read_logs(38) == entries[38:] and journals[0].read_logs(40) == []


def test_an_entry_whose_answer_was_lost_is_written_once(bucket, monkeypatch):
    journal, write = BucketJournal("gs://bucket/ledger"), Bucket.write

    def write_twice(self, name, data, *, new=False):
        write(self, name, data, new=new)
        write(self, name, data, new=new)  # as a client does that hears nothing of the first one

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "write", write_twice)
        journal.append_logs([{"worker": 0}])
    journal.append_logs([{"worker": 1}])
    assert journal.read_logs(0) == [{"worker": 0}, {"worker": 1}]


def test_a_store_without_conditions_is_refused(bucket, monkeypatch):
    write = Bucket.write
    monkeypatch.setattr(Bucket, "write", lambda self, name, data, new: write(self, name, data))
    with pytest.raises(UserError, match="give --storage"):
        opened(bucket, "gs://bucket/ledger")


def test_the_better_half_by_the_first_seed_is_kept(tmp_path):
    ledger = opened(tmp_path, keep=0.5, num_seeds=2, population=4)
    (population,) = ledger.ask("one")
    numbers = [t.number for t in population]
    for number, first in zip(numbers, (0.1, 0.6, 0.3, 0.6), strict=True):
        ledger.note_first(number, first)
    assert [ledger.prunes(number) for number in numbers] == [True, False, True, False]
    ledger.tell(numbers[0], PRUNED)
    assert states(ledger)[0] == PRUNED and ledger.study.trials[numbers[0]].value == 0.1
    (later,) = ledger.ask("one")  # beside all that were there before
    ledger.note_first(later[0].number, 0.5)
    assert not ledger.prunes(later[0].number)
    everything = opened(tmp_path / "other", num_seeds=2)
    (population,) = everything.ask("one")
    everything.note_first(population[0].number, 0.1)
    assert not everything.prunes(population[0].number)


@pytest.mark.parametrize("lives", [False, True])
def test_who_has_nothing_left_waits_for_a_sign_of_the_others(tmp_path, monkeypatch, lives):
    """Or for their death, where nobody else could take over what they have begun."""
    monkeypatch.setattr(sweep_workers, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(sweep, "BEAT_SECONDS", 0.3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ledger = opened(tmp_path, str(tmp_path / "journal.log"), population=6)
    (left, *_) = ledger.ask("far-1-a")
    ledger.beat("far-1-a", time.time())

    class Quick(Trainer):
        def __init__(self):
            pass

        def train(self, population):
            tell(ledger, population)

    def beat():
        while not ended.wait(0.1):
            ledger.beat("far-1-a", time.time())

    ended = threading.Event()
    other = threading.Thread(target=beat)
    if lives:
        other.start()
    try:
        with Worker(ledger.beat) as worker:
            sweep._work(ledger, worker, Quick(), Console(quiet=True))
    finally:
        ended.set()
    found = ledger.trials_by_number()
    assert {found[t.number].state for t in left} == {RUNNING if lives else DONE}
    assert {t.state for t in found.values() if t.number not in {t.number for t in left}} == {DONE}


def test_a_worker_is_alive_until_its_process_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    beats = {}
    with Worker(beats.__setitem__) as worker, Worker(lambda *_: None) as other:
        assert worker.is_alive(other.name, {}) and worker.is_alive(worker.name, {})
        process, name = another_worker()
        now = {name: time.time()}
        assert worker.is_alive(name, {}) and worker.was_seen(name, {}, {})
        process.kill()
        process.communicate()
        assert not worker.is_alive(name, now)  # whatever it said last
        assert not worker.was_seen(name, now, now)
        # Of another machine the beats are all there is.
        elsewhere = {"far-1-abc": time.time(), "far-2-abc": time.time() - 2 * GRACE_SECONDS}
        assert [worker.is_alive(n, elsewhere) for n in elsewhere] == [True, False]
        later = {"far-1-abc": time.time() + 1}
        assert not worker.was_seen("far-1-abc", elsewhere, elsewhere)
        assert worker.was_seen("far-1-abc", elsewhere, later)
        assert beats[worker.name] > 0
    assert beats[worker.name] == 0.0
