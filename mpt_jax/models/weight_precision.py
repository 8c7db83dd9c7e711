"""Frozen weights in fewer bits than they are computed with: int8 with a scale a channel, or bfloat16.

Of int8 weights only the linear kernels and the vocabulary table are: symmetric, one float32 scale for
each output of a kernel and each row of the table, the largest number of a channel at 127. Norms
and tables of relative positions stay as they were. A kernel [In, Out] lies in the tree where it always
does, as int8, and its scale [Out] beside it with "_scale" behind the name: plain arrays, so that
sharding rules, fingerprints and stacked layers need to know nothing of it. A scale belongs to an
output of the product, which is therefore taken of the bare integers and scaled afterwards: exact, and no
scaled copy of the kernel is made.

The product has a gradient of its own, for two reasons. The usual one keeps, for the way back, the
kernel as it was multiplied, in wide numbers: of all layers together that is the float model over
again (as measured in scanned layers, for a plain product and for Qwix's alike). And the compiler would
share a widened kernel between the way there and back, or between teacher and student, and keep it
in between, which barriers forbid. XLA for CPUs drops barriers; there the product is the taken branch of
a condition on a scale, which the compiler can neither decide nor look into.

Why no library: AQT was not tried. Qwix (0.1) replaces jnp.dot and lax.dot_general of the process while a
network runs, quantises a tree that is there as a whole, wraps weights in classes of its own that a reader's,
a fingerprint's and a mesh's code would have to know, and leaves the table of a lookup alone. What is needed
here is this module.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Num

from mpt_jax.models.t5_config import INT8, T5Config

SCALE = "_scale"  # behind the name of a weight that it belongs to
LARGEST = 127
_CHANNELS = {"kernel": 1, "embedding": 0}  # the axis that has a scale for each of its places


def is_quantised(path: str) -> bool:
    """Whether the weight at a path is int8 where weights are kept so."""
    return path.rpartition("/")[2] in _CHANNELS


def kept_dtype(path: str, config: T5Config) -> np.dtype:
    """In what a weight (or a scale) at a path lies on the mesh."""
    if config.kept != INT8:
        return jnp.dtype(config.kept)
    if path.endswith(SCALE):
        return jnp.dtype(jnp.float32)
    return jnp.dtype(jnp.int8 if is_quantised(path) else config.dtype)


def kept(path: str, values: Num[np.ndarray, "..."], config: T5Config) -> dict[str, np.ndarray]:
    """One weight, as a file holds it, in the form in which it is kept: by path, with its scale if any."""
    if config.kept == INT8 and is_quantised(path):
        integers, scale = quantise(values, _CHANNELS[path.rpartition("/")[2]])
        return {path: integers, f"{path}{SCALE}": scale}
    return {path: values.astype(kept_dtype(path, config), copy=False)}


def quantise(
    values: Num[np.ndarray, "A B"], channels: int
) -> tuple[Num[np.ndarray, "A B"], Float[np.ndarray, "C"]]:
    """int8 numbers and, for each place of the axis `channels`, the scale that they are multiples of."""
    wide = values.astype(np.float32, copy=False)
    other = 1 - channels
    largest = np.max(np.abs(wide), axis=other, initial=0.0).astype(np.float32)
    scale = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1.0))
    scale = np.maximum(scale, np.finfo(np.float32).tiny)  # a subnormal's quotient may overflow
    return np.rint(wide / np.expand_dims(scale, other)).astype(np.int8), scale


def count_weights(params: Any) -> int:
    """How many numbers the weights of a tree are; scales do not count."""
    flat = flatten_dict(params, sep="/")
    return sum(array.size for path, array in flat.items() if not path.endswith(SCALE))


def widened(module: Any, name: str) -> Float[np.ndarray, "A B"]:
    """A kept weight of one module as float32 again, on the host.

    Args:
        module: its parameters by name, as numpy arrays.
    """
    values = np.asarray(module[name]).astype(np.float32)
    if f"{name}{SCALE}" not in module:
        return values
    return values * np.expand_dims(np.asarray(module[f"{name}{SCALE}"]), 1 - _CHANNELS[name])


def declare(
    name: Literal["kernel", "embedding"],
    init: Any,
    shape: tuple[int, int],
    axes: tuple[str, str],
    config: T5Config,
) -> tuple[Array, Array | None]:
    """The module's weight of that name, to be called inside of it, and its scale where it is int8.

    Int8 weights are made of others when these are loaded; fresh ones are zero.
    """
    param = nn_partitioning.param_with_axes
    if config.kept != INT8:
        return param(name, init, shape, jnp.float32, axes=axes), None
    channels = _CHANNELS[name]
    values = param(name, nn.initializers.zeros, shape, jnp.int8, axes=axes)
    ones, width = nn.initializers.ones, (shape[channels],)
    scale = param(f"{name}{SCALE}", ones, width, jnp.float32, axes=(axes[channels],))
    return values, scale


def rows(
    table: Num[Array, "V D"], scale: Float[Array, "V"] | None, ids: Any, dtype: str
) -> Float[Array, "*N D"]:
    """Rows of a kept table."""
    found = jnp.take(table, ids, axis=0)
    if scale is None:
        return found.astype(dtype)
    wide = found.astype(jnp.float32) * jnp.take(scale, ids, axis=0)[..., None]
    return wide.astype(dtype)


def product(
    x: Float[Array, "*N In"],
    kernel: Num[Array, "_ _"],
    scale: Float[Array, "Out"] | None,
    inward: Literal[0, 1] = 0,
) -> Float[Array, "*N Out"]:
    """x times a kept kernel, in x's dtype.

    A kernel narrower than x is frozen: the gradient with respect to it is taken for zero.

    Args:
        kernel: [In, Out], or [Out, In] with `inward` = 1.
    """
    if kernel.dtype.itemsize >= x.dtype.itemsize:
        wide = kernel.astype(x.dtype)
        return jnp.dot(x, wide if inward == 0 else wide.T)
    return _narrow_product(inward, x, kernel, scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _narrow_product(inward, x, kernel, scale):
    product = _apart(x, kernel, scale, inward)
    return (product if scale is None else product * _last(scale, product)).astype(x.dtype)


def _forward(inward, x, kernel, scale):
    return _narrow_product(inward, x, kernel, scale), (kernel, scale)


def _backward(inward, kept_for_it, gradient):
    kernel, scale = kept_for_it
    scaled = gradient
    if scale is not None:
        scaled = (gradient.astype(jnp.float32) * _last(scale, gradient)).astype(gradient.dtype)
    return _apart(scaled, kernel, scale, 1 - inward).astype(gradient.dtype), None, None


_narrow_product.defvjp(_forward, _backward)


def _apart(x, kernel, scale, axis):
    """The product, for which the kernel is widened no earlier than x is there, and for no other."""
    contracted = functools.partial(_contracted, axis=axis)

    def behind_barrier(x, kernel, scale):
        del scale
        return contracted(*jax.lax.optimization_barrier((x, kernel)))

    def in_branch(x, kernel, scale):
        shape = jax.eval_shape(contracted, x, kernel)
        broken = functools.partial(jnp.full, shape.shape, jnp.nan, shape.dtype)
        return jax.lax.cond(scale[0] > 0, contracted, lambda x, kernel: broken(), x, kernel)

    on_cpu = behind_barrier if scale is None else in_branch
    return jax.lax.platform_dependent(x, kernel, scale, cpu=on_cpu, default=behind_barrier)


def _contracted(x, kernel, axis):
    """The product over x's last axis and that axis of the kernel, summed in float32."""
    dimensions = (((x.ndim - 1,), (axis,)), ((), ()))
    return jax.lax.dot_general(
        x, kernel.astype(x.dtype), dimensions, preferred_element_type=jnp.float32
    )


def _last(scale, like):
    return scale.reshape((1,) * (like.ndim - 1) + (-1,))
