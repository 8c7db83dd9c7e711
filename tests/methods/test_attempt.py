"""ATTEMPT against its equations in numpy, row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.attempt import Attempt
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.methods.prompt_tuning import PromptTuning

V, P, D, H, S = 30, 3, 6, 4, 2
TABLE = np.random.default_rng(9).normal(size=(V, D)).astype(np.float32)
FILE = {"backbone_fingerprint": "0" * 16, "backbone_name": "toy", "vocabulary_fingerprint": None}


@pytest.fixture
def method():
    return Attempt(members=2, tasks=2, length=P, width=D, rank=H, temperature=1.5)


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    shapes = {
        "prompt": (2, 2, P, D), "sources": (2, S, P, D), "down": (2, D, H), "up": (2, H, D),
        "norm_scale": (2, D), "norm_bias": (2, D),
    }  # fmt: skip
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}


def by_hand(params, m, k, text, temperature=1.5):
    one = {name: np.asarray(array, np.float64)[m] for name, array in params.items()}
    pooled = TABLE[text].astype(np.float64).max(axis=0)
    hidden = pooled @ one["down"]
    query = (hidden / (1 + np.exp(-hidden))) @ one["up"]
    query = (query - query.mean()) / np.sqrt(query.var() + 1e-5)
    query = query * one["norm_scale"] + one["norm_bias"]
    prompts = np.concatenate([one["sources"], one["prompt"][k][None]])
    scores = prompts.max(axis=1) @ query / temperature
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return np.tensordot(weights, prompts, 1) + one["prompt"][k]


def rows_of(bank, jobs, width, index=0):
    """A row for each (member, task, text), padded to `width` tokens."""
    ids = np.zeros((len(jobs), width), np.int32)
    for row, (m, k, text) in zip(ids, jobs, strict=True):
        tokens = [*bank.virtual_ids(index, m, k), *text]
        row[: len(tokens)] = tokens
    return jnp.asarray(ids)


def embedded(bank, params, ids):
    return bank.reader(params)(ids, jnp.asarray(TABLE)[jnp.minimum(ids, V - 1)])


JOBS = [(0, 0, [4, 9, 1]), (1, 1, [7]), (0, 1, [3, 3, 8, 2]), (1, 0, [4, 9, 1])]


def test_every_row_has_the_prompt_of_its_input(method, params):
    """Two members with two tasks each, in one batch with a plain prompt."""
    bank = Bank((PromptTuning(members=1, tasks=1, length=2, width=D), method), V)
    plain = {"prompt": jnp.ones((1, 1, 2, D))}
    ids = rows_of(bank, JOBS, 9, index=1)
    other = jnp.asarray([[*bank.virtual_ids(0, 0), 5, 0, 0, 0, 0, 0, 0]], jnp.int32)
    ids = jnp.concatenate([ids, other])
    got = jax.jit(lambda p: embedded(bank, {"attempt": p, "prompt_tuning": plain}, ids))(params)
    for row, (m, k, text) in zip(got, JOBS, strict=False):
        np.testing.assert_allclose(row[:P], by_hand(params, m, k, text), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(row[P : P + len(text)], TABLE[text])
    np.testing.assert_array_equal(got[-1, :3], [[1.0] * D, [1.0] * D, TABLE[5]])
    assert not np.allclose(got[0, :P], got[3, :P])


def test_gradients_are_those_of_the_equations(method, params):
    """By differences of the equations in float64; the sources get none."""
    bank = Bank((method,), V)
    ids, weights = rows_of(bank, JOBS, 9), np.random.default_rng(1).normal(size=(4, P, D))

    def loss(p):
        return jnp.sum(
            embedded(bank, {"attempt": p}, ids)[:, :P] * jnp.asarray(weights, jnp.float32)
        )

    def exact(p):
        pairs = zip(weights, JOBS, strict=True)
        return sum(np.sum(w * by_hand(p, m, k, text)) for w, (m, k, text) in pairs)

    grads = jax.jit(jax.grad(loss))(params)
    assert not np.any(grads["sources"])
    rng, step = np.random.default_rng(2), 1e-5
    for name in ("prompt", "down", "up", "norm_scale", "norm_bias"):
        for _ in range(6):
            place = tuple(rng.integers(n) for n in params[name].shape)
            moved = []
            for sign in (1, -1):
                array = np.array(params[name], np.float64)
                array[place] += sign * step
                moved.append(exact({**params, name: array}))
            slope = (moved[0] - moved[1]) / (2 * step)
            np.testing.assert_allclose(grads[name][place], slope, rtol=2e-3, atol=2e-4)


def test_padding_changes_nothing_unless_it_is_pooled(method, params):
    bank = Bank((method,), V)
    short, long = (
        embedded(bank, {"attempt": params}, rows_of(bank, JOBS, width))[:, :P] for width in (8, 20)
    )
    np.testing.assert_allclose(short, long, rtol=1e-6)
    unmasked = Attempt(
        members=2, tasks=2, length=P, width=D, rank=H, temperature=1.5, mask_padding=False
    )
    bank = Bank((unmasked,), V)
    got = embedded(bank, {"attempt": params}, rows_of(bank, JOBS, 8))[1, :P]
    np.testing.assert_allclose(got, by_hand(params, 1, 1, [7, 0]), rtol=1e-4, atol=1e-5)
    assert not np.allclose(got, short[1])


def test_a_start_from_sources(method):
    sources = jnp.asarray(np.random.default_rng(3).normal(size=(S, P, D)), jnp.float32)
    start = method.start(1, jax.random.key(0), sources[1], list(sources))
    np.testing.assert_array_equal(start["prompt"], np.stack([sources[1]] * 2))
    np.testing.assert_array_equal(start["sources"], sources)
    assert np.abs(start["down"]).max() <= 1 / np.sqrt(D) and np.abs(start["up"]).max() <= 0.5
    with pytest.raises(UserError, match="source prompt has the shape"):
        method.start(1, jax.random.key(0), sources[1], [sources[0], sources[1, :2]])


def test_counts_of_the_published_sizes():
    base = {"members": 1, "length": 100, "width": 768}
    assert Attempt(tasks=1, **base).count() == 230_400
    assert Attempt(tasks=1, train_norm=True, **base).count() == 231_936
    assert Attempt(tasks=8, **base).count() / 8 == 96_000
    np.testing.assert_allclose(Attempt(tasks=1, **base).settings["temperature"], 2087, atol=1)


def test_what_is_frozen(method):
    assert dict(method.default_groups())["^norm_(scale|bias)$"] == "frozen"
    trained = Attempt(members=1, tasks=1, length=P, width=D, train_norm=True)
    assert dict(trained.default_groups())["^norm_(scale|bias)$"] == "factors"
    assert dict(trained.default_groups())["^sources$"] == "frozen"
    with pytest.raises(ValueError, match="above 0"):
        Attempt(members=1, tasks=1, length=P, width=D, temperature=0.0)


def test_a_file_holds_all_that_is_needed(method, params, tmp_path):
    path = tmp_path / "attempt.safetensors"
    save_prompt_file(
        path, method.export(params, 1), kind="attempt", task_names=("a", "b"),
        settings=method.settings, **FILE,
    )  # fmt: skip
    file = load_prompt_file(path).take(["b"])
    again = file.method()
    bank = Bank((again,), V)
    arrays = {"attempt": {n: jnp.asarray(a)[None] for n, a in file.arrays.items()}}
    got = embedded(bank, arrays, rows_of(bank, [(0, 0, [7, 2])], 6))[0, :P]
    np.testing.assert_allclose(got, by_hand(params, 1, 1, [7, 2]), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="depends on the input"):
        file.prompt()


def test_members_learn_in_one_batch_what_they_learn_alone(method, params):
    """Whatever becomes of the other one: NaN does not reach a neighbour either."""
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(4, 9, D)), jnp.float32)

    def gradients(method, params, rows, jobs):
        bank = Bank((method,), V)
        ids = rows_of(bank, jobs, 9)

        def loss(p):
            values = embedded(bank, {"attempt": p}, ids) * weights[jnp.asarray(rows)]
            return jnp.sum(jnp.sum(values, axis=(1, 2)))

        return jax.grad(loss)(params)

    together = gradients(method, params, range(4), JOBS)
    single = Attempt(members=1, tasks=2, length=P, width=D, rank=H, temperature=1.5)
    for m in (0, 1):
        rows = [row for row, job in enumerate(JOBS) if job[0] == m]
        own = {name: array[m : m + 1] for name, array in params.items()}
        alone = gradients(single, own, rows, [(0, *JOBS[row][1:]) for row in rows])
        for name in params:
            np.testing.assert_allclose(together[name][m], alone[name][0], rtol=1e-5, atol=1e-6)
    broken = {name: array.at[1].set(jnp.nan) for name, array in params.items()}
    beside = gradients(method, broken, range(4), JOBS)
    for name in params:
        np.testing.assert_array_equal(beside[name][0], together[name][0])
