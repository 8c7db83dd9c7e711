"""The Pallas kernels of attention within segments: softmax on the fly (Milakov and Gimelshein 2018,
Dao et al. 2022), blocks of other segments passed over, T5's position bias from tiles.

Letters: N blocks of Z positions each make a padded row of T; J = heads * head_dim, heads side by side as
a linear layer gives them; G groups of `heads` heads, which a step of the kernel takes together. A row's
keys and values (its queries in the backward pass) wait in the chip's vector memory while its blocks run,
so that nothing is read from HBM twice, and nothing of size T * T exists.

The grid is (G, B, N) with the blocks of a row innermost. Within a step a loop goes over the blocks
`first .. last` that share a segment with the step's own; where padding fills a block, over none.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

UNSEEN = -1e30  # logit of a key that must not be seen
LOWEST = (
    -1e20
)  # first maximum of a row: far below any logit, far above UNSEEN, so exp(UNSEEN - it) is 0
VECTOR_MEMORY = 16 * 2**20  # bytes that every TPU since v3 lends a kernel
LANES, SUBLANES = 128, 8  # of a vector
MOST_HEADS = 4  # of a step: enough independent work to hide the latency of one head's chain


class Segments(NamedTuple):
    """Where the blocks of rows meet.

    Attributes:
        ids: 0 is padding.
        first: for each block the first block that shares a segment with it.
        last: the one behind the last; `first` where there is none.
    """

    ids: Int[Array, "B N 1 Z"]
    first: Int[Array, "B N"]
    last: Int[Array, "B N"]


def heads_of_a_step(
    heads: int, head_dim: int, length: int, itemsize: int, *, offsets: int, block: int
) -> int | None:
    """How many heads a step takes: as many as fit, in whole tiles of lanes; None if none fit.

    Args:
        heads, head_dim, length: H, the width of a head, T.
        itemsize: of the activations.
        offsets, block: O and Z of the tiles.
    """
    whole = [n for n in range(1, heads + 1) if heads % n == 0 and n * head_dim % LANES == 0]
    for n in reversed([n for n in whole if n <= MOST_HEADS] or whole[:1] or [heads]):
        width = -(-n * head_dim // LANES) * LANES
        # Of the backward step. What is read or written is there twice, to be moved meanwhile: three
        # arrays of a row, four of a block, the tiles, two statistics. A row's sum is there once, and
        # so are a head's six intermediate tiles.
        moved = itemsize * (3 * length * width + 4 * block * width + n * offsets * block**2)
        moved += 4 * 2 * length * max(n, SUBLANES)
        if 2 * moved + 4 * (length * width + 6 * n * block**2) <= VECTOR_MEMORY:
            return n
    return None


def forward(
    query: Float[Array, "B T J"],
    key: Float[Array, "B T J"],
    value: Float[Array, "B T J"],
    segments: Segments,
    tiles: Float[Array, "H O Z Z"],
    *,
    heads: int,
    interpret: bool,
) -> tuple[Float[Array, "B T J"], Float[Array, "B G N heads Z"]]:
    """The mixed values, 0 where a position is padding, and the logarithms of the softmax's sums.

    Args:
        query, key, value: T is N * Z.
        segments: of the rows.
        tiles: the bias of a query block (its rows) and a key block, by their distance in blocks;
            the middle one is of a block with itself, the outer ones serve all beyond.
        heads: of a step.
        interpret: run on any device, slowly.
    """
    sizes = _Sizes.of(query, tiles, heads)
    row, block = sizes.row(), sizes.block_of_row()
    return pl.pallas_call(
        functools.partial(_forward_step, sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=sizes.grid,
            in_specs=[block, row, row, sizes.ids(), sizes.tiles()],
            out_specs=[block, sizes.statistics_of_block()],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct(sizes.statistics_shape, jnp.float32),
        ],
        compiler_params=_parameters(),
        interpret=interpret,
        name="segment_attention",
    )(segments.first, segments.last, query, key, value, segments.ids, tiles)


def backward(
    query: Float[Array, "B T J"],
    key: Float[Array, "B T J"],
    value: Float[Array, "B T J"],
    segments: Segments,
    tiles: Float[Array, "H O Z Z"],
    log_sums: Float[Array, "B G N heads Z"],
    inner: Float[Array, "B G N heads Z"],
    gradient: Float[Array, "B T J"],
    *,
    heads: int,
    interpret: bool,
) -> tuple[Float[Array, "B T J"], Float[Array, "B T J"], Float[Array, "B T J"]]:
    """The gradients of query, key and value, given that of the mixed values.

    The step's own block is one of keys here, and tiles have keys as rows.

    Args:
        inner: for each query and head, the product of the mixed value and its gradient.
    """
    sizes = _Sizes.of(query, tiles, heads)
    row, block = sizes.row(), sizes.block_of_row()
    return pl.pallas_call(
        functools.partial(_backward_step, sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=sizes.grid,
            in_specs=[
                row, block, block, row, sizes.ids(), sizes.tiles(),
                sizes.statistics_of_row(), sizes.statistics_of_row(),
            ],
            out_specs=[row, block, block],
            scratch_shapes=[pltpu.VMEM((sizes.length, sizes.width), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(query.shape, query.dtype)] * 3,
        compiler_params=_parameters(),
        interpret=interpret,
        name="segment_attention_backward",
    )(
        segments.first, segments.last, query, key, value, gradient, segments.ids,
        tiles.swapaxes(2, 3), log_sums, inner,
    )  # fmt: skip


class _Sizes(NamedTuple):
    """Static sizes of a call, and the parts of its arrays that a step (g, b, n) sees."""

    batch: int
    length: int
    groups: int
    heads: int
    head_dim: int
    blocks: int
    size: int
    offsets: int

    @classmethod
    def of(cls, query: Array, tiles: Array, heads: int) -> "_Sizes":
        B, T, J = query.shape
        H, offsets, Z, _ = tiles.shape
        return cls(B, T, H // heads, heads, J // H, T // Z, Z, offsets)

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.groups, self.batch, self.blocks

    @property
    def statistics_shape(self) -> tuple[int, ...]:
        return self.batch, self.groups, self.blocks, self.heads, self.size

    def row(self) -> pl.BlockSpec:
        return pl.BlockSpec((1, self.length, self.width), lambda g, b, n, *_: (b, 0, g))

    def block_of_row(self) -> pl.BlockSpec:
        return pl.BlockSpec((1, self.size, self.width), lambda g, b, n, *_: (b, n, g))

    def ids(self) -> pl.BlockSpec:
        return pl.BlockSpec((1, self.blocks, 1, self.size), lambda g, b, n, *_: (b, 0, 0, 0))

    def tiles(self) -> pl.BlockSpec:
        shape = (self.heads, self.offsets, self.size, self.size)
        return pl.BlockSpec(shape, lambda g, b, n, *_: (g, 0, 0, 0))

    def statistics_of_block(self) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, 1, self.heads, self.size), lambda g, b, n, *_: (b, g, n, 0, 0))

    def statistics_of_row(self) -> pl.BlockSpec:
        return pl.BlockSpec(
            (1, 1, self.blocks, self.heads, self.size), lambda g, b, n, *_: (b, g, 0, 0, 0)
        )

    def positions(self, block: Array) -> Any:
        return pl.ds(pl.multiple_of(block * self.size, self.size), self.size)

    def lanes(self, head: int) -> slice:
        return slice(head * self.head_dim, (head + 1) * self.head_dim)

    def tile(self, distance: Array) -> Array:
        """Index of the tile for a key block so many blocks behind the query block."""
        return jnp.clip(distance + self.offsets // 2, 0, self.offsets - 1)

    def as_rows(self, ids: Int[Array, "1 Z"]) -> Int[Array, "Z Z"]:
        """Each position's id along a row of its own."""
        return jnp.broadcast_to(ids, (self.size, self.size)).T


