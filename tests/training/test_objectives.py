import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.methods.full import Full
from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.models import t5
from mpt_jax.training import losses
from mpt_jax.training.distillation import DistillationObjective
from mpt_jax.training.objectives import TaskObjective, TokenLoss

L = 3


def evaluate(objective, toy, batch=None, params=None):
    frozen = objective.frozen(toy.backbone)
    params = toy.params if params is None else params
    batch = toy.batch if batch is None else batch
    return jax.jit(lambda p, f, b: objective(p, f, b))(params, frozen, batch)


def distillation(toy, **settings):
    return DistillationObjective(toy.network, toy.bank, toy.teacher_bank, toy.teachers, **settings)


def outputs(toy, bank, params, tokens):
    def apply(params, tokens, targets):
        return toy.network.apply(
            {"params": toy.backbone},
            tokens,
            targets,
            embed=bank.reader(params),
            return_hidden=True,
        )

    return jax.jit(apply)(params, tokens, toy.batch["decoder_input_tokens"])


def test_task_loss_is_each_members_mean_over_its_tokens(toy):
    logits, _ = outputs(toy, toy.bank, toy.params, toy.batch["encoder_input_tokens"])
    tokens = np.asarray(
        losses.token_cross_entropy(logits, jnp.asarray(toy.batch["decoder_target_tokens"]))
    )
    weights, ids = toy.batch["decoder_loss_weights"], toy.batch["member_ids"]
    loss, metrics = evaluate(TaskObjective(toy.network, toy.bank, TokenLoss(tasks=2)), toy)
    metrics = jax.device_get(metrics)
    for member in range(2):
        mine = (ids == member) & (weights > 0)
        np.testing.assert_allclose(loss[member], tokens[mine].mean(), rtol=1e-5)
        assert metrics["tokens"][member] == mine.sum()
        for task in range(2):
            both = mine & (toy.batch["task_ids"] == task)
            got = metrics["loss_by_task"][member, task]
            np.testing.assert_allclose(got, tokens[both].mean(), rtol=1e-5)
            assert metrics["tokens_by_task"][member, task] == both.sum()


def test_distillation_loss_is_the_papers_sum(toy):
    settings = {"weight": 0.7, "logits": 0.5, "hidden": 2.0, "temperature": 2.0}
    loss, metrics = evaluate(distillation(toy, **settings), toy)
    logits, hidden = outputs(toy, toy.bank, toy.params, toy.batch["encoder_input_tokens"])
    tokens = toy.batch["teacher_encoder_input_tokens"]
    teacher_logits, teacher_hidden = outputs(toy, toy.teacher_bank, toy.teachers, tokens)
    kl = np.asarray(losses.kl_divergence(teacher_logits, logits, 2.0))
    encoder = np.square(teacher_hidden.encoder[-1] - hidden.encoder[-1]).mean(-1)
    decoder = np.square(teacher_hidden.decoder[-1] - hidden.decoder[-1]).mean(-1)
    task_loss, _ = evaluate(TaskObjective(toy.network, toy.bank), toy)
    np.testing.assert_allclose(metrics["task_loss"], task_loss, rtol=1e-6)
    for member in range(2):
        rows = toy.batch["member_ids"][:, 0] == member
        target = rows[:, None] & (toy.batch["decoder_loss_weights"] > 0)
        text = rows[:, None] & (toy.batch["encoder_input_tokens"] != 0)
        want_kl = kl[target].mean()
        want_hidden = encoder[text].mean() + decoder[target].mean()
        np.testing.assert_allclose(metrics["kl"][member], want_kl, rtol=1e-4)
        np.testing.assert_allclose(metrics["hidden_mse"][member], want_hidden, rtol=1e-4)
        want = task_loss[member] + 0.7 * (0.5 * want_kl + 2.0 * want_hidden)
        np.testing.assert_allclose(loss[member], want, rtol=1e-4)


def count_products(objective, toy):
    frozen = objective.frozen(toy.backbone)
    text = str(jax.make_jaxpr(lambda p, b: objective(p, frozen, b))(toy.params, toy.batch))
    return text.count("dot_general")


@pytest.mark.parametrize("weight", [0.0, np.zeros(2)])
def test_lambda_zero_has_no_teacher_pass(toy, weight):
    plain = TaskObjective(toy.network, toy.bank)
    none = distillation(toy, weight=weight)
    assert count_products(none, toy) == count_products(plain, toy)
    assert count_products(distillation(toy), toy) > 1.8 * count_products(plain, toy)
    without = {k: v for k, v in toy.batch.items() if not k.startswith("teacher")}
    loss, metrics = evaluate(none, toy, without)
    np.testing.assert_array_equal(loss, evaluate(plain, toy, without)[0])
    assert "kl" not in metrics


def test_logits_only_and_hidden_only(toy):
    task, _ = evaluate(TaskObjective(toy.network, toy.bank), toy)
    loss, metrics = evaluate(distillation(toy, hidden=0.0), toy)
    assert "hidden_mse" not in metrics
    np.testing.assert_allclose(loss, task + 0.9 * metrics["kl"], rtol=1e-5)
    loss, metrics = evaluate(distillation(toy, logits=0.0), toy)
    assert "kl" not in metrics
    np.testing.assert_allclose(loss, task + 0.9 * metrics["hidden_mse"], rtol=1e-5)


