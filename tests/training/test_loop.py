import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.errors import Stopped, UserError
from mpt_jax.training.checkpoints import Checkpoints, Identity, steps
from mpt_jax.training.loop import Diverged, Fleet, Timetable, train
from mpt_jax.training.metrics_writer import read_rows

MEMBERS = 3
FLEET = Fleet(["a", "b", "c"], [["t0", "t1"]] * MEMBERS, {"w": MEMBERS})


class State(NamedTuple):
    step: Any
    params: Any
    momentum: Any


def initial():
    w = jnp.ones((MEMBERS, 4), jnp.float32)
    return State(jnp.zeros((), jnp.int32), {"w": w}, jnp.zeros_like(w))


@jax.jit
def step_fn(state, backbone, batch):
    """Least squares with momentum: every number depends on every step before it."""
    error = state.params["w"] - batch["target"]
    momentum = 0.9 * state.momentum + error
    loss = jnp.square(error).sum(axis=1)
    params = {"w": state.params["w"] - backbone * momentum}
    metrics = {"loss": loss, "finite": jnp.isfinite(loss)}
    return State(state.step + 1, params, momentum), metrics


def batches_from(step, *, poison_at=None, on_step=lambda step: None):
    while True:
        on_step(step)
        rng = np.random.default_rng([7, step])
        target = rng.normal(size=(MEMBERS, 4)).astype(np.float32)
        if step == poison_at:
            target[1] = np.nan
        yield {
            "target": target,
            "member_ids": np.asarray([[0, 0], [1, 1], [1, 1], [2, 2]], np.int32),
            "task_ids": np.asarray([[0, 0], [1, 0], [0, 1], [0, 0]], np.int32),
            "decoder_loss_weights": np.asarray([[1, 1], [1, 0], [0, 1], [1, 1]], np.float32),
        }
        step += 1


def evaluate(params):
    return {"score": -np.abs(np.asarray(params["w"])).sum(axis=1), "examples": 5}


def go(folder=None, *, total=12, batches=batches_from, timetable=None, **options):
    checkpoints = None
    if folder is not None:
        checkpoints = Checkpoints(folder / "checkpoints", Identity("f" * 16, {"name": "toy"}))
        options.setdefault("metrics_folder", folder / "metrics")
    timetable = timetable or Timetable(total, eval_period=4, checkpoint_period=3, log_period=2)
    options = {"evaluate": evaluate, "best_by": "score", **options}
    backbone = jnp.asarray(0.05, jnp.float32)
    return train(
        initial(),
        step_fn,
        backbone,
        batches,
        timetable=timetable,
        fleet=FLEET,
        checkpoints=checkpoints,
        **options,
    )


def assert_same(result, other):
    jax.tree.map(np.testing.assert_array_equal, result.state, other.state)
    jax.tree.map(np.testing.assert_array_equal, result.best, other.best)


def rows(folder, split):
    kept = read_rows(folder / "metrics", split)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in kept]


def test_the_loop_is_the_steps_one_after_another():
    state, source = initial(), batches_from(0)
    for _ in range(12):
        state, _ = step_fn(state, jnp.asarray(0.05, jnp.float32), next(source))
    result = go()
    np.testing.assert_array_equal(result.state.params["w"], state.params["w"])
    assert int(result.state.step) == 12


def test_each_shape_is_prepared_once_and_that_time_is_told_apart():
    shapes = []

    def prepare(state, backbone, batch):
        shapes.append({name: np.shape(value) for name, value in batch.items()})
        time.sleep(0.05)

    result = go(prepare=prepare)
    assert len(shapes) == 1 and set(shapes[0]) == set(next(batches_from(0)))
    assert 0.05 <= result.compile_seconds < result.seconds


def test_each_member_keeps_its_own_best():
    scores = {0: [0.1, 0.1, 0.1], 4: [0.5, 0.0, 0.2], 8: [0.3, 0.6, 0.2], 12: [0.5, 0.1, 0.3]}
    seen = {}

    def scripted(params):
        at = sorted(scores)[len(seen)]
        seen[at] = np.asarray(params["w"])
        return {"accuracy": np.asarray(scores[at])}

    best = go(evaluate=scripted, best_by="accuracy").best
    assert np.asarray(best.step).tolist() == [
        4,
        8,
        12,
    ]  # the first of equals: member a at 4, not 12
    for member, at in enumerate([4, 8, 12]):
        np.testing.assert_array_equal(best.params["w"][member], seen[at][member])


def test_without_evaluation_the_best_is_the_last():
    result = go(evaluate=None)
    np.testing.assert_array_equal(result.best.params["w"], result.state.params["w"])


def test_rows_are_means_and_every_step_counts_once(tmp_path):
    go(tmp_path, timetable=Timetable(7, log_period=3))
    losses = []
    state, source = initial(), batches_from(0)
    for _ in range(7):
        state, metrics = step_fn(state, jnp.asarray(0.05, jnp.float32), next(source))
        losses.append(float(metrics["loss"][0]))
    train_rows = rows(tmp_path, "train")
    assert [row["step"] for row in train_rows] == [3, 6, 7]
    expected = [np.mean(losses[:2]), np.mean(losses[2:5]), np.mean(losses[5:])]  # the newest waits
    np.testing.assert_allclose([row["loss"]["a"] for row in train_rows], expected, rtol=1e-5)
    assert [row["step"] for row in rows(tmp_path, "validation")] == [7]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_equals_an_undisturbed_one(tmp_path, number):
    whole = go(tmp_path / "whole")

    def stopping(step):
        def maybe(step):
            if step == 6:
                os.kill(os.getpid(), number)

        return batches_from(step, on_step=maybe)

    handler = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"{number.name}: saved step 7 of 12") as stopped:
        go(tmp_path / "cut", batches=stopping)
    assert stopped.value.exit_code == 75
    assert signal.getsignal(number) is handler
    assert steps(tmp_path / "cut" / "checkpoints")[-1] == 7
    resumed = go(tmp_path / "cut")
    assert resumed.resumed_at == 7
    assert_same(resumed, whole)
    assert rows(tmp_path / "cut", "validation") == rows(tmp_path / "whole", "validation")


