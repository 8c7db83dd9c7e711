import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.training import losses

B, T, L, V, D = 4, 6, 3, 7, 5


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture
def logits():
    return normal(0, B, L, V)


@pytest.fixture
def targets():
    return jax.random.randint(jax.random.key(1), (B, L), 0, V)


def test_cross_entropy_is_minus_the_log_probability(logits, targets):
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    want = -np.take_along_axis(log_probs, np.asarray(targets)[..., None], -1)[..., 0]
    got = losses.token_cross_entropy(logits, targets)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_label_smoothing_is_the_soft_target_cross_entropy_less_its_entropy(logits, targets):
    soft = np.full((B, L, V), 0.1 / (V - 1))
    np.put_along_axis(soft, np.asarray(targets)[..., None], 0.9, axis=-1)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    want = -(soft * log_probs).sum(-1) + (soft * np.log(soft)).sum(-1)
    got = losses.token_cross_entropy(logits, targets, label_smoothing=0.1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    perfect = jnp.log(jnp.asarray(soft, jnp.float32))
    smoothed = losses.token_cross_entropy(perfect, targets, label_smoothing=0.1)
    np.testing.assert_allclose(smoothed, 0.0, atol=1e-5)


def test_z_loss_penalises_log_z(logits, targets):
    plain = losses.token_cross_entropy(logits, targets)
    got = losses.token_cross_entropy(logits, targets, z_loss=0.5) - plain
    log_z = np.log(np.exp(np.asarray(logits)).sum(-1))
    np.testing.assert_allclose(got, 0.5 * log_z**2, rtol=1e-4)


def test_bfloat16_logits_give_a_float32_loss(logits, targets):
    half = logits.astype(jnp.bfloat16)
    loss = losses.token_cross_entropy(half, targets)
    assert loss.dtype == jnp.float32
    assert losses.kl_divergence(half, half).dtype == jnp.float32
    np.testing.assert_array_equal(
        loss, losses.token_cross_entropy(half.astype(jnp.float32), targets)
    )


def test_accuracy_counts_the_most_likely_token(logits, targets):
    want = np.asarray(logits).argmax(-1) == np.asarray(targets)
    np.testing.assert_array_equal(losses.token_accuracy(logits, targets), want)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_of_softened_distributions(logits, temperature):
    teacher = normal(2, B, L, V)
    p = np.asarray(jax.nn.softmax(teacher / temperature))
    q = np.asarray(jax.nn.softmax(logits / temperature))
    want = (p * np.log(p / q)).sum(-1)
    got = losses.kl_divergence(teacher, logits, temperature, times_squared_temperature=False)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    scaled = losses.kl_divergence(teacher, logits, temperature)
    np.testing.assert_allclose(scaled, want * temperature**2, rtol=1e-4, atol=1e-6)


def test_kl_takes_a_temperature_for_each_position(logits):
    teacher = normal(2, B, L, V)
    cold, hot = (losses.kl_divergence(teacher, logits, t) for t in (1.0, 2.0))
    temperature = jnp.ones((B, L)).at[1].set(2.0)
    got = losses.kl_divergence(teacher, logits, temperature)
    np.testing.assert_allclose(got, cold.at[1].set(hot[1]), rtol=1e-6)
    np.testing.assert_allclose(losses.kl_divergence(logits, logits, 2.0), 0.0, atol=1e-6)


def test_hidden_mse_is_per_element_and_averages_layers():
    teacher, student = tuple(normal(3, 2, B, T, D)), tuple(normal(4, 2, B, T, D))
    want = np.mean(np.square(np.asarray(teacher) - np.asarray(student)), axis=(0, -1))
    np.testing.assert_allclose(losses.hidden_mse(teacher, student), want, rtol=1e-5)
    with pytest.raises(ValueError, match="1 layers of the teacher and 2 of the student"):
        losses.hidden_mse(teacher[:1], student)


def test_a_member_in_a_fleet_has_the_mean_that_it_has_alone():
    values, weights = normal(5, B, L), jnp.asarray([[1.0, 1, 0]] * B)
    ids = jnp.asarray([[0] * L, [2] * L, [0] * L, [2] * L])
    fleet = losses.per_member_mean(values, weights, ids, 4)
    for member, rows in [(0, (0, 2)), (2, (1, 3))]:
        rows = jnp.asarray(rows)
        alone = losses.per_member_mean(values[rows], weights[rows], jnp.zeros((2, L), int), 1)
        assert fleet[member] == alone[0]
        np.testing.assert_allclose(alone[0], np.mean(np.asarray(values)[rows, :2]), rtol=1e-6)
    np.testing.assert_array_equal(fleet[jnp.asarray([1, 3])], 0.0)


def test_no_weight_means_no_loss_and_no_gradient_even_from_nan():
    values = jnp.full((1, L), jnp.nan)
    ids = jnp.asarray([[0, 99, -5]])

    def total(values, weights):
        return jnp.sum(losses.per_member_mean(values, weights, ids, 2))

    loss, gradient = jax.value_and_grad(total)(values, jnp.zeros((1, L)))
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((1, L)))


def test_nan_stays_with_its_member():
    values = jnp.asarray([[jnp.nan, 1.0, 3.0]])
    means = losses.per_member_mean(values, jnp.ones((1, L)), jnp.asarray([[0, 1, 1]]), 2)
    assert np.isnan(means[0]) and means[1] == 2.0


def test_shares_of_a_split_batch_add_up():
    values, weights = normal(5, B, L), jnp.abs(normal(6, B, L))
    ids = jax.random.randint(jax.random.key(7), (B, L), 0, 3)
    whole = losses.per_member_mean(values, weights, ids, 3)
    totals = losses.sum_by_id(None, weights, ids, 3)
    parts = [
        losses.per_member_mean(values[part], weights[part], ids[part], 3, totals)
        for part in (slice(0, 1), slice(1, B))
    ]
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-5)


def test_encoder_positions_belong_to_the_member_of_their_segment():
    encoder_segments = jnp.asarray([[1, 1, 2, 2, 3, 0]])
    target_segments = jnp.asarray([[1, 2, 2]])
    member_ids = jnp.asarray([[4, 6, 6]])
    owned, ids = losses.encoder_owners(encoder_segments, target_segments, member_ids)
    np.testing.assert_array_equal(owned, [[True, True, True, True, False, False]])
    np.testing.assert_array_equal(ids[0, :4], [4, 4, 6, 6])
