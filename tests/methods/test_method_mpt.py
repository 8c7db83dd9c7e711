import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods import initialisers
from mpt_jax.methods.method import member, stack_members
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning

EMBEDDINGS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


def random_params(method, seed=0):
    rng = np.random.default_rng(seed)
    start = method.init(jax.random.key(0), initialisers.sampled_vocabulary, EMBEDDINGS)
    return {n: jnp.asarray(rng.normal(size=a.shape), jnp.float32) for n, a in start.items()}


@pytest.mark.parametrize("rank", [1, 3])
def test_prompt_is_shared_times_factor_product(rank):
    method = MPT(members=2, tasks=3, length=4, width=6, rank=rank)
    params = random_params(method)
    shared, u, v = (np.asarray(params[name]) for name in ("shared", "u", "v"))
    for m in range(2):
        for k in range(3):
            expected = np.zeros((4, 6), np.float64)
            for i in range(4):
                for j in range(6):
                    for r in range(rank):
                        expected[i, j] += shared[m, i, j] * u[m, k, i, r] * v[m, k, r, j]
            got = method.materialise(params, m, k)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
            rows = jnp.arange(4, dtype=jnp.int32) + (m * 3 + k) * 4
            np.testing.assert_allclose(method.read(params, rows), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        MPT(members=2, tasks=3, length=4, width=6, rank=2),
        PromptTuning(members=2, tasks=3, length=4, width=6),
    ],
    ids=lambda method: method.kind,
)
def test_gradient_of_read_is_that_of_the_whole_table(method):
    params = random_params(method)
    rows = jnp.asarray(np.random.default_rng(1).integers(0, method.rows, (5, 7)), jnp.int32)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(5, 7, 6)), jnp.float32)

    def table(params):
        prompts = [method.materialise(params, m, k) for m in range(2) for k in range(3)]
        return jnp.concatenate(prompts)

    read = jax.jit(jax.grad(lambda p: jnp.sum(weights * method.read(p, rows) ** 2)))(params)
    whole = jax.jit(jax.grad(lambda p: jnp.sum(weights * table(p)[rows] ** 2)))(params)
    for name in params:
        assert np.abs(whole[name]).max() > 0.1
        np.testing.assert_allclose(read[name], whole[name], rtol=1e-4, atol=1e-4)


def test_mpt_never_forms_the_whole_table():
    method = MPT(members=1, tasks=50, length=10, width=16)
    params = {
        "shared": jnp.ones((1, 10, 16)),
        "u": jnp.ones((1, 50, 10, 1)),
        "v": jnp.ones((1, 50, 1, 16)),
    }
    rows = jnp.arange(3, dtype=jnp.int32)
    read = jax.grad(lambda p: jnp.sum(method.read(p, rows)))
    sizes = [v.aval.size for eqn in jax.make_jaxpr(read)(params).jaxpr.eqns for v in eqn.outvars]
    assert max(sizes) <= 50 * 16  # the gradient of v is the largest; K x P x D would be 8,000


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_every_task_starts_exactly_at_the_shared_prompt(rank):
    method = MPT(members=2, tasks=3, length=4, width=6, rank=rank)
    params = method.init(jax.random.key(3), initialisers.sampled_vocabulary, EMBEDDINGS)
    for m in range(2):
        for k in range(3):
            assert np.array_equal(method.materialise(params, m, k), params["shared"][m])
    assert not np.array_equal(params["shared"][0], params["shared"][1])


def test_rank_components_part_in_training():
    method = MPT(members=1, tasks=1, length=4, width=6, rank=3)
    params = method.init(jax.random.key(0), initialisers.sampled_vocabulary, EMBEDDINGS)
    target = jnp.asarray(np.random.default_rng(5).normal(size=(4, 6)), jnp.float32)
    rows = jnp.arange(4, dtype=jnp.int32)
    loss = jax.jit(lambda p: jnp.sum((method.read(p, rows) - target) ** 2))
    before = loss(params)
    for _ in range(60):
        grads = jax.grad(loss)(params)
        params = {n: a - 0.02 * grads[n] for n, a in params.items()}
    assert loss(params) < 0.5 * before
    product = params["u"][0, 0] @ params["v"][0, 0]
    assert np.linalg.matrix_rank(np.asarray(product), tol=1e-3) == 3


