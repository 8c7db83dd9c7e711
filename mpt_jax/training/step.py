"""One optimizer step as one jitted program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from mpt_jax.errors import UserError
from mpt_jax.partitioning import DATA, batch_sharding, replicated
from mpt_jax.training.objectives import Batch, Metrics, Objective
from mpt_jax.training.optimizers import Optimizer, OptState


class TrainState(NamedTuple):
    """What training changes, and all that a checkpoint of it has to hold.

    Attributes:
        step: steps done.
        params: the trainable tree.
        opt_state: the optimizer's.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: OptState


TrainStep = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]


def init_state(params: Any, optimizer: Optimizer) -> TrainState:
    """The state before the first step. The step function gives its buffers away: keep no reference."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def state_shardings(state: TrainState, mesh: Mesh, param_shardings: Any) -> Any:
    """Where a whole model's state lies: each of the optimizer's arrays beside its parameter.

    Args:
        state: or its shapes.
        mesh: of everything.
        param_shardings: a sharding for each parameter. Optimizer arrays of the parameter's own shape
            lie as it does; the others (counts, factored moments) on every device.
    """
    everywhere = replicated(mesh)
    opt_shardings = {}
    flat = jax.tree_util.tree_flatten_with_path(state.params)[0]
    for (keys, param), sharding in zip(flat, jax.tree.leaves(param_shardings), strict=True):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in state.opt_state:
            opt_shardings[path] = jax.tree.map(
                lambda x, like=param.shape, there=sharding: (
                    there if x.shape == like else everywhere
                ),
                state.opt_state[path],
            )
    layout: Any = everywhere, param_shardings, opt_shardings
    return TrainState(*layout)


def make_train_step(
    objective: Objective,
    optimizer: Optimizer,
    *,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    state_layout: Any = None,
    seed: int = 0,
) -> TrainStep:
    """The compiled function `step(state, frozen, batch) -> (state, metrics)`.

    `frozen` is `objective.frozen(backbone)`. The gradient is of the sum of the members' losses with
    respect to the trainable tree only: the backbone gets none, and members do not touch each other.

    Args:
        objective: what to minimise.
        optimizer: how.
        accumulate: parts into which a batch is cut to save memory. Means are over the whole batch,
            so this changes no number.
        mesh: rows are split over its `data` axis; frozen arrays stay where they lie.
        state_layout: where the state lies (`state_shardings` for a whole model); by default a
            copy on every device of the mesh.
        seed: of dropout, which is a function of (seed, step) and so needs no state.

    Returns:
        A function that takes over (donates) the state's buffers. Metrics are those of the objective
        and, for each member [M], `loss`, `grad_norm` and `finite` (False where either is not).
    """
    if objective.members != optimizer.num_members:
        raise ValueError(
            f"the objective has {objective.members} members, the optimizer "
            f"{optimizer.num_members}; build both for the same bank."
        )

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        totals = objective.totals(batch)
        rng = jax.random.fold_in(jax.random.key(seed), state.step)

        def summed_loss(params, part, part_rng):
            loss, metrics = objective(params, frozen, part, totals, part_rng)
            return jnp.sum(loss), {**metrics, "loss": loss}

        gradient_of = jax.grad(summed_loss, has_aux=True)
        if accumulate == 1:
            grads, metrics = gradient_of(state.params, batch, rng)
        else:
            parts = _cut(batch, accumulate, mesh), jax.random.split(rng, accumulate)
            grads, metrics = _accumulated(gradient_of, state.params, parts)
        params, opt_state, norms = optimizer.update(
            grads, state.opt_state, state.params, state.step
        )
        metrics["grad_norm"] = norms
        metrics["finite"] = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norms)
        return TrainState(state.step + 1, params, opt_state), metrics

    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    layout = replicated(mesh) if state_layout is None else state_layout
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(layout, None, batch_sharding(mesh)),
        out_shardings=(layout, replicated(mesh)),
    )


def _accumulated(gradient_of, params, parts):
    """Gradients and metrics summed over the parts of a batch."""

    def add(sums, part):
        return jax.tree.map(jnp.add, sums, gradient_of(params, *part)), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient_of, params, *first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def _cut(batch: Batch, count: int, mesh: Mesh | None) -> Batch:
    """[B, ...] -> [count, B / count, ...], taking every count-th row.

    So each device keeps its own rows, and the rows of every member are spread over all parts.
    """

    def cut(array):
        rows = array.shape[0]
        if rows % count:
            raise UserError(
                f"a batch of {rows} rows cannot be accumulated in {count} equal parts; choose a "
                f"batch size that is a multiple of {count}."
            )
        parts = array.reshape(rows // count, count, *array.shape[1:]).swapaxes(0, 1)
        if mesh is None:
            return parts
        return jax.lax.with_sharding_constraint(
            parts, NamedSharding(mesh, PartitionSpec(None, DATA))
        )

    return jax.tree.map(cut, batch)
