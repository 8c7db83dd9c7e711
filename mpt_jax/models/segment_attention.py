"""Self-attention that passes over other segments' blocks: where it is used, and how it lies on a mesh.

None of JAX's own attentions can take its place here: the fused one of `jax.nn` and the flash attention
for TPUs want the bias as an array of T * T for every head (and row, with segments) and compute every
block; the splash attention passes over blocks by a mask known when it is compiled, and takes no bias.

The kernels run on TPUs. On CPUs they are interpreted, for tests. They give the position bias no gradient:
it is frozen in every prompt method, and whoever trains it uses plain attention (or is told so).
"""

import dataclasses
import functools
import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from mpt_jax.errors import UserError
from mpt_jax.models import attention_kernels as kernels
from mpt_jax.models.attention_kernels import Segments
from mpt_jax.models.relative_position import relative_position_buckets
from mpt_jax.models.t5_config import ATTENTIONS, T5Config
from mpt_jax.partitioning import DATA, MODEL

BLOCK = 128  # positions of a block: the width of a TPU's vectors and of its smaller matrix units
LONG = 512  # tokens in a row from which "auto" is fused although nothing is packed


@flax.struct.dataclass
class SegmentBias:
    """What stands in the place of a bias [B, H, T, T]: a few blocks, for any T.

    Attributes:
        segments: the rows' masks.
        tiles: position bias of pairs of blocks, in a layer; None until the layer brings its own (umT5).
        mesh: of the rows and heads; None for one device.
    """

    segments: Segments
    tiles: Float[Array, "H O Z Z"] | None
    mesh: Mesh | None = flax.struct.field(pytree_node=False)

    def with_positions(self, table: Float[Array, "H buckets"], config: T5Config) -> "SegmentBias":
        _, blocks, _, block = self.segments.ids.shape
        return dataclasses.replace(self, tiles=bias_tiles(table, config, blocks, block))


def check_attention(attention: str, platform: str) -> None:
    """Raises UserError for a name that is none, or "fused" on devices that do not have it."""
    if attention not in ATTENTIONS:
        raise UserError(f"attention: got {attention!r}, expected one of {list(ATTENTIONS)}.")
    if attention == "fused" and platform != "tpu":
        raise UserError(
            f"attention: got 'fused', which runs on TPUs, but the platform is {platform}; set "
            "backbone.BackboneSource.attention = 'auto' or 'plain': the numbers are the same."
        )


def is_fused(
    config: T5Config, mesh: Mesh | None, rows: int, length: int, *, packed: bool, dropping: bool
) -> bool:
    """Whether the encoder's self-attention over a batch is computed by the kernels.

    Args:
        config: its `attention` decides.
        mesh: of the batch; None for one device, where "auto" means "plain".
        rows: B.
        length: T.
        packed: whether rows hold several segments.
        dropping: whether attention weights are dropped at random, which the kernels do not.

    Raises:
        UserError: "fused" was asked for and cannot be.
    """
    if config.attention == "plain":
        return False
    data = 1 if mesh is None else mesh.shape[DATA]
    problem = ""
    if dropping:
        problem = "it has no dropout; set the network's dropout to 0"
    elif rows % data:
        problem = f"{rows} rows do not divide over {data} devices along 'data'"
    elif not _fits(config, mesh, length):
        problem = f"rows of {length} tokens do not fit its memory; use shorter ones"
    if config.attention == "fused":
        if problem:
            raise UserError(f"attention = 'fused': {problem}, or set attention = 'auto'.")
        return True
    wanted = mesh is not None and _platform(mesh) == "tpu" and (packed or length >= LONG)
    return wanted and not problem


def segment_blocks(ids: Int[Array, "B T"], block: int = BLOCK) -> Segments:
    """Rows cut into blocks, and which of them meet.

    A block meets another when their ranges of ids overlap. In rows whose segments follow one another
    that is so just when they share a segment; other rows are looked at more than need be.
    """
    blocks = -(-ids.shape[1] // block)
    ids = _padded(ids, blocks * block).reshape(-1, blocks, block)
    none = jnp.iinfo(jnp.int32).max
    lowest = jnp.min(jnp.where(ids > 0, ids, none), axis=2)
    highest = jnp.max(ids, axis=2)
    meets = lowest[:, :, None] <= highest[:, None, :]
    meets = meets & meets.swapaxes(1, 2)
    first = jnp.argmax(meets, axis=2).astype(jnp.int32)
    last = blocks - jnp.argmax(meets[:, :, ::-1], axis=2).astype(jnp.int32)
    return Segments(ids[:, :, None], first, jnp.where(jnp.any(meets, axis=2), last, first))


def bias_tiles(
    table: Float[Array, "H buckets"], config: T5Config, blocks: int, block: int = BLOCK
) -> Float[Array, "H O Z Z"]:
    """The encoder's position bias of a block of queries and one of keys, for each distance in blocks.

    From `relpos_max_distance` on all distances share a bucket, so that O is small whatever T is.
    """
    reach = _reach(config, blocks, block)
    offsets = jnp.arange(-reach, reach + 1, dtype=jnp.int32) * block
    within = jnp.arange(block, dtype=jnp.int32)
    distances = offsets[:, None, None] + within[None, None, :] - within[None, :, None]
    buckets = relative_position_buckets(
        distances.reshape(-1, block),
        bidirectional=True,
        num_buckets=config.relpos_num_buckets,
        max_distance=config.relpos_max_distance,
    ).reshape(distances.shape)
    return jnp.take(table, buckets, axis=1).astype(config.dtype)


def _reach(config: T5Config, blocks: int, block: int) -> int:
    """Distance in blocks from which on all positions share a bucket, or the largest there is."""
    return min(blocks - 1, math.ceil((config.relpos_max_distance - 1) / block) + 1)


def attend(
    query: Float[Array, "B T J"],
    key: Float[Array, "B T J"],
    value: Float[Array, "B T J"],
    bias: SegmentBias,
) -> Float[Array, "B T J"]:
    """The values mixed, heads side by side as the projections give them; 0 where a row is padding.

    Raises:
        UserError: the position bias is being trained.
    """
    assert bias.tiles is not None
    length = query.shape[1]
    _, blocks, _, block = bias.segments.ids.shape
    padded = (_padded(x, blocks * block) for x in (query, key, value))
    return _attend(*padded, bias.tiles, bias.segments, bias.mesh)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, tiles, segments, mesh):
    return _forward(query, key, value, tiles, segments, mesh)[0]