def _parameters() -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def _product(left: Array, right: Array, axes: tuple[int, int]) -> Array:
    """A matrix product over one axis of each, summed in float32."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


def _forward_step(
    sizes: _Sizes, first, last, query, key, value, ids, tiles, mixed, log_sums
) -> None:
    b, n = pl.program_id(1), pl.program_id(2)
    own_ids = sizes.as_rows(ids[0, n])
    queries = [query[0, :, sizes.lanes(h)] for h in range(sizes.heads)]

    def visit(k, states):
        positions, other_ids = sizes.positions(k), ids[0, k]
        seen = (own_ids == other_ids) & (other_ids > 0)
        tile = sizes.tile(k - n)
        updated = []
        for h, (maximum, total, mix) in enumerate(states):
            keys = key[0, positions, sizes.lanes(h)]
            values = value[0, positions, sizes.lanes(h)]
            logits = _product(queries[h], keys, (1, 1)) + tiles[h, tile].astype(jnp.float32)
            logits = jnp.where(seen, logits, UNSEEN)
            higher = jnp.maximum(maximum, logits.max(axis=1, keepdims=True))
            weights = jnp.exp(logits - higher)
            kept = jnp.exp(maximum - higher)
            total = kept * total + weights.sum(axis=1, keepdims=True)
            mix = kept * mix + _product(weights.astype(values.dtype), values, (1, 0))
            updated.append((higher, total, mix))
        return updated

    start = (
        jnp.full((sizes.size, 1), LOWEST, jnp.float32),
        jnp.zeros((sizes.size, 1), jnp.float32),
        jnp.zeros((sizes.size, sizes.head_dim), jnp.float32),
    )
    states = jax.lax.fori_loop(first[b, n], last[b, n], visit, [start] * sizes.heads)
    for h, (maximum, total, mix) in enumerate(states):
        seeing = total > 0
        total = jnp.where(seeing, total, 1.0)
        mixed[0, :, sizes.lanes(h)] = (mix / total).astype(mixed.dtype)
        log_sum = jnp.where(seeing, maximum + jnp.log(total), 0.0)
        # A column becomes a row: [Z, 1] would take the room of [Z, 128].
        log_sums[0, 0, 0, h : h + 1, :] = jnp.broadcast_to(log_sum, (sizes.size, sizes.size)).T[:1]


def _backward_step(
    sizes: _Sizes, first, last, query, key, value, gradient, ids, tiles, log_sums, inner,
    of_query, of_key, of_value, query_sum,
) -> None:  # fmt: skip
    b, n = pl.program_id(1), pl.program_id(2)
    own_ids = sizes.as_rows(ids[0, n])
    keys = [key[0, :, sizes.lanes(h)] for h in range(sizes.heads)]
    values = [value[0, :, sizes.lanes(h)] for h in range(sizes.heads)]

    @pl.when(n == 0)
    def _():
        query_sum[...] = jnp.zeros(query_sum.shape, query_sum.dtype)

    def visit(q, states):
        positions, other_ids = sizes.positions(q), ids[0, q]
        seen = (own_ids == other_ids) & (other_ids > 0)
        tile = sizes.tile(n - q)
        updated = []
        for h, (key_sum, value_sum) in enumerate(states):
            lanes = sizes.lanes(h)
            queries, gradients = query[0, positions, lanes], gradient[0, positions, lanes]
            logits = _product(keys[h], queries, (1, 1)) + tiles[h, tile].astype(jnp.float32)
            logits = jnp.where(seen, logits, UNSEEN)
            weights = jnp.exp(logits - log_sums[0, 0, q, h : h + 1, :])
            of_weights = _product(values[h], gradients, (1, 1))
            of_logits = weights * (of_weights - inner[0, 0, q, h : h + 1, :])
            of_logits = of_logits.astype(queries.dtype)
            value_sum += _product(weights.astype(gradients.dtype), gradients, (1, 0))
            key_sum += _product(of_logits, queries, (1, 0))
            query_sum[positions, lanes] += _product(of_logits, keys[h], (0, 0))
            updated.append((key_sum, value_sum))
        return updated

    zero = jnp.zeros((sizes.size, sizes.head_dim), jnp.float32)
    states = jax.lax.fori_loop(first[b, n], last[b, n], visit, [(zero, zero)] * sizes.heads)
    for h, (key_sum, value_sum) in enumerate(states):
        of_key[0, :, sizes.lanes(h)] = key_sum.astype(of_key.dtype)
        of_value[0, :, sizes.lanes(h)] = value_sum.astype(of_value.dtype)

    @pl.when(n == sizes.blocks - 1)
    def _():
        of_query[0] = query_sum[...].astype(of_query.dtype)
