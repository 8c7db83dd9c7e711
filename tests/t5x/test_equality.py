"""T5X's network, loss, gradients, updates and decoding against mpt_jax's own, on the same numbers."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.models.beam_search import beam_decode
from mpt_jax.models.decoding import greedy_decode
from mpt_jax.training.objectives import TaskObjective
from mpt_jax.training.optimizers import Group, Optimizer, table_for
from mpt_jax.training.update_rules import AdamW

pytest.importorskip("t5x", reason="needs T5X from its repository (docs/t5x.md)")

import optax  # noqa: E402
from t5x import decoding  # noqa: E402

from mpt_jax.t5x.optimizer import prompt_optimizer  # noqa: E402

LENGTH = 9  # of what is decoded
versions = pytest.mark.parametrize("version", ["1.0", "1.1"])
methods = pytest.mark.parametrize("method", ["mpt", "prompt_tuning"])
layouts = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])


def prompts_of(params):
    return flax.core.unfreeze(params)["encoder"]["prompt"]


def assert_near(got, expected, relative=1e-5):
    """Every array to `relative` of its largest number."""
    assert set(got) == set(expected)
    for name, array in expected.items():
        bound = relative * np.abs(array).max()
        np.testing.assert_allclose(got[name], array, rtol=0, atol=bound, err_msg=name)


def our_gradient(pair, batch):
    objective = TaskObjective(pair.network, pair.bank)

    def loss(bank_params):
        losses, _ = objective(bank_params, pair.backbone, batch)
        return losses.sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(pair.bank_params)
    return value, {name: array[0] for name, array in gradient[pair.method.name].items()}


@versions
@methods
@layouts
def test_loss_and_gradient_of_the_prompt(version, method, packed, pair, batch_of, t5x_side):
    pair = pair(version, method)
    batch = batch_of(pair.bank, packed)
    with t5x_side():
        gradient_of = jax.jit(jax.value_and_grad(pair.model.loss_fn, has_aux=True))
        (loss, _), gradient = gradient_of(pair.params, batch, None)
    expected_loss, expected = our_gradient(pair, batch)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    assert_near(prompts_of(gradient), expected)
    assert all(np.abs(array).max() > 1e-4 for array in expected.values())


@methods
def test_three_adamw_steps(method, pair, batch_of, t5x_side):
    pair = pair("1.1", method)
    rates = {"shared": 0.3, "factors": 0.4, "prompt": 0.3}
    patterns = {
        "mpt": {"shared": "shared", "factors": "[uv]"},
        "prompt_tuning": {"prompt": "prompt"},
    }
    definition = prompt_optimizer(
        [
            (f"encoder/prompt/{pattern}", optax.adamw(rates[role], weight_decay=1e-2))
            for role, pattern in patterns[method].items()
        ],
        clip_norm=1.0,
    )
    rule = AdamW(weight_decay=1e-2)
    table = table_for(pair.bank.methods, {role: Group(r, rule) for role, r in rates.items()})
    ours = Optimizer(table, pair.bank_params, members={pair.method.name: 1}, clip_norm=1.0)
    bank_params, state = pair.bank_params, ours.init(pair.bank_params)
    objective = TaskObjective(pair.network, pair.bank)
    with t5x_side():
        theirs = definition.create(pair.params)
        their_gradient = jax.jit(jax.grad(pair.model.loss_fn, has_aux=True))
    our_gradient = jax.jit(
        jax.grad(lambda bank, batch: objective(bank, pair.backbone, batch)[0].sum())
    )
    for step in range(3):
        batch = batch_of(pair.bank, packed=step == 1, seed=step)
        with t5x_side():
            gradient, _ = their_gradient(theirs.target, batch, None)
            theirs = theirs.apply_gradient(gradient, learning_rate=0.0)
        mine, same = our_gradient(bank_params, batch)[pair.method.name], prompts_of(gradient)
        assert_near({name: array[0] for name, array in mine.items()}, same)
        # Both take the same gradient: what rounding, which differs from CPU to CPU, leaves between two grows
        # tenfold in each step, as Adam divides by a gradient's size.
        given = {pair.method.name: {name: array[None] for name, array in same.items()}}
        bank_params, state, _ = ours.update(given, state, bank_params, jnp.int32(step))
    expected = {name: array[0] for name, array in bank_params[pair.method.name].items()}
    assert_near(prompts_of(theirs.target), expected)
    moved = {name: array[0] for name, array in pair.bank_params[pair.method.name].items()}
    assert all(np.abs(expected[name] - moved[name]).max() > 0.1 for name in expected)
    for path, leaf in flax.traverse_util.flatten_dict(dict(pair.backbone), sep="/").items():
        after = flax.traverse_util.flatten_dict(flax.core.unfreeze(theirs.target), sep="/")[path]
        np.testing.assert_array_equal(after, leaf, err_msg=path)


def decoded(pair, batch, t5x_side, **settings):
    """The rows that T5X decodes, with nothing behind EOS."""
    with t5x_side():
        predict = jax.jit(lambda p, b: pair.model.predict_batch_with_aux(p, b, **settings)[0])
        rows = np.asarray(predict(pair.params, batch))
    ended = np.cumsum(rows == 1, axis=1) - (rows == 1)
    return np.where(ended > 0, 0, rows)


@versions
@methods
def test_greedy_decoding_gives_the_same_strings(version, method, pair, batch_of, t5x_side):
    pair = pair(version, method, decode_fn=decoding.temperature_sample)
    batch = to_decode(pair, batch_of)
    got = decoded(pair, batch, t5x_side, decoder_params={"temperature": 0.0})
    reader = pair.bank.reader(pair.bank_params)
    tokens = batch["encoder_input_tokens"]
    expected = greedy_decode(pair.network, pair.backbone, tokens, LENGTH, reader)
    np.testing.assert_array_equal(got, expected)
    assert len({tuple(row) for row in got.tolist()}) > 2


@versions
@methods
def test_beam_search_gives_the_same_strings(version, method, pair, batch_of, t5x_side):
    pair = pair(version, method, decode_fn=decoding.beam_search)
    batch = to_decode(pair, batch_of)
    got = decoded(pair, batch, t5x_side, decoder_params={"alpha": 0.6}, num_decodes=4)
    reader = pair.bank.reader(pair.bank_params)
    expected = beam_decode(
        pair.network,
        pair.backbone,
        batch["encoder_input_tokens"],
        LENGTH,
        reader,
        alpha=0.6,
        rules="t5x",
    )
    np.testing.assert_array_equal(got, expected)
    assert len({tuple(row) for row in got.tolist()}) > 2


def to_decode(pair, batch_of):
    batch = batch_of(pair.bank, packed=False)
    return batch | {"decoder_input_tokens": jnp.zeros((8, LENGTH), jnp.int32)}