def test_a_signal_in_the_last_evaluation_is_not_forgotten(tmp_path):
    """What comes after the loop would not hear it."""

    def interrupted(params):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(params)

    timetable = Timetable(12, eval_period=0, checkpoint_period=3, log_period=2)
    with pytest.raises(Stopped, match="SIGTERM: saved step 12 of 12"):
        go(tmp_path, timetable=timetable, evaluate=interrupted)
    assert_same(go(tmp_path, timetable=timetable), go(timetable=timetable))


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_loop
def kill(step):
    if step == 8 and {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
test_loop.go(Path({folder!r}), batches=lambda step: test_loop.batches_from(step, on_step=kill))
"""


def test_kill_9_loses_the_steps_since_the_checkpoint_and_no_more(tmp_path):
    whole = go(tmp_path / "whole")
    code = SCRIPT.format(tests=os.path.dirname(__file__), kill=True, folder=str(tmp_path / "cut"))
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert steps(tmp_path / "cut" / "checkpoints")[-1] == 6
    assert rows(tmp_path / "cut", "train")[-1]["step"] == 8  # written, and soon dropped
    resumed = go(tmp_path / "cut")
    assert resumed.resumed_at == 6
    assert_same(resumed, whole)
    for split in ("train", "validation"):
        assert rows(tmp_path / "cut", split) == rows(tmp_path / "whole", split)


def test_a_damaged_checkpoint_costs_only_its_steps(tmp_path):
    whole = go(tmp_path / "whole")
    go(tmp_path / "cut", total=9)
    for path in (tmp_path / "cut" / "checkpoints" / "9").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.warns(UserWarning, match="9 is damaged"):
        resumed = go(tmp_path / "cut")
    assert resumed.resumed_at == 6
    assert_same(resumed, whole)


def test_a_finished_run_returns_its_result_again(tmp_path):
    assert_same(go(tmp_path), go(tmp_path))
    with pytest.raises(UserError, match="12 steps already, more than the 9"):
        go(tmp_path, total=9)


def test_nan_names_step_member_and_tasks_and_is_not_saved(tmp_path):
    def poisoned(step):
        return batches_from(step, poison_at=7)

    with pytest.raises(Diverged) as caught:
        go(tmp_path, batches=poisoned)
    message = str(caught.value)
    assert message.startswith("step 8:")  # the eighth step, whose batch has index 7
    assert "b (tasks in its rows: t1)" in message and "a (" not in message
    assert steps(tmp_path / "checkpoints")[-1] == 6


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    def late(state, backbone, batch):
        state, metrics = step_fn(state, backbone, batch)
        w = jnp.where(state.step == 6, jnp.inf, state.params["w"])
        return state._replace(params={"w": w}), metrics

    checkpoints = Checkpoints(tmp_path, Identity("f" * 16))
    with pytest.raises(Diverged, match="step 6: a parameter is not finite for\n  a .*t0, t1"):
        train(
            initial(),
            late,
            jnp.asarray(0.05, jnp.float32),
            batches_from,
            timetable=Timetable(9, checkpoint_period=3),
            fleet=FLEET,
            checkpoints=checkpoints,
        )
    assert steps(tmp_path) == [3]


def test_a_score_that_is_not_finite_is_an_error():
    with pytest.raises(UserError, match="step 0: score is not finite for b"):
        go(evaluate=lambda params: {"score": np.asarray([0.0, np.nan, 0.0])})


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": 5, "log_period": 0}, {"steps": 5, "eval_period": -1}]
)
def test_wrong_timetables(wrong):
    with pytest.raises(UserError, match=f"{list(wrong)[-1]} is"):
        Timetable(**wrong)


def test_evaluation_must_say_what_is_best():
    with pytest.raises(UserError, match="best_by"):
        go(best_by="")
    with pytest.raises(UserError, match=r"gave \['examples', 'score'\], but best_by is 'f1'"):
        go(best_by="f1")


def test_where_it_is_tolerated_a_member_that_diverges_ends_no_other(tmp_path):
    timetable = Timetable(12, 4, 3, 2, tolerate_divergence=True)

    def poisoned(step, stop_at=-1):
        def maybe(step):
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        return batches_from(step, poison_at=5, on_step=maybe)

    whole, sound = go(tmp_path / "whole", timetable=timetable, batches=poisoned), go()
    assert whole.diverged == (1,)
    assert int(whole.best.step[1]) <= 4 and np.isfinite(np.asarray(whole.best.params["w"])).all()
    for found, expected in ((whole.state, sound.state), (whole.best, sound.best)):
        for member in (0, 2):
            np.testing.assert_array_equal(found.params["w"][member], expected.params["w"][member])
    last = rows(tmp_path / "whole", "validation")[-1]["score"]
    assert last["b"] is None and last["a"] is not None

    with pytest.raises(Stopped):
        go(tmp_path / "cut", timetable=timetable, batches=lambda s: poisoned(s, stop_at=8))
    resumed = go(tmp_path / "cut", timetable=timetable, batches=poisoned)
    assert resumed.resumed_at == 9 and resumed.diverged == (1,)
    assert_same(resumed, whole)
    again = go(tmp_path / "cut", timetable=timetable, batches=poisoned)  # nothing is left to do
    assert again.resumed_at == 12 and again.diverged == (1,)