def test_paper_start_averages_each_factor_over_the_source_tasks():
    source = MPT(members=2, tasks=3, length=4, width=6)
    source_params = random_params(source)
    target = MPT(members=1, tasks=2, length=4, width=6)
    trained = member(source_params, 1)
    start = target.start_from_average(0, trained)
    u = np.mean(np.asarray(source_params["u"][1]), axis=0)
    v = np.mean(np.asarray(source_params["v"][1]), axis=0)
    params = stack_members([start])
    for k in range(2):
        np.testing.assert_allclose(
            target.materialise(params, 0, k),
            np.asarray(source_params["shared"][1]) * np.outer(u, v),
            rtol=1e-5,
        )
    exact = stack_members([target.start_from_task(0, trained, 2)])
    np.testing.assert_allclose(
        target.materialise(exact, 0, 0), source.materialise(source_params, 1, 2), rtol=1e-6
    )
    with pytest.raises(IndexError, match="3 tasks"):
        target.start_from_task(0, trained, 3)
    other_rank = MPT(members=1, tasks=1, length=4, width=6, rank=2)
    with pytest.raises(UserError, match="rank 1.*rank 2"):
        other_rank.start_from_average(0, trained)


def test_start_from_plain_prompts_is_their_mean():
    teachers = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    method = MPT(members=1, tasks=3, length=4, width=6)
    params = stack_members([method.start(0, jax.random.key(0), teachers)])
    np.testing.assert_allclose(method.materialise(params, 0, 2), teachers.mean(0), rtol=1e-6)
    one = stack_members([method.start(0, jax.random.key(0), teachers[1])])
    assert np.array_equal(method.materialise(one, 0, 0), teachers[1])


def test_counts_are_the_papers():
    assert MPT(members=5, tasks=1, length=100, width=768).count() == 77_668
    assert MPT(members=1, tasks=8, length=100, width=768).count() / 8 == 10_468
    assert PromptTuning(members=2, tasks=1, length=100, width=768).count() == 76_800


def test_shorter_members_are_padded_and_cut_again():
    method = MPT(members=2, tasks=1, length=4, width=6, lengths=(4, 3))
    params = method.init(jax.random.key(0), initialisers.sampled_vocabulary, EMBEDDINGS)
    assert params["shared"].shape == (2, 4, 6)
    assert method.materialise(params, 1, 0).shape == (3, 6)
    assert {n: a.shape for n, a in method.export(params, 1).items()} == {
        "shared": (3, 6),
        "u": (1, 3, 1),
        "v": (1, 1, 6),
    }
    # A member of a fleet starts as the same member does alone.
    alone = MPT(members=1, tasks=1, length=3, width=6)
    rng = jax.random.fold_in(jax.random.key(0), 1)
    started = alone.init_member(0, rng, initialisers.sampled_vocabulary, EMBEDDINGS)
    assert np.array_equal(started["shared"], params["shared"][1, :3])
    with pytest.raises(UserError, match=r"\(4, 6\).*member 1 has \(3, 6\)"):
        method.start(1, jax.random.key(0), EMBEDDINGS[:4])


def test_prompt_tuning_starts_each_task_as_told():
    method = PromptTuning(members=2, tasks=2, length=3, width=6)
    labels = functools.partial(initialisers.class_labels, labels=[[5], [6, 7]])
    params = method.init(jax.random.key(0), labels, EMBEDDINGS)
    np.testing.assert_allclose(params["prompt"][1, 1, 0], EMBEDDINGS[5])
    # The sampled slots differ between tasks and members.
    assert len({tuple(np.asarray(params["prompt"][m, k, 2])) for m in (0, 1) for k in (0, 1)}) > 1
    prompts = EMBEDDINGS[:6].reshape(2, 3, 6)
    assert np.array_equal(method.start(0, jax.random.key(0), prompts)["prompt"], prompts)
    assert np.array_equal(method.start(0, jax.random.key(0), prompts[1])["prompt"][0], prompts[1])
    with pytest.raises(ValueError, match="3 prompts to start 2 tasks"):
        method.start(0, jax.random.key(0), np.zeros((3, 3, 6), np.float32))


def test_groups_cover_every_parameter():
    for method in (
        MPT(members=1, tasks=1, length=2, width=6),
        PromptTuning(members=1, tasks=1, length=2, width=6),
    ):
        names = method.init(jax.random.key(0), initialisers.sampled_vocabulary, EMBEDDINGS)
        for name in names:
            assert any(re.search(pattern, name) for pattern, _ in method.default_groups())
    assert dict(MPT(members=1, tasks=1, length=2, width=6).default_groups())["^[uv]$"] == "factors"


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="rank is 0"):
        MPT(members=1, tasks=1, length=2, width=6, rank=0)
    with pytest.raises(ValueError, match="tasks is 0"):
        PromptTuning(members=1, tasks=0, length=2, width=6)
    with pytest.raises(ValueError, match=r"\[5\] lie outside 1\.\.4"):
        MPT(members=2, tasks=1, length=4, width=6, lengths=(4, 5))
    with pytest.raises(ValueError, match="1 prompt lengths for 2 members"):
        MPT(members=2, tasks=1, length=4, width=6, lengths=(4,))
    with pytest.raises(ValueError, match="share shapes"):
        stack_members([{"prompt": jnp.zeros((1, 2, 3))}, {"prompt": jnp.zeros((1, 3, 3))}])
