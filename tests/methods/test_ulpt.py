"""ULPT against its equation in numpy, and what its files need to be read for ever."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.methods.bank import Bank
from mpt_jax.methods.method import DoesNotFit, member
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.methods.ulpt import ULPT, projection

V, P, D, R = 20, 5, 12, 4
FIRST = [-0.98718727, 0.39458141, -0.21995571, -0.16233623]
DIGEST = "7ca5cdff446a1b34"  # of all numbers, rounded to five places


@pytest.fixture
def method():
    return ULPT(members=2, tasks=2, length=P, width=D, rank=R, seed=3)


@pytest.fixture
def params(method):
    rng = np.random.default_rng(0)
    shapes = {"z": (2, 2, P, R), "scale": (2, 2, D), "shift": (2, 2, D)}
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}


def by_hand(params, m, k):
    z, scale, shift = (np.asarray(params[n], np.float64)[m, k] for n in ("z", "scale", "shift"))
    return (z @ projection(3, R, D).astype(np.float64)) * scale[None] + shift[None]


def test_the_projection_never_changes():
    """Stored prompts are these numbers' coordinates: another draw would make noise of them."""
    matrix = projection(0, 64, 768)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(projection(0, 4, 12)[0, :4], FIRST, rtol=1e-6)
    rounded = np.round(matrix.astype(np.float64) * 1e5).astype("<i8").tobytes()
    assert hashlib.sha256(rounded).hexdigest()[:16] == DIGEST
    assert not np.array_equal(projection(0, 4, 12), projection(1, 4, 12))


def test_the_projection_is_normal_with_variance_one_over_r():
    matrix = projection(5, 64, 4096).astype(np.float64) * 8
    assert abs(matrix.mean()) < 0.01 and abs(matrix.std() - 1) < 0.01
    assert abs(np.mean(matrix**4) - 3) < 0.06  # a normal distribution's
    gram = matrix @ matrix.T / 4096
    assert np.abs(gram - np.eye(64)).max() < 0.1  # rows are independent


def test_rows_are_the_equations(method, params):
    bank = Bank((method,), V)
    ids = np.stack([bank.virtual_ids(0, m, k) for m in range(2) for k in range(2)])
    words = jnp.zeros((4, P, D))
    read = jax.jit(lambda p: bank.reader({"ulpt": p})(jnp.asarray(ids), words))(params)
    for row, (m, k) in zip(read, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        np.testing.assert_allclose(row, by_hand(params, m, k), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            method.compose(member(params, m), k), by_hand(params, m, k), rtol=1e-4, atol=1e-5
        )


def test_gradients_are_the_equations(method, params):
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(P, D)), jnp.float32)
    rows = jnp.arange(P, dtype=jnp.int32) + P * 3  # member 1, task 1
    grads = jax.grad(lambda p: jnp.sum(weights * method.read(p, rows)))(params)
    z, scale = (np.asarray(params[n])[1, 1] for n in ("z", "scale"))
    matrix = projection(3, R, D)
    expected = {
        "z": (np.asarray(weights) * scale) @ matrix.T,
        "scale": ((z @ matrix) * np.asarray(weights)).sum(axis=0),
        "shift": np.asarray(weights).sum(axis=0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(grads[name][1, 1], value, rtol=1e-4, atol=1e-5)
        assert not np.any(grads[name][0]) and not np.any(grads[name][1, 0])


def test_a_start_is_the_nearest_that_the_projection_allows(method):
    prompt = np.random.default_rng(2).normal(size=(P, D)).astype(np.float32)
    start = method.start(0, jax.random.key(0), jnp.asarray(prompt))
    got = np.asarray(method.compose(start, 1), np.float64)
    centred = prompt - prompt.mean(axis=0)
    best = np.linalg.lstsq(projection(3, R, D).T, centred.T, rcond=None)[0]
    expected = best.T @ projection(3, R, D) + prompt.mean(axis=0)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    # A prompt that lies in these dimensions is met exactly.
    inside = np.asarray(method.compose(start, 0))
    again = method.compose(method.start(0, jax.random.key(0), jnp.asarray(inside)), 0)
    np.testing.assert_allclose(again, inside, atol=1e-4)


def test_unused_slots_do_not_change_the_start():
    long = ULPT(members=1, tasks=1, length=P, width=D, rank=R, lengths=(3,))
    short = ULPT(members=1, tasks=1, length=3, width=D, rank=R)
    prompt = jnp.asarray(np.random.default_rng(3).normal(size=(3, D)), jnp.float32)
    padded, exact = (m.start(0, jax.random.key(0), prompt) for m in (long, short))
    np.testing.assert_allclose(padded["z"][:, :3], exact["z"], atol=1e-5)
    np.testing.assert_allclose(padded["shift"], exact["shift"], atol=1e-6)
    assert not np.any(padded["z"][:, 3:])


def test_count_and_refused_sizes():
    assert ULPT(members=1, tasks=1, length=100, width=768).count() == 7_936
    assert ULPT(members=1, tasks=1, length=100, width=768, rank=256).count() == 27_136
    with pytest.raises(DoesNotFit, match="below the width 12"):
        ULPT(members=1, tasks=1, length=P, width=D, rank=D)


def test_a_file_gives_the_same_prompt_and_holds_the_seed_only(method, params, tmp_path):
    path = tmp_path / "ulpt.safetensors"
    save_prompt_file(
        path, method.export(params, 1), kind="ulpt", task_names=("a", "b"),
        backbone_fingerprint="0" * 16, backbone_name="toy", vocabulary_fingerprint=None,
        settings=method.settings,
    )  # fmt: skip
    file = load_prompt_file(path)
    assert set(file.arrays) == {"z", "scale", "shift"} and file.metadata.settings == {"seed": 3}
    np.testing.assert_allclose(file.prompt("b"), by_hand(params, 1, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(file.take(["b"]).prompt(), file.prompt("b"), rtol=0)
