"""What a stage's compiled step is made of, known from shapes alone: no weights, no examples.

Each training stage has a function `designs(network, tasks, training, mesh, ...)`. The stage trains
what it returns; `mpt plan` compiles the same and trains nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mpt_jax.data.recorded import Fields
from mpt_jax.methods.bank import AnyBank
from mpt_jax.partitioning import DATA, STANDARD_RULES, batch_sharding, replicated, tree_shardings
from mpt_jax.stages.training import Training
from mpt_jax.training.objectives import Objective
from mpt_jax.training.optimizers import Optimizer, Table
from mpt_jax.training.step import (
    TrainState,
    TrainStep,
    init_state,
    make_train_step,
    state_shardings,
)

Extend = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Design:
    """Members that train side by side in one compiled step: who, towards what, and how.

    Attributes:
        bank: whose parameters are trained.
        objective: see `mpt_jax.training`.
        table: the optimizer's; training.group makes its rows.
        extend: adds what the objective needs to a batch (the teachers' tokens).
        recorded: what the objective needs of each example beside its tokens (the teachers' states).
        name: of its folders below checkpoints/ and metrics/, where a run has several.
    """

    bank: AnyBank
    objective: Objective
    table: Table
    extend: Extend = lambda batch: batch
    recorded: Fields = dataclasses.field(default_factory=dict)
    name: str = ""


class BuiltStep(NamedTuple):
    """A step and where its state lies.

    Attributes:
        step: jitted, not compiled yet.
        optimizer: of the step.
        layout: shardings of the whole state, one for each array.
    """

    step: TrainStep
    optimizer: Optimizer
    layout: Any


def build_step(design: Design, params: Any, training: Training, mesh: Mesh) -> BuiltStep:
    """The step that trains a design.

    Args:
        params: the bank's parameters, or their shapes.
        training: steps, clipping, accumulation, seed.
        mesh: of everything.
    """
    bank = design.bank
    optimizer = Optimizer(
        design.table,
        params,
        members={method.name: method.members for method in bank.methods},
        clip_norm=training.clip_norm,
        steps=training.steps,
    )
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer), params)
    layout = _layout(state, bank, mesh)
    step = make_train_step(
        design.objective, optimizer, accumulate=training.accumulate, mesh=mesh,
        state_layout=layout, seed=training.seed,
    )  # fmt: skip
    return BuiltStep(step, optimizer, layout)


def parameter_shapes_of(bank: AnyBank) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """The trainable tree of a bank, as shapes."""
    return {
        method.name: {
            name: jax.ShapeDtypeStruct(shape, np.float32)
            for name, shape in method.fleet_shapes().items()
        }
        for method in bank.methods
    }


def _layout(state: TrainState, bank: AnyBank, mesh: Mesh) -> Any:
    """Where the state lies.

    Members lie with their rows where they can be laid out over devices, and whole weights as the
    backbone's do; everything else has a copy on every device.
    """
    axes = {method.name: method.logical_axes() for method in bank.methods}
    if None not in axes.values():
        rules = {**STANDARD_RULES, "members": DATA if bank.laid_out else None}
        return state_shardings(state, mesh, tree_shardings(mesh, axes, state.params, rules))
    if bank.laid_out:
        by_member = jax.tree.map(lambda _: batch_sharding(mesh), state.params)
        return state_shardings(state, mesh, by_member)
    return jax.tree.map(lambda _: replicated(mesh), state)
