import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.mpt import MPT
from mpt_jax.training.optimizers import Group, Optimizer, table_for
from mpt_jax.training.schedules import Constant, WarmupLinear, WarmupStableDecay
from mpt_jax.training.update_rules import SGD, Adafactor, AdamW

M, P, D = 3, 4, 5
STEPS = 4


def tree(seed, members=M):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "mpt": {
            "shared": jax.random.normal(keys[0], (members, P, D)),
            "u": jax.random.normal(keys[1], (members, 2, P, 1)),
            "v": jax.random.normal(keys[2], (members, 2, 1, D)),
        }
    }


def select(params, member):
    return jax.tree.map(lambda x: x[member : member + 1], params)


def train(optimizer, params, gradients, steps=STEPS):
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    norms = []
    for step in range(steps):
        params, state, norm = update(gradients(step), state, params, jnp.int32(step))
        norms.append(norm)
    return params, state, np.stack(norms)


def assert_trees_close(got, want, **tolerances):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), got, want)


ADAMW = AdamW(b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1)
HAND_ROLLED = {
    "adamw": (ADAMW, optax.adamw(0.3, b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1)),
    "sgd": (SGD(momentum=0.9), optax.sgd(0.3, momentum=0.9)),
    "adafactor": (
        Adafactor(min_dim_size_to_factor=2),
        optax.chain(
            optax.scale_by_factored_rms(decay_rate=0.8, min_dim_size_to_factor=2),
            optax.clip_by_block_rms(1.0),
            optax.scale(0.3),
            optax.add_decayed_weights(1e-5),
            optax.scale(-1.0),
        ),
    ),
}


@pytest.mark.parametrize("name", HAND_ROLLED)
def test_each_member_follows_the_hand_rolled_optax_sequence(name):
    rule, reference = HAND_ROLLED[name]
    table = [(".*", Group(0.3, rule))]
    params = {"pt": {"prompt": tree(0)["mpt"]["shared"]}}
    optimizer = Optimizer(table, params, members={"pt": M}, clip_norm=0.5)
    got, state, norms = train(
        optimizer, params, lambda s: {"pt": {"prompt": tree(s + 1)["mpt"]["shared"]}}
    )
    reference = optax.chain(optax.clip_by_global_norm(0.5), reference)
    for member in range(M):
        one = params["pt"]["prompt"][member]
        reference_state = reference.init(one)
        for step in range(STEPS):
            gradient = tree(step + 1)["mpt"]["shared"][member]
            np.testing.assert_allclose(norms[step, member], optax.tree.norm(gradient), rtol=1e-5)
            with jax.numpy_dtype_promotion("standard"):
                change, reference_state = reference.update(gradient, reference_state, one)
            one = optax.apply_updates(one, change)
        np.testing.assert_allclose(got["pt"]["prompt"][member], one, rtol=1e-5, atol=1e-6)


