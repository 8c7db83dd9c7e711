"""The training loop: dispatch a step, look at its numbers later, save, evaluate, stop cleanly.

Letters: M members of the fleet, K tasks of a member, B rows, L target tokens.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mpt_jax.errors import Stopped, UserError
from mpt_jax.partitioning import fetch
from mpt_jax.training.best import Best, better, finite_members, no_best
from mpt_jax.training.checkpoints import Checkpoints
from mpt_jax.training.metrics_writer import MetricsWriter
from mpt_jax.training.progress import TrainingProgress
from mpt_jax.training.signals import StopFlag, stop_on_signal

Batch = Mapping[str, Any]
Metrics = Mapping[str, Any]

_OWNERS = {"member_ids", "task_ids", "decoder_loss_weights"}
"""What says whose the positions of a batch are; all else may be large."""


class Diverged(UserError):
    """A member's loss or parameters are no longer finite; nothing of that state was saved."""


class LoopState(NamedTuple):
    """What a checkpoint holds: the step's own state and the best so far."""

    train: Any
    best: Best


@dataclasses.dataclass(frozen=True)
class Timetable:
    """When things happen, in steps; 0 means never.

    Attributes:
      steps: to train in all, those of an earlier process included.
      eval_period: between evaluations; one also follows the last step, and one comes before the first.
      checkpoint_period: between checkpoints; one also follows the last step.
      log_period: between rows of metrics, and between looks at the numbers of the steps.
      tolerate_divergence: go on with the other members where one is no longer finite, as in a search of
        rates; its last score is minus infinity. By default that ends the run.
    """

    steps: int
    eval_period: int = 0
    checkpoint_period: int = 0
    log_period: int = 10
    tolerate_divergence: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[:4]:
            if getattr(self, field.name) < (1 if field.name in ("steps", "log_period") else 0):
                raise UserError(f"{field.name} is {getattr(self, field.name)}, expected more")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Who trains: names for messages and metrics, and where in the trainable tree each member is.

    Attributes:
      members: names of the M members.
      tasks: for each member, the names of its K tasks.
      parts: name of each part (top-level key) of the trainable tree -> the number of members in it, in the
        members' order; the part's leaves have them as leading axis.
    """

    members: Sequence[str]
    tasks: Sequence[Sequence[str]]
    parts: Mapping[str, int]

    def __post_init__(self) -> None:
        if not len(self.members) == len(self.tasks) == sum(self.parts.values()):
            raise ValueError(
                f"{len(self.members)} members, {len(self.tasks)} lists of tasks, and parts of "
                f"{sum(self.parts.values())} members: expected as many of each"
            )


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished loop returns.

    Attributes:
      state: the last state of the step.
      best: the best parameters of each member; the last ones where nothing was evaluated.
      resumed_at: the step that this process began with.
      compile_seconds: spent in compiling (or loading compiled programs), all shapes together.
      evaluate_seconds: spent in evaluations.
      seconds: of this process in the loop, compiling and evaluation included.
      diverged: members that are no longer finite, where that was tolerated.
    """

    state: Any
    best: Best
    resumed_at: int
    compile_seconds: float
    evaluate_seconds: float
    seconds: float
    diverged: tuple[int, ...] = ()


def train(
    state: Any,
    step_fn: Callable[[Any, Any, Batch], tuple[Any, Metrics]],
    backbone: Any,
    batches: Callable[[int], Iterator[Batch]],
    *,
    timetable: Timetable,
    fleet: Fleet,
    title: str = "train",
    evaluate: Callable[[Any], Metrics] | None = None,
    best_by: str = "",
    checkpoints: Checkpoints | None = None,
    metrics_folder: Any = None,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    prepare: Callable[[Any, Any, Batch], None] = lambda state, backbone, batch: None,
) -> Result:
    """Trains from the latest checkpoint, or from `state`, up to `timetable.steps`.

    Args:
      state: has `params`, the trainable tree, a dict of parts as `fleet.parts` says. Its buffers may be
        donated.
      step_fn: (state, backbone, batch) -> (state, metrics). Metrics are [M] or scalars; "loss" [M] and
        "finite" [M], whether loss and gradient are, must be among them.
      backbone: the frozen parameters, handed to each step.
      batches: gives the batches from a step on; the batch of a step is a function of the step alone.
      timetable: how many steps, and when to evaluate, save and log.
      fleet: the members.
      title: for the progress bar.
      evaluate: params -> metrics, each [M] or a scalar, on validation data.
      best_by: the metric of `evaluate`, [M], higher is better, by which each member's best is kept.
      checkpoints: where to save and resume; None to do neither.
      metrics_folder: MODEL_DIR/metrics; None to write none.
      place: puts a batch on the devices.
      prepare: compiles the step for a batch's shape, so that the time it takes is told apart; called with
        the step's arguments before the first step of each shape.

    Raises:
      Diverged: a loss or parameter is not finite; says at which step, for which members and tasks.
      Stopped: SIGTERM or SIGINT came; the state is saved.
    """
    if evaluate is not None and not best_by:
        raise UserError(
            "evaluation needs best_by, the metric by which the best parameters are kept"
        )
    loop = LoopState(state, no_best(state.params, members=len(fleet.members)))
    resumed_at = 0
    if checkpoints is not None and (restored := checkpoints.restore_latest(loop)) is not None:
        loop, resumed_at = restored.state, restored.step
    if resumed_at > timetable.steps:
        raise UserError(
            f"the run has done {resumed_at} steps already, more than the {timetable.steps} asked for; "
            "raise TRAIN_STEPS or use another directory"
        )
    writer = None
    if metrics_folder is not None and jax.process_index() == 0:
        writer = MetricsWriter(metrics_folder, fleet.members, resumed_at=resumed_at)
    with contextlib.ExitStack() as stack:
        if checkpoints is not None:
            stack.callback(checkpoints.close)
        if writer is not None:
            stack.callback(writer.close)
        bar = stack.enter_context(TrainingProgress(title, timetable.steps, done=resumed_at))
        stop = stack.enter_context(stop_on_signal())
        run = _Run(*loop, timetable, fleet, evaluate, best_by, checkpoints, writer, bar, resumed_at)
        return run.go(step_fn, backbone, batches, place, prepare, stop)


