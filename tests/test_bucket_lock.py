"""Who may write in a bucket: one process, also where others die, wait or are cut off."""

import threading
import time

import pytest

from mpt_jax import bucket_lock
from mpt_jax.errors import UserError
from mpt_jax.places import Bucket


@pytest.fixture
def at(bucket, monkeypatch):
    """The address, on which owners are declared dead after half a second."""
    monkeypatch.setattr(bucket_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(bucket_lock, "DEAD_SECONDS", 0.5)
    monkeypatch.setattr(bucket_lock, "ENDING_SECONDS", 0.2)
    return Bucket("gs://bucket/run")


def leave_lock(at, **about):
    """What a process that was killed leaves."""
    number, _ = bucket_lock._latest(at)
    bucket_lock._write(at, number + 1, bucket_lock._about_me(3) | {"owner": "it"} | about)


def test_a_second_writer_is_refused_while_the_first_lives(at, capsys):
    with bucket_lock.bucket_lock(at):
        assert "process" in bucket_lock.owner(at)
        with (
            pytest.raises(UserError, match="is writing gs://bucket/run"),
            bucket_lock.bucket_lock(at),
        ):
            pass
    assert bucket_lock.owner(at) is None
    with bucket_lock.bucket_lock(at):
        pass
    assert "waiting up to" in capsys.readouterr().err


def test_a_dead_owner_of_another_machine_is_waited_for(at):
    leave_lock(at, machine="another")
    began = time.monotonic()
    with bucket_lock.bucket_lock(at):
        assert time.monotonic() - began >= 0.5


def test_a_dead_owner_of_this_machine_is_known_to_be_dead(at, capsys):
    leave_lock(at, process=2**22 + 1)  # beyond Linux's largest number
    assert bucket_lock.owner(at) is None
    with bucket_lock.bucket_lock(at):
        pass
    assert capsys.readouterr().err == ""


def test_the_process_of_the_same_number_elsewhere_is_another(at):
    leave_lock(at, process=2**22 + 1, machine="another")
    assert bucket_lock.owner(at) == "it"


def test_an_owner_that_is_just_ending_is_waited_for(at, monkeypatch):
    monkeypatch.setattr(bucket_lock, "ENDING_SECONDS", 60.0)
    held, done = threading.Event(), []

    def first():
        with bucket_lock.bucket_lock(at):
            held.set()
            time.sleep(0.5)
            done.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with bucket_lock.bucket_lock(at):
        done.append("second")
    thread.join()
    assert done == ["first", "second"]


def test_who_is_patient_waits_however_long_the_owner_lives(at, capsys):
    held, done = threading.Event(), []

    def first():
        with bucket_lock.bucket_lock(at):
            held.set()
            time.sleep(1.0)
            done.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with bucket_lock.bucket_lock(at, patient=True):
        done.append("second")
    thread.join()
    assert done == ["first", "second"] and capsys.readouterr().err == ""


def test_an_owner_of_another_machine_counts_as_long_as_it_may_live(at, monkeypatch):
    leave_lock(at, machine="another")
    assert bucket_lock.owner(at) == "it"
    monkeypatch.setattr(bucket_lock, "DEAD_SECONDS", 0.0)
    assert bucket_lock.owner(at) is None


def test_of_many_that_take_over_one_wins(at):
    leave_lock(at, process=2**22 + 1)
    won, lost, begin = [], [], threading.Barrier(8)

    def take():
        begin.wait()
        try:
            with bucket_lock.bucket_lock(at):
                won.append(1)
                time.sleep(1.0)
        except UserError:
            lost.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_an_owner_that_was_taken_over_ends_itself_before_it_writes(at, monkeypatch, capsys):
    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(bucket_lock, "BEAT_SECONDS", 1000.0)  # as if it were stopped
    with bucket_lock.bucket_lock(at) as check:
        check()
        leave_lock(at)
        monkeypatch.setattr(bucket_lock.os, "_exit", end)
        with pytest.raises(Ended):
            check()
    assert "it took over gs://bucket/run" in capsys.readouterr().err
