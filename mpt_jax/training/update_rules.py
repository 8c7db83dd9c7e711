"""How one parameter moves: the update rules that a group of the optimizer's table names.

Each has `transform`, an optax transformation from gradient to direction, and `delta`, which turns a
direction and a learning rate into the change of the parameter, weight decay included.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import optax
from jaxtyping import Array, Float

Tensor = Float[Array, "..."]


@runtime_checkable
class Rule(Protocol):
    """An update rule for one parameter array.

    Attributes:
        matrices: its state belongs to whole matrices (the last two axes): further leading axes are
            then separate problems, like the axis of members.
    """

    matrices: bool

    def transform(self) -> optax.GradientTransformation: ...

    def delta(self, direction: Tensor, param: Tensor, rate: Tensor) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Attributes:
        b1: decay of the mean of gradients.
        b2: decay of the mean of squared gradients.
        eps: added to the denominator.
        weight_decay: times the learning rate, taken off the parameter at each step.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    matrices = False

    def transform(self) -> optax.GradientTransformation:
        return _lenient(optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps))

    def delta(self, direction: Tensor, param: Tensor, rate: Tensor) -> Tensor:
        return -rate * (direction + self.weight_decay * param)


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor without parameter scaling and momentum, as prompts are trained in Lester et al. 2021.

    Attributes:
        decay_rate: exponent of the second moment's decay, 1 - step^-decay_rate.
        clipping_threshold: a larger root mean square of a direction is scaled down to it.
        weight_decay: taken off the parameter at each step. Not multiplied by the learning rate: so
            it is in T5X, whose rate of 0.3 and decay of 1e-5 are the published setting.
        min_dim_size_to_factor: matrices with a side below it keep the whole second moment. T5X's
            128 leaves prompts of 100 slots unfactored; 2 factors every prompt.
    """

    decay_rate: float = 0.8
    clipping_threshold: float | None = 1.0
    weight_decay: float = 1e-5
    min_dim_size_to_factor: int = 128
    matrices = True

    def transform(self) -> optax.GradientTransformation:
        scale = optax.scale_by_factored_rms(
            decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_dim_size_to_factor
        )
        if self.clipping_threshold is not None:
            scale = optax.chain(scale, optax.clip_by_block_rms(self.clipping_threshold))
        return _lenient(scale)

    def delta(self, direction: Tensor, param: Tensor, rate: Tensor) -> Tensor:
        return -rate * direction - self.weight_decay * param


@dataclasses.dataclass(frozen=True)
class SGD:
    """Gradient descent.

    Attributes:
        momentum: decay of the running sum of gradients; 0 keeps none.
        weight_decay: as in AdamW.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    matrices = False

    def transform(self) -> optax.GradientTransformation:
        return optax.trace(decay=self.momentum) if self.momentum else optax.identity()

    def delta(self, direction: Tensor, param: Tensor, rate: Tensor) -> Tensor:
        return -rate * (direction + self.weight_decay * param)


def _lenient(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same under JAX's strict dtype promotion, which optax's step counts do not survive."""

    def update(gradient, state, param=None):
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(gradient, state, param)

    return optax.GradientTransformation(transform.init, update)