def test_members_may_have_their_own_settings(toy):
    settings = {"weight": [0.3, 0.5], "temperature": [1.0, 3.0], "hidden": [1.0, 0.7]}
    arrays = {name: np.asarray(value) for name, value in settings.items()}
    together, _ = evaluate(distillation(toy, **arrays), toy)
    for member in range(2):
        own = {name: value[member] for name, value in settings.items()}
        alone, _ = evaluate(distillation(toy, **own), toy)
        np.testing.assert_allclose(together[member], alone[member], rtol=1e-5)


@pytest.mark.parametrize("layers", ["last", "all"])
def test_recorded_teacher_outputs_replace_the_teacher_pass(toy, layers):
    objective = distillation(toy, layers=layers)
    frozen = objective.frozen(toy.backbone)
    recorded = jax.jit(objective.teacher_states)(frozen, toy.batch)
    assert recorded["teacher_hidden_encoder"].shape[2] == {"last": 1, "all": 2}[layers]
    for key, field in objective.recorded_fields.items():
        assert recorded[key].shape[2:] == field.shape and recorded[key].dtype == field.dtype
    live, _ = evaluate(objective, toy)
    batch = {k: v for k, v in toy.batch.items() if k != "teacher_encoder_input_tokens"}
    cached, _ = evaluate(objective, toy, {**batch, **recorded})
    np.testing.assert_allclose(cached, live, rtol=1e-5)
    del recorded["teacher_hidden_decoder"]
    with pytest.raises(ValueError, match="expected .*'teacher_hidden_decoder'"):
        evaluate(objective, toy, {**batch, **recorded})


def test_a_student_equal_to_its_teacher_differs_in_nothing(toy):
    batch = {**toy.batch, "encoder_input_tokens": toy.batch["teacher_encoder_input_tokens"]}
    batch["member_ids"] = toy.batch["task_ids"]
    objective = DistillationObjective(toy.network, toy.teacher_bank, toy.teacher_bank, toy.teachers)
    _, metrics = evaluate(objective, toy, batch, toy.teachers)
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)
    np.testing.assert_allclose(metrics["hidden_mse"], 0.0, atol=1e-10)


def test_no_gradient_goes_to_the_teachers(toy):
    objective = distillation(toy)

    def loss(teachers, batch):
        frozen = objective.frozen(toy.backbone)._replace(teachers=teachers)
        return jnp.sum(objective(toy.params, frozen, batch)[0])

    gradient = jax.jit(jax.grad(loss))(toy.teachers, toy.batch)
    np.testing.assert_array_equal(gradient["prompt_tuning"]["prompt"], 0.0)


def pack_pairs(batch):
    """Rows 2i and 2i+1 side by side, kept apart by segment ids."""

    def join(x):
        return np.concatenate([x[0::2], x[1::2]], axis=1)

    packed = {key: join(value) for key, value in batch.items()}
    for side, key in [("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")]:
        used = packed[key] != 0
        half = np.arange(used.shape[1])[None, :] // (used.shape[1] // 2)
        packed[f"{side}_segment_ids"] = np.where(used, half + 1, 0).astype(np.int32)
    return packed


def test_packed_rows_give_the_same_losses(toy):
    # With the segments' relative positions unchanged, packing must not change a number.
    objective = distillation(toy)
    want, want_metrics = evaluate(objective, toy)
    got, metrics = evaluate(objective, toy, pack_pairs(toy.batch))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    np.testing.assert_allclose(metrics["hidden_mse"], want_metrics["hidden_mse"], rtol=1e-4)


def test_bfloat16_network_is_scored_in_float32(toy):
    half = t5.Transformer(dataclasses.replace(toy.config, dtype="bfloat16"))
    objective = DistillationObjective(half, toy.bank, toy.teacher_bank, toy.teachers)
    loss, metrics = evaluate(objective, toy)
    assert {x.dtype for x in metrics.values()} | {loss.dtype} == {jnp.dtype("float32")}
    full, _ = evaluate(distillation(toy), toy)
    np.testing.assert_allclose(loss, full, rtol=0.1)


def test_whole_model_is_one_member(toy):
    batch = {k: v for k, v in toy.batch.items() if not k.endswith("_ids")}
    batch["encoder_input_tokens"] = np.ones((8, 4), np.int32)
    method = Full(members=1, tasks=1, config=toy.config)
    objective = TaskObjective(toy.network, NetworkBank(method))
    weights = {"full": method.init(jax.random.key(0), toy.backbone)}
    loss, metrics = evaluate(objective, toy, batch, weights)
    assert loss.shape == (1,)
    np.testing.assert_array_equal(metrics["tokens"], [batch["decoder_loss_weights"].sum()])


def test_dropout_draws_from_the_key_given(toy):
    config = dataclasses.replace(toy.config, dropout_rate=0.3)
    objective = TaskObjective(t5.Transformer(config, deterministic=False), toy.bank)
    shapes = jax.eval_shape(
        lambda batch, rng: objective(toy.params, toy.backbone, batch, rng=rng),
        toy.batch,
        jax.random.key(0),
    )
    assert shapes[0].shape == (2,)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda batch: objective(toy.params, toy.backbone, batch), toy.batch)


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"temperature": 0.0}, "temperature: got 0.0.*above 0"),
        ({"weight": np.ones(3)}, "weight.*2"),
        ({"layers": "first"}, "first"),
    ],
)
def test_bad_settings_are_refused(toy, settings, match):
    with pytest.raises(Exception, match=match):
        distillation(toy, **settings)
