import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.methods.bank import Bank
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning

V, D = 30, 6
EMBEDDINGS = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)


def constant(rng, embeddings, length):
    return jnp.zeros((length, D), jnp.float32)


@pytest.fixture(scope="module")
def three_methods():
    """A bank of methods of different lengths and member numbers, and random parameters."""
    methods = (
        PromptTuning(name="teachers", members=3, tasks=1, length=5, width=D, lengths=(5, 2, 4)),
        MPT(members=2, tasks=3, length=4, width=D, rank=2),
        PromptTuning(members=1, tasks=2, length=3, width=D),
    )
    bank = Bank(methods, vocab_size=V)
    rng = np.random.default_rng(1)
    params = {}
    for method in methods:
        start = jax.eval_shape(lambda m=method: m.init(jax.random.key(0), constant, EMBEDDINGS))
        params[method.name] = {
            n: jnp.asarray(rng.normal(size=a.shape), jnp.float32) for n, a in start.items()
        }
    return bank, params


def read(bank, params, rows):
    """What a bank's reader gives for rows [B, T] counted from its first virtual id."""
    words = jnp.full((*rows.shape, D), 7.0)
    return bank.reader(params)(rows + V, words)


def whole_table(bank, params):
    full = [
        method.compose({n: a[m] for n, a in params[method.name].items()}, k)
        for method in bank.methods
        for m in range(method.members)
        for k in range(method.tasks)
    ]
    return jnp.concatenate(full)


def test_virtual_ids_are_disjoint_and_read_back_their_prompt(three_methods):
    bank, params = three_methods
    table = jax.jit(lambda: read(bank, params, jnp.arange(bank.size, dtype=jnp.int32)[None]))()[0]
    seen = set()
    for index, method in enumerate(bank.methods):
        for m in range(method.members):
            for k in range(method.tasks):
                ids = bank.virtual_ids(index, m, k)
                assert ids.dtype == np.int32 and len(ids) == method.member_length(m)
                assert ids.min() >= V and ids.max() < V + bank.size
                assert seen.isdisjoint(ids.tolist())
                seen.update(ids.tolist())
                got = np.asarray(table)[ids - V]
                expected = method.materialise(params[method.name], m, k)
                np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    assert bank.virtual_ids(0, 0)[0] == V
    assert bank.size == 3 * 5 + 2 * 3 * 4 + 2 * 3
    assert bank.virtual_ids(1, 0, 0)[0] == V + 15


def test_reader_and_gradient_equal_the_materialised_table(three_methods):
    bank, params = three_methods
    rng = np.random.default_rng(2)
    rows = jnp.asarray(rng.integers(0, bank.size, (4, 9)), jnp.int32)
    weights = jnp.asarray(rng.normal(size=(4, 9, D)), jnp.float32)

    def by_reader(params):
        return jnp.sum(weights * read(bank, params, rows) ** 2)

    def by_table(params):
        return jnp.sum(weights * whole_table(bank, params)[rows] ** 2)

    got, got_grad = jax.jit(jax.value_and_grad(by_reader))(params)
    expected, expected_grad = jax.jit(jax.value_and_grad(by_table))(params)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got_grad, expected_grad
    )


def test_a_prompt_gets_no_gradient_from_rows_of_others(three_methods):
    bank, params = three_methods
    rows = jnp.asarray(bank.virtual_ids(1, 1, 2) - V)[None]
    grads = jax.jit(jax.grad(lambda p: jnp.sum(read(bank, p, rows) ** 2)))(params)
    assert not np.any(grads["teachers"]["prompt"])
    assert not np.any(grads["prompt_tuning"]["prompt"])
    assert not np.any(grads["mpt"]["shared"][0])
    assert np.all(grads["mpt"]["shared"][1])
    assert not np.any(grads["mpt"]["u"][1, :2]) and np.all(grads["mpt"]["u"][1, 2])


def test_rows_outside_the_bank_are_zero(three_methods):
    bank, params = three_methods
    outside = jnp.asarray([[bank.size, bank.size + 100]], jnp.int32)
    assert not np.any(read(bank, params, outside))


def test_words_pass_as_they_are(three_methods):
    bank, params = three_methods
    ids = jnp.asarray([[V, 0, 4, V + bank.size - 1]], jnp.int32)
    words = jnp.asarray(np.random.default_rng(3).normal(size=(1, 4, D)), jnp.float32)
    got = bank.reader(params)(ids, words)
    np.testing.assert_array_equal(got[0, 1:3], words[0, 1:3])
    assert not np.any(np.isclose(got[0, [0, 3]], words[0, [0, 3]]))


def test_members_are_numbered_over_all_methods(three_methods):
    bank, _ = three_methods
    assert bank.members == 6
    assert [bank.member_id(1, 0), bank.member_id(1, 1), bank.member_id(2, 0)] == [3, 4, 5]
    assert [m.count() for m in bank.methods] == [30, 24 + 3 * 2 * 10, 36]


def test_banks_and_parameters_that_do_not_fit_are_refused():
    prompt = PromptTuning(members=1, tasks=1, length=3, width=D)
    with pytest.raises(ValueError, match="its own name"):
        Bank((prompt, prompt), V)
    with pytest.raises(ValueError, match="width"):
        Bank((prompt, MPT(members=1, tasks=1, length=3, width=D + 1)), V)
    with pytest.raises(ValueError, match="at least one method"):
        Bank((), V)
    bank = Bank((prompt,), V)
    with pytest.raises(ValueError, match=r"\['prompt_tuning'\].*\['mpt'\]"):
        bank.reader({"mpt": {}})
    with pytest.raises(ValueError, match="1 members"):
        bank.reader({"prompt_tuning": {"prompt": jnp.zeros((2, 1, 3, D))}})
    with pytest.raises(IndexError, match="task 1 of 1"):
        bank.virtual_ids(0, 0, 1)
    with pytest.raises(IndexError, match="member 1 of 1"):
        bank.virtual_ids(0, 1)
