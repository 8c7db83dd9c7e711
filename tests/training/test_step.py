import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from mpt_jax import partitioning
from mpt_jax.errors import UserError
from mpt_jax.methods.bitfit import BitFit
from mpt_jax.methods.full import Full
from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.models import t5
from mpt_jax.training.distillation import DistillationObjective
from mpt_jax.training.objectives import TaskObjective, TokenLoss
from mpt_jax.training.optimizers import Group, Optimizer
from mpt_jax.training.step import init_state, make_train_step, state_shardings
from mpt_jax.training.update_rules import SGD, AdamW

RULES = dict(partitioning.STANDARD_RULES, vocab=None)  # 29 words divide over no mesh axis
TABLE = [(".*/shared", Group(0.3, AdamW())), (".*", Group(0.4, AdamW()))]


def copy(tree):
    """The step gives its state's buffers away; the fixtures must survive."""
    return jax.tree.map(jnp.array, tree)


def run(objective, params, backbone, batches, table=TABLE, members=2, name="mpt", **settings):
    optimizer = Optimizer(table, params, members=members and {name: members})
    step = make_train_step(objective, optimizer, **settings)
    frozen = objective.frozen(backbone)
    state, history = init_state(copy(params), optimizer), []
    for batch in batches:
        state, metrics = step(state, frozen, batch)
        history.append(jax.device_get(metrics))
    return state, history


def distillation(toy, bank=None):
    return DistillationObjective(
        toy.network, bank or toy.bank, toy.teacher_bank, toy.teachers, TokenLoss(tasks=2)
    )


def batches(toy, count=3):
    return [toy.make_batch(toy.bank, toy.teacher_bank, seed=seed) for seed in range(count)]


