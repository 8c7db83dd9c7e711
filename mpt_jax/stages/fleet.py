"""Training a fleet: from members, a bank and an objective to each member's best prompts.

teach, distill and adapt differ in who the members are, where they start and what they minimise;
everything else is here.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpt_jax.data.batches import Batches, bucketed_batches, packed_batches
from mpt_jax.data.examples import Examples, SubStore
from mpt_jax.data.recorded import RecordedStore
from mpt_jax.data.splits import shuffled
from mpt_jax.data.streams import Stream, Streams
from mpt_jax.errors import UserError
from mpt_jax.methods.bank import AnyBank
from mpt_jax.methods.method import Method
from mpt_jax.partitioning import fetch, place, process_data_shard, shard_batch
from mpt_jax.stages.backbone import Backbone
from mpt_jax.stages.design import Design, build_step
from mpt_jax.stages.predict import Decoding, Job, Predictor, main_metric
from mpt_jax.stages.training import SAMPLERS, Training
from mpt_jax.training import loop
from mpt_jax.training.checkpoints import Checkpoints, Identity
from mpt_jax.training.compiled_step import CompiledStep
from mpt_jax.training.step import init_state


@dataclasses.dataclass(frozen=True)
class Member:
    """One training run of a fleet.

    Attributes:
        name: unique in the fleet; names its metrics and its prompt file.
        method: index of its method in the program's bank.
        index: its number m among that method's members.
        tasks: names of its K tasks.
        train: examples of each task.
        validation: examples of each task by which the best step is chosen; empty for all members of
            a fleet to keep the last step's prompts.
        order: number of the order in which its training examples come.
    """

    name: str
    method: int
    index: int
    tasks: tuple[str, ...]
    train: tuple[Examples, ...]
    validation: tuple[Examples, ...]
    order: int = 0


@dataclasses.dataclass(frozen=True)
class Program:
    """Members that train side by side, in one compiled step.

    Attributes:
        bank: whose parameters are trained.
        members: in the order of the bank's member numbers.
        name: of its folders below checkpoints/ and metrics/, where a run has several programs.
    """

    bank: AnyBank
    members: tuple[Member, ...]
    name: str = ""

    def __post_init__(self):
        methods = self.bank.methods
        expected = [(i, m) for i, method in enumerate(methods) for m in range(method.members)]
        found = [(member.method, member.index) for member in self.members]
        if found != expected:
            raise ValueError(f"Members {found} are not in the order of the bank, {expected}.")


@dataclasses.dataclass(frozen=True)
class Trained:
    """What comes out of a fleet.

    Attributes:
        params: the bank's parameters, each member at its own best step; numpy.
        best_step: [M].
        best_score: [M], on validation data.
        cost: of this process.
        diverged: [M], whether a member is no longer finite (then its best is from before).
    """

    params: Any
    best_step: np.ndarray
    best_score: np.ndarray
    cost: "Cost"
    diverged: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cost:
    """What training a program took, in this process; a resumed run has only what was left of it.

    Attributes:
        seconds: in all.
        compile_seconds, evaluate_seconds: of these.
        timed_steps: how many were trained in that time.
        step_bytes: memory of the compiled step on one device; None where nothing was compiled.
    """

    seconds: float
    compile_seconds: float
    evaluate_seconds: float
    timed_steps: int
    step_bytes: int | None


def train_fleet(
    title: str,
    directory: Path,
    backbone: Backbone,
    program: Program,
    params: Any,
    design: Design,
    training: Training,
    feature_lengths: Mapping[str, int],
    recorded: Mapping[str, RecordedStore] = {},
) -> Trained:
    """Trains all members of a program, resuming what `directory` holds.

    Args:
        title: for the progress bar.
        directory: of the run; gets checkpoints/ and metrics/.
        program: who trains.
        params: the bank's parameters to start from.
        design: of the step; its bank is the program's.
        recorded: by task, the stores of what the design needs of each training example.
    """
    bank, members = program.bank, program.members
    check_batch(bank, training, backbone)
    streams = Streams(
        [
            Stream(
                examples,
                bank.virtual_ids(member.method, member.index, k),
                number,
                k,
                task,
                member.order,
                recorded.get(task),
            )  # fmt: skip
            for number, member in enumerate(members)
            for k, (task, examples) in enumerate(zip(member.tasks, member.train, strict=True))
        ]
    )
    batches = make_batches(streams, training, backbone)
    built, optimizer, layout = build_step(design, params, training, backbone.mesh)
    step = CompiledStep(built)
    state = place(init_state(params, optimizer), layout)
    identity = Identity(
        backbone.fingerprint,
        {method.name: _about(method) for method in bank.methods},
        {"seed": training.seed, "rows_per_member": training.rows_per_member,
         "members": [member.name for member in members]},
        backbone.config.precision,
    )  # fmt: skip
    result = loop.train(
        state,
        step,
        design.objective.frozen(backbone.params),
        lambda start: _extended(batches, start, training.steps, design.extend),
        timetable=loop.Timetable(
            training.steps,
            training.eval_period,
            training.checkpoint_period,
            training.log_period,
            training.tolerate_divergence,
        ),
        fleet=loop.Fleet(
            [member.name for member in members],
            [member.tasks for member in members],
            {method.name: method.members for method in bank.methods},
        ),
        title=title,
        evaluate=_validation(backbone, program, training, feature_lengths)
        if any(member.validation for member in members)
        else None,
        best_by="score",
        checkpoints=Checkpoints(
            directory / "checkpoints" / program.name, identity, keep=training.keep
        ),
        metrics_folder=directory / "metrics" / program.name,
        place=lambda batch: shard_batch(backbone.mesh, batch),
        prepare=step.prepare,
    )
    return Trained(
        fetch(result.best.params),
        fetch(result.best.step),
        fetch(result.best.score),
        Cost(
            result.seconds, result.compile_seconds, result.evaluate_seconds,
            training.steps - result.resumed_at, step.peak_bytes,
        ),
        np.isin(np.arange(len(members)), result.diverged),
    )  # fmt: skip


def check_batch(bank: AnyBank, training: Training, backbone: Backbone) -> None:
    """Raises UserError for batches that cannot be laid out over the mesh or over the bank's members."""
    rows, devices = training.rows_per_member * bank.members, backbone.mesh.shape["data"]
    if training.packed_lengths is None and rows % devices:
        raise UserError(
            f"A batch has {rows} rows ({training.rows_per_member} for each member), which do not "
            f"divide over {devices} devices. Choose a BATCH_SIZE that makes them divide."
        )
    alone = [method.name for method in bank.methods if not method.packs]
    if training.packed_lengths is not None and alone:
        raise UserError(
            f"Packed rows hold several examples, but the prompts of {', '.join(alone)} depend on the "
            "whole row. Leave packed_lengths out."
        )
    if bank.mixes or bank.members == 1:
        return
    name = bank.methods[0].name
    if training.packed_lengths is not None:
        raise UserError(
            f"Packed rows hold examples of several members, which {name} cannot tell apart: it "
            "changes the whole row. Leave packed_lengths out, or train one member."
        )
    if training.rows_per_member % training.accumulate:
        raise UserError(
            f"{name} needs as many rows of each member in every part of a batch, but the "
            f"{training.rows_per_member} rows of a member do not divide into {training.accumulate} "
            "parts. Choose a BATCH_SIZE that is a multiple of accumulate."
        )


