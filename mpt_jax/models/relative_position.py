"""T5's relative position buckets (Raffel et al. 2020, section 2.1)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


def relative_position_buckets(
    distance: Int[Array, "Q S"], *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Array, "Q S"]:
    """Maps key position minus query position to a bucket.

    Half of the buckets hold one distance each, the rest grow logarithmically up to
    `max_distance`. The encoder (`bidirectional`) splits the buckets between both directions; the
    decoder looks back only.
    """
    offset = jnp.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(distance > 0, num_buckets, 0).astype(distance.dtype)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = num_buckets // 2
    log_ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    # T5X's guard: a device's log may fall just short of the whole number that starts a bucket.
    log_ratio = log_ratio + np.finfo(np.float32).eps
    log_ratio = log_ratio / np.float32(np.log(max_distance / exact))
    far = exact + (log_ratio * (num_buckets - exact)).astype(distance.dtype)
    far = jnp.minimum(far, num_buckets - 1)
    return offset + jnp.where(distance < exact, distance, far)
