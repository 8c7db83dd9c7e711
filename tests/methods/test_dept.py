"""DePT against its equation in numpy; every word gets the offset of the prompt before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.dept import DePT
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models.t5_sizes import SIZES

V, P, D, S, R = 30, 2, 6, 3, 2
TABLE = np.random.default_rng(9).normal(size=(V, D)).astype(np.float32)


@pytest.fixture
def method():
    return DePT(members=2, tasks=2, length=P, width=D, rank=R, words=S, alpha=0.7)


@pytest.fixture
def params(method):
    rng = np.random.default_rng(0)
    shapes = {"prompt": (2, 2, P, D), "a": (2, 2, S, R), "b": (2, 2, R, D)}
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}


def embedded(bank, params, ids):
    words = jnp.asarray(TABLE)[jnp.minimum(ids, V - 1)]
    return jax.jit(lambda p: bank.reader(p)(ids, words))(params)


def by_hand(params, m, k, text):
    """The encoder's input of the prompt and a text, as the paper writes it."""
    prompt, a, b = (np.asarray(params[n], np.float64)[m, k] for n in ("prompt", "a", "b"))
    offsets = 0.7 / np.sqrt(R) * a @ b
    words = TABLE[text].astype(np.float64)
    words[:S] += offsets[: len(text)]
    return np.concatenate([prompt, words])


def test_input_is_the_equation(method, params):
    bank, text = Bank((method,), V), np.array([4, 9, 1, 7, 2])  # two words more than offsets
    for m, k in [(0, 0), (1, 1)]:
        ids = np.concatenate([bank.virtual_ids(0, m, k), text, [0]])[None].astype(np.int32)
        got = embedded(bank, {"dept": params}, jnp.asarray(ids))[0]
        np.testing.assert_allclose(got[:-1], by_hand(params, m, k, text), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(got[-1], TABLE[0])  # padding stays


def test_gradient_is_the_equation(method, params):
    bank, text = Bank((method,), V), np.array([4, 9])
    ids = jnp.asarray(np.concatenate([bank.virtual_ids(0, 1, 0), text])[None], jnp.int32)
    weights = np.random.default_rng(1).normal(size=(4, D)).astype(np.float32)

    def loss(p):
        words = jnp.asarray(TABLE)[jnp.minimum(ids, V - 1)]
        return jnp.sum(bank.reader({"dept": p})(ids, words)[0] * weights)

    grads = jax.jit(jax.grad(loss))(params)
    a, b = (np.asarray(params[n])[1, 0] for n in "ab")
    scale = 0.7 / np.sqrt(R)
    np.testing.assert_allclose(grads["prompt"][1, 0], weights[:P], rtol=1e-5)
    np.testing.assert_allclose(grads["a"][1, 0, :2], scale * weights[P:] @ b.T, rtol=1e-4)
    np.testing.assert_allclose(grads["b"][1, 0], scale * a[:2].T @ weights[P:], rtol=1e-4)
    assert not np.any(grads["a"][1, 0, 2]) and not np.any(grads["a"][0])
    assert not np.any(grads["b"][0]) and not np.any(grads["b"][1, 1])


def test_packed_rows_of_a_mixed_bank(method, params):
    """Two prompts of DePT and one of plain prompt tuning in one row; each keeps to its own words."""
    plain = PromptTuning(members=1, tasks=1, length=3, width=D)
    bank = Bank((plain, method), V)
    prompt = jnp.asarray(np.random.default_rng(2).normal(size=(1, 1, 3, D)), jnp.float32)
    every = {"dept": params, "prompt_tuning": {"prompt": prompt}}
    parts = [
        (bank.virtual_ids(1, 0, 1), [5, 6]),
        (bank.virtual_ids(0, 0), [7, 8]),
        (bank.virtual_ids(1, 1, 0), [9, 10, 11, 12]),
    ]
    ids = np.concatenate([np.concatenate([v, t]) for v, t in parts])[None].astype(np.int32)
    got = np.asarray(embedded(bank, every, jnp.asarray(ids))[0])
    np.testing.assert_allclose(got[:4], by_hand(params, 0, 1, [5, 6]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[7:9], TABLE[[7, 8]])
    expected = by_hand(params, 1, 0, [9, 10, 11, 12])
    np.testing.assert_allclose(got[9:], expected, rtol=1e-4, atol=1e-5)


def test_words_start_as_they_are(method):
    bank = Bank((method,), V)
    prompt = jnp.asarray(TABLE[:P])
    start = [method.start(m, jax.random.key(m), prompt) for m in range(2)]
    params = {n: jnp.stack([s[n] for s in start]) for n in start[0]}
    ids = np.concatenate([bank.virtual_ids(0, 1), [4, 9, 1]])[None].astype(np.int32)
    got = embedded(bank, {"dept": params}, jnp.asarray(ids))[0]
    np.testing.assert_array_equal(got, np.concatenate([TABLE[:P], TABLE[[4, 9, 1]]]))
    assert np.any(np.asarray(start[0]["a"]) != np.asarray(start[1]["a"]))


def test_a_longer_prompt_lends_its_first_slots(method):
    start = method.start(0, jax.random.key(0), jnp.asarray(TABLE[:9]))
    np.testing.assert_array_equal(start["prompt"], np.broadcast_to(TABLE[:P], (2, P, D)))


def test_it_has_the_numbers_of_the_prompt_that_it_replaces():
    base = SIZES["t5-base"]
    built = DePT.build(name="dept", members=1, tasks=1, length=100, config=base)
    assert (built.length, built.rank, built.words) == (40, 45, 256) and built.count() == 76_800
    for settings, expected in [({"slots": 60, "rank": 30}, 76_800), ({"rank": 8}, 38_912)]:
        other = DePT.build(name="d", members=1, tasks=1, length=100, config=base, **settings)
        assert other.count() == expected


def test_a_file_round_trip(method, params, tmp_path):
    path = tmp_path / "dept.safetensors"
    save_prompt_file(
        path, method.export(params, 1), kind="dept", task_names=("a", "b"),
        backbone_fingerprint="0" * 16, backbone_name="toy", vocabulary_fingerprint=None,
        settings=method.settings,
    )  # fmt: skip
    file = load_prompt_file(path)
    again = file.take(["b"]).method()
    assert (again.tasks, again.length, again.rank, again.words, again.alpha) == (1, P, R, S, 0.7)
    with pytest.raises(UserError, match="more than the prompt"):
        file.prompt("a")
