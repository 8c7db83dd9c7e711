"""The network with fused attention against the same network with plain attention, on packed rows."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mpt_jax.errors import UserError
from mpt_jax.methods.full import Full
from mpt_jax.methods.lora import LoRA
from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.models.layer_stacking import stack_layers
from mpt_jax.models.t5 import T5Config, Transformer, init_params, logical_axes
from mpt_jax.partitioning import DATA, batch_sharding, make_mesh, place, tree_shardings
from mpt_jax.stages.backbone import BackboneSource

SHAPE = T5Config(32, 16, 2, 8, 24, 2, 1)
LONG, SHORT = 300, 12  # three blocks of the encoder
LENGTHS = ([90, 60, 150], [20, 110], [256], [1, 2, 3])  # of the segments of four rows


def batch_of(rows):
    stream = np.random.RandomState(5)
    segments = np.zeros((rows, LONG), np.int32)
    targets = np.zeros((rows, SHORT), np.int32)
    for b in range(rows):
        sizes = LENGTHS[b % len(LENGTHS)]
        segments[b, : sum(sizes)] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
        targets[b, : 4 * len(sizes)] = np.repeat(np.arange(1, len(sizes) + 1), 4)
    arrays = {
        "encoder_input_tokens": np.where(segments, stream.randint(1, 32, segments.shape), 0),
        "decoder_input_tokens": np.where(targets, stream.randint(1, 32, targets.shape), 0),
        "encoder_segment_ids": segments,
        "decoder_segment_ids": targets,
    }  # fmt: skip
    return {name: jnp.asarray(array, jnp.int32) for name, array in arrays.items()}


def params_of(config):
    unrolled = init_params(dataclasses.replace(config, scan_layers=False), jax.random.key(0))
    return stack_layers(unrolled) if config.scan_layers else unrolled


def loss(added, network, params, batch):
    """`added` to the embeddings of the encoder's input."""
    logits = network.apply({"params": params}, **batch, embed=lambda ids, words: words + added)
    seen = (batch["decoder_segment_ids"] > 0)[:, :, None]
    return jnp.sum(jnp.where(seen, jnp.sin(logits), 0.0))


def moved(network, params, batch):
    """Loss and its gradient with respect to what is added to the input."""
    nothing = jnp.zeros((*batch["encoder_input_tokens"].shape, SHAPE.emb_dim), jnp.float32)
    return jax.value_and_grad(loss)(nothing, network, params, batch)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max(), rtol=0)


@pytest.mark.parametrize(
    "changes",
    [dict(relpos_per_layer=True), dict(scan_layers=True, remat="full")],
    ids=["umT5", "scanned, rematerialised"],
)
def test_fused_and_plain_networks_agree(changes):
    config = dataclasses.replace(SHAPE, **changes)
    params, batch = params_of(config), batch_of(4)
    run = jax.jit(moved, static_argnums=0)
    expected = run(Transformer(config), params, batch)
    fused = Transformer(dataclasses.replace(config, attention="fused"))
    assert_same(run(fused, params, batch), expected)


def test_on_a_mesh_every_device_runs_its_own_rows_and_heads():
    mesh = make_mesh((4, 2))
    params, batch = params_of(SHAPE), batch_of(8)
    expected = jax.jit(moved, static_argnums=0)(Transformer(SHAPE), params, batch)
    placed = place(params, tree_shardings(mesh, logical_axes(SHAPE), params))
    rows = {name: jax.device_put(array, batch_sharding(mesh)) for name, array in batch.items()}
    fused = Transformer(dataclasses.replace(SHAPE, attention="fused"), mesh=mesh)
    split = NamedSharding(mesh, PartitionSpec(DATA))
    program = jax.jit(moved, static_argnums=0, out_shardings=(None, split))
    compiled = program.lower(fused, placed, rows).compile()
    assert_same(compiled(placed, rows), expected)
    # Queries, keys, values (of 384 positions, whole blocks) and the bias stay where they lie.
    moves = re.findall(
        r"= (\S+) (?:all-gather|all-to-all|collective-permute)\(", compiled.as_text()
    )
    assert not [shape for shape in moves if re.search(r",(300|384),|128,128", shape)], moves


# Who trains the position bias.


def test_a_network_that_trains_its_position_bias_is_told_so():
    network = Transformer(dataclasses.replace(SHAPE, attention="fused"))
    of_weights = jax.grad(lambda params: loss(0.0, network, params, batch_of(1)))
    with pytest.raises(UserError, match="gives the position bias no gradient"):
        jax.eval_shape(of_weights, params_of(SHAPE))


def test_network_methods_use_plain_attention():
    """Full fine-tuning trains the bias; asked for as "auto" or not, its program has no kernel."""
    method = Full.build(name="full", members=1, tasks=1, length=0, config=SHAPE)
    bank, params = NetworkBank(method), params_of(SHAPE)
    trained = {"full": method.init(jax.random.key(0), params)}
    fused = Transformer(dataclasses.replace(SHAPE, attention="fused"))
    batch = batch_of(1)

    def of_trained(trained):
        return jnp.sum(bank.logits(fused, trained, params, batch))

    program = str(jax.make_jaxpr(jax.grad(of_trained))(trained))
    assert "pallas_call" not in program
    same = jax.make_jaxpr(lambda: fused.apply({"params": params}, **batch))()
    assert "pallas_call" in str(same)


def test_network_methods_refuse_what_they_cannot_use():
    config = dataclasses.replace(SHAPE, attention="fused")
    with pytest.raises(UserError, match="attention = 'auto', which is fused for prompts only"):
        LoRA.build(name="lora", members=1, tasks=1, length=0, config=config)


def test_a_backbone_is_not_opened_with_an_attention_that_is_not_here():
    with pytest.raises(UserError, match="runs on TPUs, but the platform is cpu"):
        BackboneSource(attention="fused").open()
