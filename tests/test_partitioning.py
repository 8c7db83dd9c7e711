import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mpt_jax import partitioning
from mpt_jax.errors import UserError
from mpt_jax.models import t5

CONFIG = t5.T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=12,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def test_default_mesh_puts_all_devices_on_data():
    mesh = partitioning.make_mesh()
    assert dict(mesh.shape) == {"data": 8, "model": 1}
    assert partitioning.process_data_shard(mesh) == (0, 1)


@pytest.mark.parametrize(
    "shape, expected", [((4, 2), (4, 2)), ((-1, 4), (2, 4)), ((1, -1), (1, 8))]
)
def test_given_mesh_shape(shape, expected):
    mesh = partitioning.make_mesh(shape)
    assert (mesh.shape["data"], mesh.shape["model"]) == expected


@pytest.mark.parametrize("shape", [(3, 2), (4, 1), (-1, 3), (0, 8), (-1, -1)])
def test_mesh_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(UserError, match="8 devices"):
        partitioning.make_mesh(shape)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX says of a TPU."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    slice_index: int | None
    platform: str = "tpu"


def pod(slices=1, side=4):
    """Slices of side x side chips, 2 x 2 to a host, numbered as JAX numbers them, in no order."""
    chips = [
        Chip(
            id=(100_000 * (part + 1) if slices > 1 else 0) + x + side * y,
            process_index=part * (side // 2) ** 2 + (y // 2) * (side // 2) + x // 2,
            coords=(x, y, 0),
            slice_index=part if slices > 1 else None,
        )
        for part in range(slices)
        for y in range(side)
        for x in range(side)
    ]
    random.Random(0).shuffle(chips)
    return chips


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("model", [1, 2, 4, 8])
def test_every_host_of_a_pod_feeds_one_run_of_rows(slices, model, monkeypatch):
    mesh = partitioning.make_mesh((-1, model), pod(slices))
    parts = []
    for host in range(4 * slices):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts.append(partitioning.process_data_shard(mesh))
    count = min(4 * slices, mesh.shape["data"])
    assert sorted(parts) == sorted((n % count, count) for n in range(4 * slices))
    for group in mesh.devices:  # which holds one copy of the backbone, and lies close together
        x, y, _ = zip(*(chip.coords for chip in group), strict=True)
        assert (max(x) - min(x) + 1) * (max(y) - min(y) + 1) == model
        assert len({chip.slice_index for chip in group}) == 1


def test_a_model_is_not_split_over_slices():
    with pytest.raises(UserError, match="span slices.*divides the 16 devices of a slice"):
        partitioning.make_mesh((1, 32), pod(slices=2))


def test_one_device_is_a_mesh():
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "model": 1}


def test_backbone_is_split_over_model_and_equal_everywhere():
    mesh = partitioning.make_mesh((4, 2))
    params = t5.init_params(CONFIG, jax.random.key(0))
    shardings = partitioning.tree_shardings(mesh, t5.logical_axes(CONFIG), params)
    placed = partitioning.place(params, shardings)
    assert placed["token_embedder"]["embedding"].sharding.spec == PartitionSpec("model", None)
    kernel = placed["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (8, 6)
    ones = jnp.ones((4, 5), jnp.int32)
    apply = jax.jit(t5.Transformer(CONFIG).apply)
    want = apply({"params": params}, ones, ones)
    batch = partitioning.shard_batch(mesh, {"tokens": np.ones((4, 5), np.int32)})["tokens"]
    got = apply({"params": placed}, batch, batch)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_scanned_layers_have_rules_too():
    config = dataclasses.replace(CONFIG, scan_layers=True)
    params = jax.eval_shape(lambda: t5.init_params(config, jax.random.key(0)))
    mesh = partitioning.make_mesh((4, 2))
    shardings = partitioning.tree_shardings(mesh, t5.logical_axes(config), params)
    kernel = shardings["encoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert kernel.spec == PartitionSpec(None, "model", None)


def test_indivisible_axis_names_parameter_and_axis():
    params = jax.eval_shape(lambda: t5.init_params(CONFIG, jax.random.key(0)))
    mesh = partitioning.make_mesh((2, 4))
    with pytest.raises(UserError, match="rel_embedding.*'heads' of size 2.*4 devices"):
        partitioning.tree_shardings(mesh, t5.logical_axes(CONFIG), params)


def test_axis_without_rule_is_an_error():
    mesh = partitioning.make_mesh()
    with pytest.raises(UserError, match="w: logical axis 'wing' has no rule"):
        partitioning.tree_shardings(mesh, {"w": ("wing",)}, {"w": np.zeros(3)})


def test_batch_rows_lie_along_data():
    mesh = partitioning.make_mesh((4, 2))
    rows = np.arange(24, dtype=np.int32).reshape(8, 3)
    batch = partitioning.shard_batch(mesh, {"x": rows})
    assert batch["x"].addressable_shards[0].data.shape == (2, 3)
    np.testing.assert_array_equal(batch["x"], rows)
    with pytest.raises(UserError, match="'x': got 6 rows.*4 devices"):
        partitioning.shard_batch(mesh, {"x": rows[:6]})


def test_replicated_tree_lies_whole_on_every_device():
    mesh = partitioning.make_mesh()
    placed = partitioning.place({"a": np.ones((3, 5))}, partitioning.replicated(mesh))
    assert [shard.data.shape for shard in placed["a"].addressable_shards] == [(3, 5)] * 8


def test_a_cpu_has_a_large_batch_before_the_step_starts():
    """Else the step would run in a thread of its own, and ask for memory before the last one is freed."""
    mesh = partitioning.make_mesh(None, jax.devices()[:1])
    for _ in range(5):
        (array,) = partitioning.shard_batch(
            mesh, {"states": np.ones((64, 1 << 18), np.float32)}
        ).values()
        assert array.is_ready()
