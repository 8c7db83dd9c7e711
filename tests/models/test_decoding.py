"""Decoding with the cache against teacher forcing, and choices against cross-entropy."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.models.beam_search import RULES, beam_decode
from mpt_jax.models.choice_scoring import score_choices
from mpt_jax.models.decoding import _decode, greedy_decode, sample_decode
from mpt_jax.models.layer_stacking import stack_layers
from mpt_jax.models.t5 import EOS_ID, PAD_ID, T5Config, Transformer, init_cache

one_version = pytest.mark.parametrize("version", ["v1_1"])  # Where both would test the same.

CHOICES = np.array([[6, 14, 3, 1], [22, 1, 0, 0], [9, 1, 0, 0]], np.int32)
TINY = T5Config(vocab_size=6, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=8,
                num_encoder_layers=1, num_decoder_layers=1)  # fmt: skip


@functools.partial(jax.jit, static_argnames="config")
def teacher_forced(config, params, inputs, decoder_inputs):
    return Transformer(config).apply({"params": params}, inputs, decoder_inputs)


def log_likelihood(config, params, inputs, targets):
    """Sum of target tokens' log-probabilities for each row, by teacher forcing."""
    shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
    logits = teacher_forced(config, params, jnp.asarray(inputs), jnp.asarray(shifted))
    log_probs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    chosen = np.take_along_axis(log_probs, targets[:, :, None], axis=2)[:, :, 0]
    return np.where(targets != PAD_ID, chosen, 0.0).sum(axis=1)


def test_decode_step_equals_teacher_forcing(config, params, batch):
    network, variables = Transformer(config), {"params": params}
    inputs, decoder_inputs = batch["inputs"], batch["decoder_inputs"]
    encoded = jax.jit(functools.partial(network.apply, method="encode"))(variables, inputs)
    cross = jax.jit(functools.partial(network.apply, method="cross_keys_values"))(
        variables, encoded
    )
    step = jax.jit(functools.partial(network.apply, method="decode_step"))
    cache = init_cache(config, *decoder_inputs.shape)
    steps = []
    for position in range(decoder_inputs.shape[1]):
        ids = jnp.asarray(decoder_inputs[:, position])
        logits, cache = step(
            variables, ids, jnp.int32(position), cache, cross, jnp.asarray(inputs != PAD_ID)
        )
        steps.append(logits)
    expected = teacher_forced(config, params, inputs, decoder_inputs)
    np.testing.assert_allclose(jnp.stack(steps, axis=1), expected, atol=5e-5, rtol=0)


def naive_greedy(config, params, inputs, length, embed=None):
    """Greedy decoding that runs the whole network anew for each token."""

    @jax.jit
    def forward(written):
        return Transformer(config).apply(
            {"params": params}, jnp.asarray(inputs), written, embed=embed
        )

    written = np.zeros((inputs.shape[0], length + 1), np.int32)
    for position in range(length):
        logits = forward(jnp.asarray(written[:, :-1]))
        written[:, position + 1] = np.argmax(logits[:, position], axis=-1)
    decoded = written[:, 1:]
    behind_end = np.cumsum(decoded == EOS_ID, axis=1) - (decoded == EOS_ID) > 0
    return np.where(behind_end, PAD_ID, decoded)


def test_greedy_equals_running_the_whole_network_for_each_token(config, params, batch):
    got = greedy_decode(Transformer(config), params, batch["inputs"], 6)
    np.testing.assert_array_equal(got, naive_greedy(config, params, batch["inputs"], 6))
    assert got.dtype == jnp.int32


@one_version
def test_prompts_steer_decoding_and_a_new_prompt_compiles_nothing(config, params, batch, reading):
    size = config.vocab_size
    prompt = np.broadcast_to(size + np.arange(2, dtype=np.int32), (3, 2))
    inputs = np.concatenate([prompt, batch["inputs"]], axis=1)
    network = Transformer(config)
    decoded, programs = [], []
    for seed in (0, 1):
        bank = jnp.asarray(4 * np.random.RandomState(seed).standard_normal((2, 16)), jnp.float32)
        read = reading(bank)
        decoded.append(greedy_decode(network, params, inputs, 6, read))
        programs.append(_decode._cache_size())
        np.testing.assert_array_equal(decoded[-1], naive_greedy(config, params, inputs, 6, read))
    assert np.any(decoded[0] != decoded[1])
    assert programs[0] == programs[1]


@one_version
def test_scanned_networks_decode_alike(config, params, batch):
    scanned = Transformer(dataclasses.replace(config, scan_layers=True, remat="full"))
    stacked = stack_layers(params)
    for decode in (greedy_decode, beam_decode):
        np.testing.assert_array_equal(
            decode(scanned, stacked, batch["inputs"], 6),
            decode(Transformer(config), params, batch["inputs"], 6),
        )