def test_adafactor_factors_each_prompt_of_each_member():
    params = {"pt": {"prompt": jnp.zeros((M, 6, P, D))}}
    table = [(".*", Group(0.3, Adafactor(min_dim_size_to_factor=2)))]
    state = Optimizer(table, params, members={"pt": M}).init(params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert shapes == {(M, 6), (M, 6, P), (M, 6, D), (M, 6, 1)}


RATES = np.asarray([0.1, 0.0, 0.4])


@pytest.mark.parametrize("rule", [ADAMW, Adafactor(min_dim_size_to_factor=2), SGD(0.9)])
def test_a_member_of_a_fleet_equals_the_member_alone(rule):
    schedule = WarmupLinear(warmup_steps=2)
    limits = [4, 3, 2]

    def table(rates):
        return [(".*/shared", Group(0.3, rule, schedule)), (".*", Group(rates, rule, schedule))]

    params = tree(0)
    fleet = Optimizer(table(RATES), params, members={"mpt": M}, member_steps=limits)
    got, _, norms = train(fleet, params, lambda s: tree(s + 1))
    for member in range(M):
        alone = Optimizer(
            table(float(RATES[member])),
            select(params, member),
            members={"mpt": 1},
            steps=limits[member],
        )
        want, _, want_norms = train(
            alone,
            select(params, member),
            lambda s, m=member: select(tree(s + 1), m),
            limits[member],
        )
        assert_trees_close(select(got, member), want, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(norms[: limits[member], member], want_norms[:, 0], rtol=1e-6)


def test_rate_zero_and_steps_past_the_limit_freeze_exactly():
    params = tree(0)
    table = [(".*/shared", Group(0.3, ADAMW)), (".*", Group([0.3, 0.0, 0.3], ADAMW))]
    optimizer = Optimizer(table, params, members={"mpt": M}, member_steps=[9, 9, 0])
    got, state, norms = train(optimizer, params, lambda s: tree(s + 1))
    moved = jax.tree.map(lambda a, b: np.any(a != b, axis=tuple(range(1, a.ndim))), got, params)
    assert moved["mpt"]["shared"].tolist() == [True, True, False]
    assert moved["mpt"]["u"].tolist() == [True, False, False]
    assert state["mpt/u"].count.tolist() == [STEPS, 0, 0]
    # What is frozen does not count in the norm by which the rest is clipped.
    shared = np.asarray(tree(1)["mpt"]["shared"][1])
    np.testing.assert_allclose(norms[0, 1], np.linalg.norm(shared), rtol=1e-6)
    np.testing.assert_array_equal(norms[:, 2], 0.0)


def test_nan_of_one_member_leaves_the_others_alone():
    params, bad = tree(0), tree(1)
    bad["mpt"]["shared"] = bad["mpt"]["shared"].at[1].set(jnp.nan)
    optimizer = Optimizer([(".*", Group(0.1, ADAMW))], params, members={"mpt": M})
    got, _, norms = train(optimizer, params, lambda s: bad)
    want, _, _ = train(optimizer, params, lambda s: tree(1))
    for member in (0, 2):
        assert_trees_close(select(got, member), select(want, member), rtol=0)
    assert np.isnan(norms[0]).tolist() == [False, True, False]


def test_methods_of_different_size_are_numbered_in_the_order_given():
    params = {"a": {"x": jnp.ones((2, 3))}, "b": {"x": jnp.ones((1, 3))}}
    optimizer = Optimizer(
        [("a/.*", Group([0.1, 0.0], SGD())), ("b/.*", Group(0.3, SGD()))],
        params,
        members={"b": 1, "a": 2},
        clip_norm=None,
        member_steps=[1, 5, 5],
    )
    gradients = jax.tree.map(lambda x: x * jnp.arange(1.0, len(x) + 1)[:, None], params)
    got, _, norms = train(optimizer, params, lambda s: gradients, steps=2)
    np.testing.assert_allclose(norms[0], np.sqrt(3.0) * np.asarray([1.0, 1.0, 0.0]), rtol=1e-6)
    np.testing.assert_allclose(got["a"]["x"][:, 0], [0.8, 1.0], rtol=1e-6)
    np.testing.assert_allclose(got["b"]["x"][:, 0], [0.7], rtol=1e-6)


def test_frozen_group_has_no_state_and_first_match_wins():
    params = tree(0)
    table = [(".*/shared", Group(None)), (".*/s.*", Group(9.0)), (".*", Group(0.1))]
    optimizer = Optimizer(table, params, members={"mpt": M})
    assert optimizer.trained == ("mpt/u", "mpt/v")
    got, state, _ = train(optimizer, params, lambda s: tree(s + 1))
    assert set(state) == {"mpt/u", "mpt/v"}
    np.testing.assert_array_equal(got["mpt"]["shared"], params["mpt"]["shared"])


def test_whole_model_without_an_axis_of_members():
    params = {"encoder": {"kernel": jnp.ones((P, D)), "scale": jnp.ones((D,))}}
    gradients = [
        jax.tree.map(lambda x, s=s: jax.random.normal(jax.random.key(s), x.shape), params)
        for s in range(STEPS)
    ]
    optimizer = Optimizer([(".*", Group(0.3, ADAMW))], params, members=None, steps=9)
    got, _, norms = train(optimizer, params, lambda s: gradients[s])
    np.testing.assert_allclose(norms[0], [optax.tree.norm(gradients[0])], rtol=1e-6)
    reference = optax.chain(optax.clip_by_global_norm(1.0), HAND_ROLLED["adamw"][1])
    want, state = params, reference.init(params)
    for gradient in gradients:
        with jax.numpy_dtype_promotion("standard"):
            change, state = reference.update(gradient, state, want)
        want = optax.apply_updates(want, change)
    assert_trees_close(got, want, rtol=1e-5, atol=1e-6)


def test_adafactor_takes_the_layers_of_a_scanned_model_apart():
    params = {"layers": {"kernel": jnp.ones((3, P, D)), "scale": jnp.ones((D,))}}
    table = [(".*", Group(0.2, Adafactor(min_dim_size_to_factor=2)))]
    state = Optimizer(table, params, members=None).init(params)
    assert state["layers/kernel"][0].v_row.shape == (3, P)
    assert state["layers/scale"][0].v.shape == (D,)


@pytest.mark.parametrize(
    "table, match",
    [
        ([("mpt/shared", Group(0.1)), ("u", Group(0.1))], r"'mpt/u'.*no row.*'mpt/shared', 'u'"),
        ([(".*", Group([0.1, 0.2]))], r"learning rate of mpt/shared: .*or 3"),
        ([(".*", Group(-0.1))], "none below 0"),
        ([(".*", Group(0.1, schedule=WarmupLinear()))], "length of the run"),
    ],
)
def test_bad_tables_are_refused(table, match):
    with pytest.raises(UserError, match=match):
        Optimizer(table, tree(0), members={"mpt": M})


def test_wrong_member_numbers_are_refused():
    table = [(".*", Group(0.1))]
    with pytest.raises(UserError, match="member_steps.*3 members"):
        Optimizer(table, tree(0), members={"mpt": M}, member_steps=[1, 2])
    with pytest.raises(ValueError, match="expected a leading axis of 2 members"):
        Optimizer(table, tree(0), members={"mpt": 2})


def test_table_from_the_roles_of_a_method():
    method = MPT(members=M, tasks=2, length=P, width=D)
    shared, factors = Group(0.3), Group(0.4)
    table = table_for([method], {"shared": shared, "factors": factors})
    rates = Optimizer(table, tree(0), members={"mpt": M}).learning_rates(jnp.int32(0))
    np.testing.assert_allclose(
        [rates["mpt/shared"], rates["mpt/u"], rates["mpt/v"]], [0.3, 0.4, 0.4]
    )
    with pytest.raises(UserError, match="role 'factors'.*'shared'"):
        table_for([method], {"shared": shared})


def factors(schedule, steps, total):
    return [float(schedule(jnp.int32(s), jnp.float32(total))) for s in range(steps)]


def test_schedules():
    assert float(Constant()(jnp.int32(7), None)) == 1.0
    line = WarmupLinear(warmup_steps=2, decay_to=0.5)
    np.testing.assert_allclose(factors(line, 7, 6), [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5])
    part = WarmupLinear(warmup_steps=0.5, decay_to=1.0)
    np.testing.assert_allclose(factors(part, 5, 8), [0.25, 0.5, 0.75, 1, 1])
    plateau = WarmupStableDecay(warmup_steps=2, decay_steps=4)
    np.testing.assert_allclose(factors(plateau, 9, 8), [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    fleet = line(jnp.int32(4), jnp.asarray([6.0, 4.0]))
    np.testing.assert_allclose(fleet, [0.75, 0.5])
