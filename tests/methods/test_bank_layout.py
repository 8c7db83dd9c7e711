"""Members of a bank laid out over devices with their rows: the same numbers, nothing sent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mpt_jax.methods.bank import Bank
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.partitioning import DATA, batch_sharding, make_mesh
from mpt_jax.planning.collectives import by_kind, collectives
from mpt_jax.planning.program_text import CompiledText

M, K, P, D, V, ROWS = 8, 2, 3, 16, 20, 2
METHODS = {
    "prompt_tuning": PromptTuning(members=M, tasks=K, length=P, width=D),
    "mpt": MPT(members=M, tasks=K, length=P, width=D, rank=2),
    "own_lengths": PromptTuning(
        members=M, tasks=K, length=P, width=D, lengths=(3, 2, 1, 3, 3, 2, 1, 3)
    ),
}


def example(method):
    """Parameters, and a batch whose rows lie member by member, tasks mixed, padding behind."""
    rng = np.random.default_rng(0)
    params = {
        method.name: {
            name: jnp.asarray(rng.normal(size=shape), jnp.float32)
            for name, shape in method.fleet_shapes().items()
        }
    }
    bank = Bank((method,), V)
    ids = np.zeros((M * ROWS, P + 4), np.int32)
    for row in range(M * ROWS):
        virtual = bank.virtual_ids(0, row // ROWS, row % K)
        ids[row, : len(virtual)] = virtual
        ids[row, len(virtual) : len(virtual) + 3] = rng.integers(1, V, 3)
    words = rng.normal(size=(*ids.shape, D)).astype(np.float32)
    return params, jnp.asarray(ids), jnp.asarray(words)


def value_and_gradient(embed_of, words_weight):
    def loss(params, ids, words):
        values = embed_of(params)(ids, words)
        return jnp.sum(jnp.sin(values) * words_weight), values

    return jax.value_and_grad(loss, has_aux=True)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_the_same_numbers_and_no_gradient_sent(name, shape):
    method, mesh = METHODS[name], make_mesh(shape)
    params, ids, words = example(method)
    bank = Bank((method,), V, mesh)
    assert bank.laid_out
    weight = jnp.cos(jnp.arange(D, dtype=jnp.float32))[None, None, :]
    expected = value_and_gradient(Bank((method,), V).reader, weight)(params, ids, words)

    by_member = NamedSharding(mesh, PartitionSpec(DATA))
    layout = jax.tree.map(lambda _: by_member, params), batch_sharding(mesh), batch_sharding(mesh)
    step = jax.jit(value_and_gradient(bank.training_reader, weight), in_shardings=layout)
    (loss, values), gradient = step(params, ids, words)
    np.testing.assert_allclose(values, expected[0][1], rtol=1e-6)
    np.testing.assert_allclose(loss, expected[0][0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradient, expected[1]
    )
    assert any(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(gradient))

    sent = by_kind(collectives(CompiledText(step.lower(params, ids, words).compile().as_text())))
    assert set(sent) == {"all-reduce"} and sent["all-reduce"].bytes == 4  # the loss


def test_where_members_cannot_be_laid_out():
    one = METHODS["mpt"]
    assert not Bank((one,), V).laid_out
    assert not Bank((one,), V, make_mesh((1, 8))).laid_out
    few = MPT(members=3, tasks=K, length=P, width=D)
    assert not Bank((few,), V, make_mesh((8, 1))).laid_out
    beside = Bank((one, METHODS["prompt_tuning"]), V, make_mesh((8, 1)))
    assert not beside.laid_out