def assert_close(got, want, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


def test_training_lowers_every_members_loss(toy):
    state, history = run(distillation(toy), toy.params, toy.backbone, [toy.batch] * 8)
    assert np.all(history[-1]["loss"] < 0.9 * history[0]["loss"])
    assert state.step == 8
    assert history[0]["finite"].tolist() == [True, True]
    assert history[0]["grad_norm"].shape == (2,) and np.all(history[0]["grad_norm"] > 0)


def test_accumulation_changes_no_number(toy):
    # Rows carry different numbers of tokens, so a mean of the parts' means would differ.
    want, want_history = run(distillation(toy), toy.params, toy.backbone, batches(toy))
    got, history = run(distillation(toy), toy.params, toy.backbone, batches(toy), accumulate=4)
    assert_close(got.params, want.params)
    assert_close(history, want_history)


def test_indivisible_accumulation_is_refused(toy):
    with pytest.raises(UserError, match="8 rows .* 3 equal parts"):
        run(distillation(toy), toy.params, toy.backbone, [toy.batch], accumulate=3)


def test_a_member_trained_in_the_fleet_ends_where_it_ends_alone(toy):
    fleet, history = run(distillation(toy), toy.params, toy.backbone, batches(toy))
    bank, _ = toy.make_bank(members=1)
    for member in range(2):
        params = jax.tree.map(lambda x, m=member: x[m : m + 1], toy.params)
        alone = []
        for batch in batches(toy):
            rows = batch["member_ids"][:, 0] == member
            own = {key: value[rows] for key, value in batch.items()}
            prompt = own["encoder_input_tokens"]
            own["encoder_input_tokens"] = np.where(prompt >= 29, prompt - member * 2 * 3, prompt)
            own["member_ids"] = np.zeros_like(own["member_ids"])
            alone.append(own)
        state, own_history = run(distillation(toy, bank), params, toy.backbone, alone, members=1)
        mine = jax.tree.map(lambda x, m=member: x[m : m + 1], fleet.params)
        assert_close(mine, state.params, rtol=1e-5)
        np.testing.assert_allclose(
            [h["loss"][member] for h in history], [h["loss"][0] for h in own_history], rtol=1e-5
        )


def test_a_mesh_gives_the_numbers_of_one_device(toy):
    mesh = partitioning.make_mesh((4, 2))
    axes = t5.logical_axes(toy.config)
    shardings = partitioning.tree_shardings(mesh, axes, toy.backbone, RULES)
    backbone = partitioning.place(toy.backbone, shardings)
    sharded = [partitioning.shard_batch(mesh, batch) for batch in batches(toy)]
    got, history = run(distillation(toy), toy.params, backbone, sharded, mesh=mesh, accumulate=2)
    want, want_history = run(distillation(toy), toy.params, toy.backbone, batches(toy))
    assert_close(got.params, want.params)
    assert_close(history, want_history)
    prompt = got.params["mpt"]["shared"]
    assert prompt.sharding.is_equivalent_to(partitioning.replicated(mesh), prompt.ndim)


def result_shapes(jaxpr):
    """Shapes of every intermediate value, nested programs included."""
    for equation in jaxpr.eqns:
        yield from ((equation.primitive.name, var.aval.shape) for var in equation.outvars)
        for sub in jaxprs_in_params(equation.params):
            yield from result_shapes(sub)


def products_of_weight_shape(objective, optimizer, params, frozen, batch, weights):
    """How many matrix products have a result of the shape of a backbone matrix."""
    step = make_train_step(objective, optimizer)
    jaxpr = jax.make_jaxpr(step)(init_state(params, optimizer), frozen, batch).jaxpr
    shapes = {x.shape for x in jax.tree.leaves(weights) if x.ndim == 2}
    shapes |= {shape[::-1] for shape in shapes}
    shapes |= {(objective.members, *shape) for shape in shapes}  # of a fleet, by vmap
    shapes |= {(*shape[1:], objective.members) for shape in shapes if len(shape) == 3}
    return sum(name == "dot_general" and shape in shapes for name, shape in result_shapes(jaxpr))


def test_no_weight_gradient_of_the_backbone_is_computed(toy):
    objective = distillation(toy)
    optimizer = Optimizer(TABLE, toy.params, members={"mpt": 2})
    frozen = objective.frozen(toy.backbone)
    arguments = toy.params, frozen, toy.batch, toy.backbone
    assert products_of_weight_shape(objective, optimizer, *arguments) == 0
    # The same count sees them where a whole model is trained: so it can see.
    method = Full(members=1, tasks=1, config=toy.config)
    whole = TaskObjective(toy.network, NetworkBank(method))
    weights = {"full": method.init(jax.random.key(0), toy.backbone)}
    optimizer = Optimizer([(".*", Group(0.1, SGD()))], weights, members={"full": 1})
    batch = {**toy.batch, "encoder_input_tokens": toy.batch["encoder_input_tokens"] % 29}
    arguments = weights, toy.backbone, batch, toy.backbone
    matrices = sum(x.ndim == 2 for x in jax.tree.leaves(toy.backbone))
    tables = 3  # the embedding and the two relative position tables are read by gather
    assert products_of_weight_shape(whole, optimizer, *arguments) >= matrices - tables


@pytest.mark.parametrize("members", [1, 2])
def test_a_fleet_of_biases_computes_no_weight_gradient(toy, members):
    """Under vmap neither; and where a fleet trains its weights, the same count sees them."""
    matrices = sum(x.ndim == 2 for x in jax.tree.leaves(toy.backbone)) - 3  # read by gather
    for kind, method_class in (("bitfit", BitFit), ("full", Full)):
        method = method_class(members=members, tasks=1, config=toy.config)
        objective = TaskObjective(toy.network, NetworkBank(method))
        params = {kind: method.init(jax.random.key(0), toy.backbone)}
        optimizer = Optimizer([(".*", Group(0.1, SGD()))], params, members={kind: members})
        batch = {**toy.batch, "encoder_input_tokens": toy.batch["encoder_input_tokens"] % 29}
        arguments = params, toy.backbone, batch, toy.backbone
        found = products_of_weight_shape(objective, optimizer, *arguments)
        assert found == 0 if kind == "bitfit" else found >= matrices


def test_nan_is_flagged_for_its_member_only(toy):
    bad = copy(toy.params)
    bad["mpt"]["shared"] = bad["mpt"]["shared"].at[1, 0, 0].set(jnp.nan)
    objective = TaskObjective(toy.network, toy.bank)
    got, history = run(objective, bad, toy.backbone, [toy.batch])
    assert history[0]["finite"].tolist() == [True, False]
    want, _ = run(objective, toy.params, toy.backbone, [toy.batch])
    first = [jax.tree.map(lambda x: x[0], state.params) for state in (got, want)]
    assert_close(*first, rtol=0, atol=0)


def test_whole_model_trains_with_the_same_step(toy):
    batch = {**toy.batch, "encoder_input_tokens": toy.batch["encoder_input_tokens"] % 29}
    batch["member_ids"] = np.zeros_like(batch["member_ids"])
    method = Full(members=1, tasks=1, config=toy.config)
    objective = TaskObjective(toy.network, NetworkBank(method))
    weights = {"full": method.init(jax.random.key(0), toy.backbone)}
    table = [(".*", Group(0.01, AdamW()))]
    settings = {"table": table, "members": 1, "name": "full"}
    state, history = run(objective, weights, toy.backbone, [batch] * 6, **settings)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, weights)
    assert all(jax.tree.leaves(moved))
    mesh = partitioning.make_mesh((4, 2))
    axes = {"full": method.logical_axes()}
    shardings = partitioning.tree_shardings(mesh, axes, weights, {**RULES, "members": None})
    optimizer = Optimizer(table, weights, members={"full": 1})
    lay = state_shardings(init_state(weights, optimizer), mesh, shardings)
    placed = partitioning.place(init_state(copy(weights), optimizer), lay)
    step = make_train_step(objective, optimizer, mesh=mesh, state_layout=lay)
    frozen = partitioning.place(toy.backbone, partitioning.replicated(mesh))
    for _ in range(6):
        placed, metrics = step(placed, frozen, partitioning.shard_batch(mesh, batch))
    kernel = placed.params["full"]["encoder/layers_0/mlp/wi_0/kernel"]
    assert kernel.addressable_shards[0].data.shape == (1, 8, 7)
    np.testing.assert_allclose(metrics["loss"], history[-1]["loss"], rtol=1e-3)


@dataclasses.dataclass
class Dice:
    """An objective whose loss is nothing but a random number."""

    members = 1

    def frozen(self, backbone):
        return backbone

    def totals(self, batch):
        return {}

    def __call__(self, trainable, frozen, batch, totals=None, rng=None):
        return jax.random.normal(rng, (1,)), {}


def test_randomness_is_a_function_of_seed_and_step():
    def losses_of(seed):
        rows = {"x": np.zeros((2, 1), np.float32)}
        settings = {"members": None, "seed": seed}
        table = [(".*", Group(0.1, SGD()))]
        _, history = run(Dice(), {"w": jnp.zeros(3)}, None, [rows] * 3, table, **settings)
        return [float(metrics["loss"][0]) for metrics in history]

    assert losses_of(0) == losses_of(0)
    assert len({*losses_of(0), *losses_of(1)}) == 6


def test_objective_and_optimizer_of_different_fleets_are_refused(toy):
    optimizer = Optimizer(TABLE, toy.make_bank(members=3)[1], members={"mpt": 3})
    with pytest.raises(ValueError, match="2 members, the optimizer 3"):
        make_train_step(distillation(toy), optimizer)