def _forward(query, key, value, tiles, segments, mesh):
    run = _on_mesh(functools.partial(kernels.forward, **_static(query, tiles, mesh)), mesh)
    return run(
        (_ROWS, _ROWS, _ROWS, _BATCH, _HEADS), (_ROWS, _STATISTICS)
    )(query, key, value, segments, tiles)  # fmt: skip


def _forward_rule(query, key, value, tiles, segments, mesh):
    if tiles.perturbed:
        raise UserError(
            "attention: the fused one gives the position bias no gradient, and this run trains it; set "
            "backbone.BackboneSource.attention = 'plain'."
        )
    query, key, value, tiles = (x.value for x in (query, key, value, tiles))
    segments = Segments(*(x.value for x in segments))
    mixed, log_sums = _forward(query, key, value, tiles, segments, mesh)
    return mixed, (query, key, value, tiles, segments, mixed, log_sums)


def _backward_rule(mesh, saved, gradient):
    query, key, value, tiles, segments, mixed, log_sums = saved
    if isinstance(gradient, SymbolicZero):
        gradient = jnp.zeros(mixed.shape, mixed.dtype)
    static = _static(query, tiles, mesh)

    def backward(query, key, value, segments, tiles, log_sums, mixed, gradient):
        inner = _by_head(mixed, gradient, log_sums.shape)
        return kernels.backward(
            query, key, value, segments, tiles, log_sums, inner, gradient, **static
        )

    run = _on_mesh(backward, mesh)(
        (_ROWS, _ROWS, _ROWS, _BATCH, _HEADS, _STATISTICS, _ROWS, _ROWS), (_ROWS,) * 3
    )
    return *run(query, key, value, segments, tiles, log_sums, mixed, gradient), None, None


_attend.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)


def _by_head(
    left: Float[Array, "B T J"], right: Float[Array, "B T J"], shape: tuple[int, ...]
) -> Float[Array, "B G N heads Z"]:
    """Products of positions, summed within each head."""
    B, groups, blocks, heads, block = shape
    product = left.astype(jnp.float32) * right.astype(jnp.float32)
    split = product.reshape(B, blocks, block, groups, heads, -1)
    return jnp.sum(split, axis=-1).transpose(0, 3, 1, 4, 2)


# Where arrays lie: rows over `data`, heads over `model`, as the projections' outputs do already.
_ROWS = PartitionSpec(DATA, None, MODEL)
_BATCH = PartitionSpec(DATA)
_HEADS = PartitionSpec(MODEL)
_STATISTICS = PartitionSpec(DATA, MODEL)


def _on_mesh(function: Any, mesh: Mesh | None) -> Any:
    """Takes the specs of arguments and results; each device then runs its own rows and heads."""
    if mesh is None:
        return lambda in_specs, out_specs: function
    return lambda in_specs, out_specs: jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def _static(query: Array, tiles: Array, mesh: Mesh | None) -> dict[str, Any]:
    H, offsets, block, _ = tiles.shape
    heads = kernels.heads_of_a_step(
        H // _along_model(mesh), query.shape[2] // H, query.shape[1], query.dtype.itemsize,
        offsets=offsets, block=block,
    )  # fmt: skip
    return {"heads": heads, "interpret": _platform(mesh) != "tpu"}


def _fits(config: T5Config, mesh: Mesh | None, length: int) -> bool:
    blocks = -(-length // BLOCK)
    heads = kernels.heads_of_a_step(
        config.num_heads // _along_model(mesh), config.head_dim, blocks * BLOCK,
        jnp.dtype(config.dtype).itemsize,
        offsets=2 * _reach(config, blocks, BLOCK) + 1, block=BLOCK,
    )  # fmt: skip
    return heads is not None


def _along_model(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.shape[MODEL]


def _platform(mesh: Mesh | None) -> str:
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def _padded(x: Array, length: int) -> Array:
    """Zeros behind the second axis."""
    return jnp.pad(x, [(0, 0), (0, length - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