@dataclasses.dataclass
class _Run:
    """One call of `train`: the state that its phases share."""

    state: Any
    best: Best
    timetable: Timetable
    fleet: Fleet
    evaluate: Callable[[Any], Metrics] | None
    best_by: str
    checkpoints: Checkpoints | None
    writer: MetricsWriter | None
    bar: TrainingProgress
    resumed_at: int
    began: float = dataclasses.field(default_factory=time.monotonic)
    compile_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    diverged: set[int] = dataclasses.field(default_factory=set)
    """Members that are no longer finite; only where that is tolerated."""
    pending: list[tuple[int, Batch, Metrics]] = dataclasses.field(default_factory=list)
    """Steps whose numbers nobody has looked at, with whose positions they had."""
    latest_score: tuple[int, float] = (-1, 0.0)
    """Step and mean over the members of the last evaluation."""
    window: list[Metrics] = dataclasses.field(default_factory=list)
    """Numbers since the last row."""

    def go(
        self,
        step_fn: Callable[[Any, Any, Batch], tuple[Any, Metrics]],
        backbone: Any,
        batches: Callable[[int], Iterator[Batch]],
        place: Callable[[Batch], Batch],
        prepare: Callable[[Any, Any, Batch], None],
        stop: StopFlag,
    ) -> Result:
        timetable, step = self.timetable, self.resumed_at
        if timetable.tolerate_divergence:
            self.diverged.update(self._not_finite())  # those of an earlier process
        if step == 0:
            self._evaluate(step)
            self.evaluate_seconds = time.monotonic() - self.began
        source = batches(step)
        seen_shapes = set()
        while step < timetable.steps:
            batch = next(source)
            shapes = tuple(sorted((name, np.shape(value)) for name, value in batch.items()))
            placed = place(batch)
            if shapes not in seen_shapes:
                seen_shapes.add(shapes)
                before = time.monotonic()
                prepare(self.state, backbone, placed)
                self._note_compiling(time.monotonic() - before, batch)
            self.state, metrics = step_fn(self.state, backbone, placed)
            step += 1
            self.pending.append((step, {n: batch[n] for n in _OWNERS & batch.keys()}, metrics))
            last = step == timetable.steps
            stopping = stop.agreed(step, timetable.log_period)
            evaluating = last or _due(step, timetable.eval_period)
            saving = last or stopping or _due(step, timetable.checkpoint_period)
            if saving or evaluating or _due(step, timetable.log_period):
                # Not the newest, where it can wait: the device may still be working on it. A checkpoint
                # waits for all, so that a resumed run begins its row where an undisturbed one does.
                self._look(keep=0 if saving or evaluating else 1)
                self._log(step)
            if evaluating:
                before = time.monotonic()
                self._evaluate(step)
                self.evaluate_seconds += time.monotonic() - before
            if saving:
                self._save(step)
            if stopping:
                break
        # A signal may have come while the last step was evaluated and saved, too.
        if stop.agreed(step, 1):
            raise Stopped(self._stop_message(step, stop.name))
        if step == self.resumed_at:
            self.bar.note(f"all {step} steps were done before")
        return Result(
            self.state,
            self._best_or_last(),
            self.resumed_at,
            self.compile_seconds,
            self.evaluate_seconds,
            time.monotonic() - self.began,
            tuple(sorted(self.diverged)),
        )

    def _note_compiling(self, seconds: float, batch: Batch) -> None:
        self.compile_seconds += seconds
        shapes = {np.shape(batch[name]) for name in batch if name.endswith("_input_tokens")}
        text = " and ".join(str(list(shape)) for shape in sorted(shapes, reverse=True))
        self.bar.note(f"compiled the step{' for ' + text if text else ''} in {seconds:.1f} s")

    def _look(self, keep: int) -> None:
        """Fetches the numbers of all pending steps but the newest `keep`, and checks them in order."""
        ready, self.pending = self.pending[: len(self.pending) - keep], self.pending[-keep:][:keep]
        for step, batch, metrics in [(s, b, jax.device_get(m)) for s, b, m in ready]:
            bad = np.flatnonzero(~metrics["finite"]).tolist()
            if bad:
                self._diverge(step, bad, batch, "the loss or its gradient")
            self.window.append({n: value for n, value in metrics.items() if n != "finite"})

    def _log(self, step: int) -> None:
        if not self.window:
            return
        names = self.window[0].keys()
        row = {n: np.mean([metrics[n] for metrics in self.window], axis=0) for n in names}
        self.window.clear()
        self.bar.update(step, f"loss {np.mean(row['loss']):.3f}")
        if self.writer is not None:
            self.writer.write("train", step, time.monotonic() - self.began, row)

    def _evaluate(self, step: int) -> None:
        if self.evaluate is None or not (
            self.timetable.eval_period or step == self.timetable.steps
        ):
            return
        metrics = self.evaluate(self.state.params)
        if self.best_by not in metrics:
            raise UserError(f"evaluation gave {sorted(metrics)}, but best_by is {self.best_by!r}")
        score = np.array(metrics[self.best_by], np.float32)
        sound = np.isfinite(score)
        if wrong := sorted(set(np.flatnonzero(~sound).tolist()) - self.diverged):
            if not self.timetable.tolerate_divergence:
                names = ", ".join(self.fleet.members[member] for member in wrong)
                raise UserError(f"step {step}: {self.best_by} is not finite for {names}")
            self._diverge(step, wrong, {}, self.best_by)
        sound[sorted(self.diverged)] = False
        score[~sound] = -np.inf
        self.best = better(
            self.best, score, step, self.state.params, parts=tuple(self.fleet.parts.items())
        )
        mean = float(np.mean(score, where=sound)) if sound.any() else -np.inf
        self.latest_score = (step if sound.any() else -1, mean)
        self.bar.note(f"step {step}: {self.best_by} {mean:.3f}")
        if self.writer is not None:
            self.writer.write("validation", step, time.monotonic() - self.began, metrics)

    def _save(self, step: int) -> None:
        """Saves a state of which every loss was seen, and every parameter is, finite (or may not be)."""
        if self.checkpoints is None:
            return
        if not_finite := self._not_finite():
            self._diverge(step, not_finite, {}, "a parameter")
        scored_at, score = self.latest_score
        loop = LoopState(self.state, self.best)
        self.checkpoints.save(step, loop, score=score if scored_at == step else None)

    def _not_finite(self) -> list[int]:
        parts = tuple(self.fleet.parts.items())
        finite = fetch(finite_members(self.state.params, parts=parts))
        return np.flatnonzero(~finite).tolist()

    def _diverge(self, step: int, members: Iterable[int], batch: Batch, what: str) -> None:
        if self.timetable.tolerate_divergence:
            for member in sorted(set(members) - self.diverged):
                self.bar.note(f"step {step}: {what} is not finite for {self.fleet.members[member]}")
                self.diverged.add(member)
            return
        lines = []
        for member in members:
            tasks = self._tasks_in(batch, member)
            lines.append(f"  {self.fleet.members[member]} (tasks in its rows: {', '.join(tasks)})")
        raise Diverged(
            f"step {step}: {what} is not finite for\n"
            + "\n".join(lines)
            + "\nthe state was not saved; lower the learning rate or clip the gradient, then run again"
        )

    def _tasks_in(self, batch: Batch, member: int) -> list[str]:
        names = list(self.fleet.tasks[member])
        if not batch.keys() >= _OWNERS:
            return names
        mine = (np.asarray(batch["member_ids"]) == member) & (
            np.asarray(batch["decoder_loss_weights"]) > 0
        )
        return [names[task] for task in np.unique(np.asarray(batch["task_ids"])[mine])]

    def _best_or_last(self) -> Best:
        if np.isneginf(fetch(self.best.score)).all():
            return self.best._replace(params=self.state.params)
        return self.best

    def _stop_message(self, step: int, signal_name: str) -> str:
        if self.checkpoints is None:
            return f"{signal_name} at step {step}; nothing is saved, for the run has no directory"
        return (
            f"{signal_name}: saved step {step} of {self.timetable.steps}; the same command goes on"
        )


def _due(step: int, period: int) -> bool:
    return period > 0 and step % period == 0
