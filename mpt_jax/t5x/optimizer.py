"""optax for prompts in T5X: one transformation for each speed, all other weights frozen.

    OPTIMIZER = @optimizer.prompt_optimizer()
    optimizer.prompt_optimizer.table = [
        (".*/(shared|prompt)", @shared/optax.adamw()),
        (".*/[uv]", @factors/optax.adamw()),
    ]
    shared/optax.adamw.learning_rate = @shared/optimizer.Rate()

T5X's own learning rate does nothing here: rates and their schedules live inside optax.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from t5x import optimizers

from mpt_jax.errors import UserError
from mpt_jax.training.schedules import Constant, Schedule

TRAINED = "encoder/prompt/"
FROZEN = "frozen"

Table = Sequence[tuple[str, optax.GradientTransformation]]


@dataclasses.dataclass(frozen=True)
class Rate:
    """A learning rate over the run, as optax asks for it: a function of the number of updates.

    Attributes:
        peak: the full rate.
        schedule: factor on it, as in `mpt`.
        steps: updates of the run, for schedules that depend on it. Counted from the start of this
            run, not from that of pretraining as T5X's TRAIN_STEPS.
    """

    peak: float
    schedule: Schedule = Constant()
    steps: int | None = None

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        total = None if self.steps is None else jnp.asarray(self.steps, jnp.float32)
        return self.peak * self.schedule(jnp.asarray(count), total)


class PromptOptimizer(optimizers.OptaxWrapper):
    """T5X's optax wrapper for optimizers whose state is as small as prompts are.

    The state lies whole on every device, as the prompts do. T5X's own rules for dividing it know only
    some of optax's states (Adafactor's is not among them), and none is needed here.
    """

    def derive_logical_axes(self, optimizer: Any, param_logical_axes: Any) -> Any:
        axes = jax.tree.map(lambda _: None, optimizer.state_dict())
        axes["target"] = param_logical_axes
        return optimizer.restore_state(flax.core.unfreeze(axes))

    def restore_state(self, opt_target: Any, opt_state: Any, state_dict: Any) -> tuple[Any, Any]:
        """Every number in its own type again: T5X reads a checkpoint in one, and counts of steps with it.

        With a count in floating point the next step is another program, which rounds differently, and a
        resumed training would not be the undisturbed one to the last bit.
        """
        target, state = super().restore_state(opt_target, opt_state, state_dict)

        def own(before: Any, read: Any) -> Any:
            wanted = getattr(before, "dtype", None)
            return read if getattr(read, "dtype", wanted) == wanted else read.astype(wanted)

        return target, jax.tree.map(own, opt_state, state)


def prompt_optimizer(table: Table, clip_norm: float | None = None) -> PromptOptimizer:
    """Trains the parameters below `encoder/prompt/`, and no others.

    Args:
        table: rows of (regular expression over a parameter's whole path, optax transformation). The
            first match wins; every prompt parameter needs a row.
        clip_norm: largest norm of the prompts' gradient; a larger one is scaled down to it. `mpt`
            has 1.0, Lester et al. (2021) none.

    Raises:
        UserError: when the state is made, for a prompt parameter without a row, and for a row whose
            expression matches none.
    """
    labels = _Labels(tuple(pattern for pattern, _ in table))
    speeds = {_name(row): transformation for row, (_, transformation) in enumerate(table)}
    steps = optax.multi_transform({**speeds, FROZEN: optax.set_to_zero()}, labels)
    if clip_norm is not None:
        # The norm is the prompts' own, so the backbone's gradient has to go first.
        frozen = optax.masked(optax.set_to_zero(), labels.frozen)
        steps = optax.chain(frozen, optax.clip_by_global_norm(clip_norm), steps)
    return PromptOptimizer(steps)


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Which row trains a parameter, as trees of the parameters' own kind (T5X's are FrozenDicts)."""

    patterns: tuple[str, ...]

    def __call__(self, params: Any) -> Any:
        def label(keys: Any, _: Any) -> str:
            return self._label(jax.tree_util.keystr(keys, simple=True, separator="/"))

        labels = jax.tree_util.tree_map_with_path(label, params)
        used = set(jax.tree.leaves(labels))
        unused = [text for row, text in enumerate(self.patterns) if _name(row) not in used]
        if unused:
            raise UserError(
                f"The optimizer's rows {unused} match no parameter below {TRAINED!r}; take them "
                "out, or mend them."
            )
        return labels

    def frozen(self, params: Any) -> Any:
        return jax.tree.map(lambda label: label == FROZEN, self(params))

    def _label(self, path: str) -> str:
        if not path.startswith(TRAINED):
            return FROZEN
        for row, pattern in enumerate(self.patterns):
            if re.fullmatch(pattern, path):
                return _name(row)
        raise UserError(
            f"Parameter {path!r} is covered by no row of the optimizer's table; its expressions are "
            f"{list(self.patterns)}."
        )


def _name(row: int) -> str:
    """A row's label. It becomes part of a checkpoint's paths, so it may hold no slash."""
    return f"speed_{row}"
