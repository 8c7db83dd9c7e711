"""The step that `mpt distill` trains with, on the benchmarks' model and batch."""

import dataclasses
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
from mpt_jax.partitioning import place, replicated, shard_batch
from mpt_jax.stages import distill
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.design import Design, build_step
from mpt_jax.stages.training import Training
from mpt_jax.training.distillation import DistillationObjective
from mpt_jax.training.step import TrainState, init_state


class Step(NamedTuple):
    """Everything that `mpt distill` compiles its step of, for one MPT member of all tasks.

    Attributes:
        step: jitted.
        state: to start from; a call takes its buffers over.
        frozen: the backbone and the teachers.
        bank: the student's.
        design: of the step, with the teachers.
    """

    step: Any
    state: TrainState
    frozen: Any
    bank: Bank
    design: Design

    def compiled(self, batch: Mapping[str, jax.Array]) -> Any:
        """`program(state, frozen, batch) -> (state, metrics)` for batches like this one."""
        return self.step.lower(self.state, self.frozen, batch).compile()


def open_backbone(folder: str | Path) -> Backbone:
    """As a command of `mpt` opens it."""
    run_in_callers_thread()
    return BackboneSource(str(Path(folder) / "model")).open()


def make_step(
    backbone: Backbone, folder: str | Path, weight: float = 0.0, teacher_cache: str | None = None
) -> Step:
    """The step on the problem in `folder`.

    Args:
        weight: of distillation; 0 leaves the teachers out.
        teacher_cache: where the teachers' states are kept, if the step is to read them.
    """
    start = problem.prompt(folder)
    length, width = start["shared"].shape
    tasks = [f"task{k}" for k in range(len(start["u"]))]
    training = Training(steps=1000, rows_per_member=len(problem.tokens(folder)["tasks"]))
    variant = distill.Variant("mpt", 0.3, 0.4, weight=weight)
    (design,) = distill.designs(
        backbone.network, tasks, training, backbone.mesh, length, (variant,),
        teacher_cache=teacher_cache,
    )  # fmt: skip
    assert isinstance(design.bank, Bank) and isinstance(design.objective, DistillationObjective)
    (teacher,) = design.objective.teacher_bank.methods
    stacked = np.stack(teacher_prompts(len(tasks), length, width))[:, None]
    taught = place({teacher.name: {"prompt": stacked}}, replicated(backbone.mesh))
    objective = dataclasses.replace(design.objective, teacher_params=taught)
    (method,) = design.bank.methods
    params = {method.name: {name: jnp.asarray(array)[None] for name, array in start.items()}}
    design = dataclasses.replace(design, objective=objective)
    step, optimizer, layout = build_step(design, params, training, backbone.mesh)
    state = place(init_state(params, optimizer), layout)
    return Step(step, state, objective.frozen(backbone.params), design.bank, design)


def teacher_prompts(tasks: int, length: int, width: int) -> list[np.ndarray]:
    """Random [P, D], one for each task."""
    return list(np.random.default_rng(2).standard_normal((tasks, length, width), np.float32))


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
        "decoder_input_tokens": np.pad(targets[:, :-1], [(0, 0), (1, 0)]),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
        "member_ids": np.zeros(targets.shape, np.int32),
        "task_ids": per_task,
    }


def train(folder: str, inputs: int | None = None) -> Prepared:
    """One step without distillation.

    Args:
        inputs: as in `make_batch`.
    """
    backbone = open_backbone(folder)
    step = make_step(backbone, folder)
    batch = shard_batch(backbone.mesh, make_batch(folder, step.bank, inputs))
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
