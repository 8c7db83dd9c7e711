"""Randomness without state: hashes, and shuffled orders read at any position.

Everything random in a batch is a hash of (seed, what, step), so a run goes on from any step with
no replay and every host draws the same. Grain's `index_shuffle` gives such orders too, but walks a
cycle of 2^16 positions and so needs milliseconds for one position of a 16-example few-shot set;
the permutation here stays within twice the size and answers for all rows of a batch at once.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

GOLDEN, SILVER = 0.6180339887498949, 0.41421356237309503
"""Irrational steps for `even_sequence`: sequences of different step are independent."""

_HALF_ROUNDS = 8


def name_key(name: str) -> int:
    """64 bits that stand for a name, the same in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def mix(*parts: Any) -> UInt64[np.ndarray, "*shape"]:
    """A 64-bit hash of integers or integer arrays, which broadcast (SplitMix64's finaliser)."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(*parts: Any) -> Float[np.ndarray, "*shape"]:
    """A number in [0, 1) for a hash of `parts`."""
    return (mix(*parts) >> np.uint64(11)) * 2.0**-53


def even_sequence(
    start: float, steps: Int[np.ndarray, " N"], stride: float
) -> Float[np.ndarray, " N"]:
    """Numbers in [0, 1), one a step, that fill the interval more evenly than chance does.

    The fractional parts of start + step * stride, `GOLDEN` or `SILVER`: over N steps every
    subinterval gets its share to within O(log N) hits.
    """
    return np.mod(start + np.mod(steps * stride, 1.0), 1.0)


def shuffled(
    counters: Int[np.ndarray, " N"], sizes: Int[np.ndarray, " N"], keys: UInt64[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """Which example a cursor at `counters` meets: each pass over `sizes` has its own order.

    For one key, counters e * size ... (e + 1) * size - 1 give each of 0 ... size - 1 once.
    """
    epochs, places = np.divmod(counters, sizes)
    return permuted(places, sizes, mix(keys, epochs))


def permuted(
    places: Int[np.ndarray, " N"], sizes: Int[np.ndarray, " N"], keys: UInt64[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """The image of each place under the permutation of [0, size) that its key names.

    A Feistel network over the next power of two; images that fall outside [0, size) are permuted
    again until they lie inside, which keeps it a permutation.
    """
    bits = np.frexp((sizes - 1).astype(np.float64))[1].astype(np.uint64)
    low_bits = bits - bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits // np.uint64(2))) - np.uint64(1)
    factors = mix(keys, 1 + np.arange(_HALF_ROUNDS)[:, None]) | np.uint64(1)
    terms = mix(keys, -1 - np.arange(_HALF_ROUNDS)[:, None])

    result = places.astype(np.uint64)
    outside = np.arange(len(result))
    while outside.size:
        low_mask_, high_mask_, shift = low_mask[outside], high_mask[outside], low_bits[outside]
        low, high = result[outside] & low_mask_, result[outside] >> shift
        for i, (factor, term) in enumerate(
            zip(factors[:, outside], terms[:, outside], strict=True)
        ):
            # Multiply-shift: the upper half of the product depends on every bit of the other half.
            if i % 2:
                low ^= ((high * factor + term) >> np.uint64(32)) & low_mask_
            else:
                high ^= ((low * factor + term) >> np.uint64(32)) & high_mask_
        result[outside] = (high << shift) | low
        outside = outside[result[outside] >= sizes[outside].astype(np.uint64)]
    return result.astype(np.int64)