def make_batches(streams: Streams, training: Training, backbone: Backbone) -> Batches:
    """Batches in the layout that `training` asks for, this process's rows of them."""
    sampler = SAMPLERS[training.sampler](streams, training.rows_per_member, seed=training.seed)
    index, count = process_data_shard(backbone.mesh)
    if training.packed_lengths is not None:
        T, L = training.packed_lengths
        return packed_batches(
            streams, sampler, training.seed, T=T, L=L, row_multiple=backbone.mesh.shape["data"],
            process_index=index, process_count=count,
        )  # fmt: skip
    return bucketed_batches(
        streams, sampler, training.seed, grouped=training.grouped,
        process_index=index, process_count=count,
    )  # fmt: skip


def limit(examples: Examples, most: int) -> Examples:
    """At most `most` examples: a fixed random choice, as a split may be ordered by class."""
    if len(examples) <= most:
        return examples
    return SubStore(examples, np.sort(shuffled(len(examples))[:most]))


def _about(method: Method) -> dict[str, Any]:
    """What must be the same when a run is resumed."""
    sizes = {n: getattr(method, n) for n in ("length", "width") if hasattr(method, n)}
    about = {"kind": method.kind, "members": method.members, "tasks": method.tasks, **sizes}
    return about | ({"settings": method.settings} if method.settings else {})


def _extended(batches: Batches, start: int, stop: int, extend: Any) -> Iterator[Any]:
    for batch in batches.iterate(start, stop):
        yield extend(batch)


def _validation(
    backbone: Backbone,
    program: Program,
    training: Training,
    feature_lengths: Mapping[str, int],
) -> Callable[[Any], dict[str, np.ndarray]]:
    """params -> {"score": [M]}: each member's mean over its tasks' main metrics."""
    bank, members = program.bank, program.members
    predictor = Predictor(
        backbone,
        bank,
        batch_size=training.eval_batch_size,
        feature_lengths=feature_lengths,
        decoding=Decoding(),
    )
    jobs, owners = [], []
    for number, member in enumerate(members):
        for k, (task, examples) in enumerate(zip(member.tasks, member.validation, strict=True)):
            ids = bank.virtual_ids(member.method, member.index, k)
            chosen = limit(examples, training.validation_examples)
            jobs.append(Job(task, ids, chosen, member.index))
            owners.append(number)

    def evaluate(params: Any) -> dict[str, np.ndarray]:
        scores = np.array([m[main_metric(m)] for m in predictor.scores(params, jobs)])
        sums = np.bincount(owners, scores, minlength=len(members))
        return {"score": (sums / np.bincount(owners, minlength=len(members))).astype(np.float32)}

    return evaluate