@one_version
def test_rows_are_independent(config, params, batch):
    together = greedy_decode(Transformer(config), params, batch["inputs"], 6)
    for row in range(3):
        alone = greedy_decode(Transformer(config), params, batch["inputs"][row : row + 1], 6)
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("rules, alpha", [("t5x", 0.6), ("hf", 1.0), ("t5x", 0.0)])
def test_wide_beams_find_the_best_of_all_answers(make_params, rules, alpha):
    """With beams for every open prefix the search is exhaustive: compare with enumeration."""
    params, length = make_params(TINY), 3
    inputs = np.array([[3, 4, 5, 1], [5, 2, 1, 0]], np.int32)
    others = [token for token in range(TINY.vocab_size) if token != EOS_ID]
    answers, lengths = [], []
    for count in range(1, length + 1):
        for body in itertools.product(others, repeat=count - 1):
            ends = [EOS_ID] if count < length else range(TINY.vocab_size)
            for end in ends:
                answers.append([*body, end] + [PAD_ID] * (length - count))
                lengths.append(count)
    answers, lengths = np.array(answers, np.int32), np.array(lengths, np.float32)
    shifted = np.concatenate([np.zeros_like(answers[:, :1]), answers[:, :-1]], axis=1)
    decoded = beam_decode(
        Transformer(TINY),
        params,
        inputs,
        length,
        beams=3,
        alpha=alpha,
        rules=rules,
    )
    for row, got in zip(inputs, np.asarray(decoded), strict=True):
        rows = jnp.asarray(np.broadcast_to(row, (len(answers), len(row))))
        log_probs = jax.nn.log_softmax(
            teacher_forced(TINY, params, rows, jnp.asarray(shifted)), axis=-1
        )
        chosen = np.take_along_axis(np.asarray(log_probs), answers[:, :, None], axis=2)[:, :, 0]
        counted = np.arange(length)[None, :] < lengths[:, None]
        scores = (chosen * counted).sum(axis=1) / RULES[rules].penalty(lengths, alpha)
        if rules == "t5x":  # an answer that was cut wins only where none has ended
            scores = np.where(np.any(answers == EOS_ID, axis=1), scores, -np.inf)
        np.testing.assert_array_equal(got, answers[np.argmax(scores)])


@one_version
def test_one_beam_is_greedy_but_for_its_memory_of_shorter_answers(config, params, batch):
    """Where greedy decoding does not end early, a single beam writes the same tokens."""
    network = Transformer(config)
    greedy = np.asarray(greedy_decode(network, params, batch["inputs"], 6))
    beam = np.asarray(beam_decode(network, params, batch["inputs"], 6, beams=1, rules="hf"))
    open_rows = ~np.any(greedy == EOS_ID, axis=1)
    assert open_rows.any()
    np.testing.assert_array_equal(beam[open_rows], greedy[open_rows])


def test_sampling_frequencies_follow_the_network(make_params):
    params = make_params(TINY)
    rows = np.broadcast_to(np.array([3, 4, 5, 1], np.int32), (4000, 4))
    zero = jnp.zeros((1, 1), jnp.int32)
    logits = teacher_forced(TINY, params, jnp.asarray(rows[:1]), zero)[0, 0]
    order = np.argsort(-np.asarray(logits))

    def frequencies(**settings):
        drawn = sample_decode(Transformer(TINY), params, rows, 1, jax.random.key(0), **settings)
        return np.bincount(np.asarray(drawn)[:, 0], minlength=TINY.vocab_size) / len(rows)

    expected = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(frequencies(), expected, atol=0.04)
    hotter = np.asarray(jax.nn.softmax(logits / 3.0))
    np.testing.assert_allclose(frequencies(temperature=3.0), hotter, atol=0.04)
    assert set(np.flatnonzero(frequencies(top_k=2, temperature=3.0))) == set(order[:2])
    reached = np.cumsum(expected[order])
    assert set(np.flatnonzero(frequencies(top_p=float(reached[1]) - 1e-3))) == set(order[:2])


@one_version
def test_sampling_is_settled_by_its_key(config, params, batch):
    network = Transformer(config)

    def draw(seed):
        return sample_decode(
            network, params, batch["inputs"], 6, jax.random.key(seed), temperature=2.0
        )

    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.any(draw(0) != draw(1))


@pytest.mark.parametrize("length_normalised", [False, True])
def test_choice_scores_are_sums_of_cross_entropy(config, params, batch, length_normalised):
    scores = score_choices(
        Transformer(config), params, batch["inputs"], CHOICES, length_normalised=length_normalised
    )
    for column, choice in enumerate(CHOICES):
        targets = np.broadcast_to(choice, (3, len(choice)))
        expected = log_likelihood(config, params, batch["inputs"], targets)
        if length_normalised:
            expected = expected / np.sum(choice != PAD_ID)
        np.testing.assert_allclose(scores[:, column], expected, atol=1e-4)


@one_version
def test_choices_are_scored_under_the_prompt(config, params, batch, reading):
    words = np.array([4, 17], np.int32)
    bank = params["token_embedder"]["embedding"][words]
    slots = np.broadcast_to(config.vocab_size + np.arange(2, dtype=np.int32), (3, 2))
    virtual = np.concatenate([slots, batch["inputs"]], axis=1)
    spelled = np.concatenate([np.broadcast_to(words, (3, 2)), batch["inputs"]], axis=1)
    network = Transformer(config)
    np.testing.assert_allclose(
        score_choices(network, params, virtual, CHOICES, reading(bank)),
        score_choices(network, params, spelled, CHOICES),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "decode, settings, message",
    [
        (beam_decode, {"alpha": -1.0}, "alpha: got -1.0"),
        (beam_decode, {"beams": 0}, "beams: got 0"),
        (beam_decode, {"rules": "fairseq"}, "rules: got 'fairseq'"),
        (sample_decode, {"rng": 0, "temperature": 0.0}, "temperature: got 0.0"),
        (sample_decode, {"rng": 0, "top_p": 1.5}, "top_p: got 1.5"),
        (sample_decode, {"rng": 0, "top_k": 0}, "top_k: got 0"),
    ],
)
def test_bad_settings_are_refused(make_params, decode, settings, message):
    if "rng" in settings:
        settings = settings | {"rng": jax.random.key(0)}
    with pytest.raises(ValueError, match=message):
        decode(Transformer(TINY), make_params(TINY), np.ones((1, 2), np.int32), 3, **settings)
