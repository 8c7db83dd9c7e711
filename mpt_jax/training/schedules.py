"""Learning-rate schedules: the factor on a group's rate at each step of a run.

A schedule takes the step (from 0) and the number of steps of the run, which may be an array: the
members of a fleet may run for different numbers of steps, and each follows its own. Plain functions
of the step, so nothing has to be stored or restored.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mpt_jax.errors import UserError

Total = Float[Array, "..."] | None


@runtime_checkable
class Schedule(Protocol):
    def __call__(self, step: Int[Array, ""], total: Total) -> Float[Array, "..."]:
        """Factor (usually 0 to 1) at `step` of a run of `total` steps."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """The full rate all the time."""

    def __call__(self, step: Int[Array, ""], total: Total) -> Float[Array, "..."]:
        return jnp.ones((), jnp.float32)


@dataclasses.dataclass(frozen=True)
class WarmupLinear:
    """Linear warm-up to the full rate, then a straight line down to the end of the run.

    Attributes:
        warmup_steps: the rate is full from this step on; below 1 it is a fraction of the run.
        decay_to: factor at the end of the run; 1 stays at the full rate.
    """

    warmup_steps: float = 0
    decay_to: float = 0.0

    def __call__(self, step: Int[Array, ""], total: Total) -> Float[Array, "..."]:
        needs_total = self.decay_to != 1.0 or 0 < self.warmup_steps < 1
        total = _known(total, self) if needs_total else jnp.ones((), jnp.float32)
        warmup = _steps(self.warmup_steps, total)
        left = jnp.clip((total - _float(step)) / jnp.maximum(total - warmup, 1.0), 0.0, 1.0)
        decay = self.decay_to + (1.0 - self.decay_to) * left
        return _warmup(step, warmup) * decay


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
    """Warm-up, a long plateau, and a straight line down at the end.

    For pretraining: a run may be prolonged from its plateau, as nothing before the decay depends on
    the number of steps.

    Attributes:
        warmup_steps: as in WarmupLinear.
        decay_steps: length of the final decay; below 1 it is a fraction of the run.
        decay_to: factor at the end of the run.
    """

    warmup_steps: float = 0
    decay_steps: float = 0.2
    decay_to: float = 0.0

    def __call__(self, step: Int[Array, ""], total: Total) -> Float[Array, "..."]:
        total = _known(total, self)
        length = jnp.maximum(_steps(self.decay_steps, total), 1.0)
        left = jnp.clip((total - _float(step)) / length, 0.0, 1.0)
        decay = self.decay_to + (1.0 - self.decay_to) * left
        return _warmup(step, _steps(self.warmup_steps, total)) * decay


def _float(step: Int[Array, ""]) -> Float[Array, ""]:
    return step.astype(jnp.float32)


def _steps(number: float, total: Float[Array, "..."]) -> Float[Array, "..."]:
    if 0 < number < 1:
        return jnp.round(number * total)
    return jnp.full_like(total, number)


def _warmup(step: Int[Array, ""], warmup: Float[Array, "..."]) -> Float[Array, "..."]:
    """1/w, 2/w, ... 1: the first step already learns."""
    return jnp.minimum((_float(step) + 1.0) / jnp.maximum(warmup, 1.0), 1.0)


def _known(total: Total, schedule: Schedule) -> Float[Array, "..."]:
    if total is None:
        raise UserError(
            f"{schedule} depends on the length of the run, which is not given; give the "
            "optimizer the number of steps, or use a constant schedule."
        )
    return total
