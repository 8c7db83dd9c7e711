"""The step that `mpt distill` trains with, on the benchmarks' model and batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import problem
from turns import Prepared

from mpt_jax.host_memory import run_in_callers_thread
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.partitioning import place, replicated, shard_batch
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.training import Training
from mpt_jax.training.distillation import TEACHER_TOKENS, DistillationObjective
from mpt_jax.training.optimizers import Optimizer
from mpt_jax.training.step import TrainState, init_state, make_train_step


class Step(NamedTuple):
    """Everything that `mpt distill` compiles its step of, for one MPT member of all tasks.

    Attributes:
        step: jitted.
        state: to start from; a call takes its buffers over.
        frozen: the backbone and the teachers.
        bank: the student's.
        objective: what is minimised.
    """

    step: Any
    state: TrainState
    frozen: Any
    bank: Bank
    objective: DistillationObjective

    def compiled(self, batch: Mapping[str, jax.Array]) -> Any:
        """`program(state, frozen, batch) -> (state, metrics)` for batches like this one."""
        return self.step.lower(self.state, self.frozen, batch).compile()


def open_backbone(folder: str | Path) -> Backbone:
    """As a command of `mpt` opens it."""
    run_in_callers_thread()
    return BackboneSource(str(Path(folder) / "model")).open()


def design(backbone: Backbone, folder: str | Path, weight: float = 0.0) -> Step:
    """The step on the problem in `folder`.

    Args:
        weight: of distillation; 0 leaves the teachers out.
    """
    start = problem.prompt(folder)
    length, width = start["shared"].shape
    tasks, vocab_size = len(start["u"]), backbone.config.vocab_size
    method = MPT(members=1, tasks=tasks, length=length, width=width)
    teachers = PromptTuning(members=tasks, tasks=1, length=length, width=width)
    bank = Bank((method,), vocab_size)
    noise = np.random.default_rng(2).standard_normal((tasks, 1, length, width), np.float32)
    objective = DistillationObjective(
        backbone.network, bank, Bank((teachers,), vocab_size),
        place({teachers.name: {"prompt": noise}}, replicated(backbone.mesh)), weight=weight,
    )  # fmt: skip
    params = {method.name: {name: jnp.asarray(array)[None] for name, array in start.items()}}
    training = Training(steps=1000, rows_per_member=len(problem.tokens(folder)["tasks"]))
    optimizer = Optimizer(
        [(".*/shared", training.group(0.3)), (".*/[uv]", training.group(0.4))], params,
        members={method.name: 1}, clip_norm=training.clip_norm, steps=training.steps,
    )  # fmt: skip
    step = make_train_step(objective, optimizer, mesh=backbone.mesh, seed=training.seed)
    state = place(init_state(params, optimizer), replicated(backbone.mesh))
    return Step(step, state, objective.frozen(backbone.params), bank, objective)


def make_batch(folder: str | Path, bank: Bank, inputs: int | None = None) -> dict[str, np.ndarray]:
    """The problem's tokens as a stage would have them: each row behind its task's virtual ids.

    Args:
        inputs: tokens of text, where they are not the problem's.
    """
    arrays = problem.tokens(folder)
    if inputs is not None:
        arrays["inputs"] = np.resize(arrays["inputs"], (len(arrays["inputs"]), inputs))
    targets, tasks = arrays["targets"], arrays["tasks"]
    virtual = np.stack([bank.virtual_ids(0, 0, task) for task in tasks.tolist()])
    ids = np.concatenate([virtual, arrays["inputs"]], axis=1)
    per_task = np.repeat(tasks[:, None], targets.shape[1], axis=1)
    return {
        "encoder_input_tokens": ids,
        # The teachers' bank has a prompt for each task in the same order, so the same ids.
        TEACHER_TOKENS: ids,
        "decoder_input_tokens": np.pad(targets[:, :-1], [(0, 0), (1, 0)]),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
        "member_ids": np.zeros(targets.shape, np.int32),
        "task_ids": per_task,
    }


def train(
    folder: str, weight: float = 0.0, cached: bool = False, inputs: int | None = None
) -> Prepared:
    """One step.

    Args:
        weight: of distillation.
        cached: whether the batch holds the teachers' outputs.
        inputs: as in `make_batch`.
    """
    backbone = open_backbone(folder)
    step = design(backbone, folder, weight)
    batch = shard_batch(backbone.mesh, make_batch(folder, step.bank, inputs))
    if cached:
        batch = {**batch, **jax.jit(step.objective.teacher_outputs)(step.frozen, batch)}
    program = step.compiled(batch)
    held = [step.state]

    def turn() -> float:
        held[0], metrics = program(held[0], step.frozen, batch)
        return float(metrics["loss"][0])

    first = turn()
    turn()
    flops = program.cost_analysis()["flops"]
    device = jax.devices()[0].device_kind
    return Prepared(turn, {"loss": first, "flops": flops, "device": device})


def matmul(size: int) -> Prepared:
    """JAX's own best: one product of square matrices."""
    a = jax.random.uniform(jax.random.key(0), (size, size))
    product = jax.jit(jnp.dot).lower(a, a).compile()

    def turn() -> jax.Array:
        return product(a, a).block_until_ready()

    turn()
    return Prepared(turn, {"flops": 2 * size**3})
