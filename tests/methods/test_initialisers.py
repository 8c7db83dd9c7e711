import functools

import jax
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods import initialisers
from mpt_jax.methods.similarity import PromptScaleWarning

KEY = jax.random.key(0)
EMBEDDINGS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def rows_of(prompt):
    """The vocabulary ids whose embeddings the slots are."""
    distance = np.abs(np.asarray(prompt)[:, None] - EMBEDDINGS[None]).sum(axis=2)
    assert distance.min(axis=1).max() == 0
    return distance.argmin(axis=1)


def test_sampled_vocabulary_draws_ordinary_ids_once_each():
    ids = rows_of(initialisers.sampled_vocabulary(KEY, EMBEDDINGS, 17, first=20))
    assert sorted(ids) == list(range(3, 20))
    other = rows_of(initialisers.sampled_vocabulary(jax.random.key(1), EMBEDDINGS, 17, first=20))
    assert list(ids) != list(other)
    long = rows_of(initialisers.sampled_vocabulary(KEY, EMBEDDINGS, 60))
    assert len(long) == 60 and long.min() >= 3
    with pytest.raises(UserError, match="special"):
        initialisers.sampled_vocabulary(KEY, EMBEDDINGS[:3], 2)


def test_text_is_repeated_and_cut():
    text = functools.partial(initialisers.text, token_ids=[7, 8, 9])
    assert list(rows_of(text(KEY, EMBEDDINGS, 5))) == [7, 8, 9, 7, 8]
    assert list(rows_of(text(KEY, EMBEDDINGS, 2))) == [7, 8]
    with pytest.raises(UserError, match="no tokens"):
        initialisers.text(KEY, EMBEDDINGS, 2, token_ids=[])
    with pytest.raises(UserError, match="50 rows"):
        initialisers.text(KEY, EMBEDDINGS, 2, token_ids=[3, 50])


def test_class_labels_come_first():
    labels = [[5], [6, 8]]
    prompt = initialisers.class_labels(KEY, EMBEDDINGS, 4, labels=labels)
    np.testing.assert_allclose(prompt[0], EMBEDDINGS[5])
    np.testing.assert_allclose(prompt[1], (EMBEDDINGS[6] + EMBEDDINGS[8]) / 2, rtol=1e-6)
    assert rows_of(prompt[2:]).min() >= 3
    assert initialisers.class_labels(KEY, EMBEDDINGS, 1, labels=labels).shape == (1, 4)
    with pytest.raises(UserError, match="No class labels"):
        initialisers.class_labels(KEY, EMBEDDINGS, 4, labels=[])


def test_uniform_fills_its_range():
    prompt = np.asarray(initialisers.uniform(KEY, EMBEDDINGS, 500))
    assert prompt.shape == (500, 4) and prompt.dtype == np.float32
    assert -0.5 <= prompt.min() < -0.45 and 0.45 < prompt.max() <= 0.5


def test_from_npy_file_with_and_without_ending(tmp_path):
    stored = EMBEDDINGS[:3]
    np.save(tmp_path / "prompt.npy", stored)
    for name in ("prompt", "prompt.npy"):
        assert np.array_equal(
            initialisers.from_file(KEY, EMBEDDINGS, 3, path=tmp_path / name), stored
        )
    with pytest.raises(UserError, match=r"\(3, 4\), expected \(5, 4\)"):
        initialisers.from_file(KEY, EMBEDDINGS, 5, path=tmp_path / "prompt")
    with pytest.raises(UserError, match=r"absent or .*absent\.npy"):
        initialisers.from_file(KEY, EMBEDDINGS, 3, path=tmp_path / "absent")
    np.save(tmp_path / "flat.npy", stored.reshape(-1))
    with pytest.raises(UserError, match=r"\(12,\), expected \[length, width\]"):
        initialisers.from_file(KEY, EMBEDDINGS, 3, path=tmp_path / "flat.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "prompt.npy").read_bytes()[:-8])
    with pytest.raises(UserError, match="whole .npy"):
        initialisers.from_file(KEY, EMBEDDINGS, 3, path=tmp_path / "cut.npy")


@pytest.mark.parametrize("scale, warns", [(300.0, True), (1e-3, True), (2.0, False), (0.2, False)])
def test_a_far_scale_warns(scale, warns, recwarn):
    bound = scale * 3**0.5  # rms of uniform numbers is bound / sqrt(3)
    if warns:
        with pytest.warns(PromptScaleWarning, match="times that of the backbone's embeddings"):
            initialisers.uniform(KEY, EMBEDDINGS, 100, bound=bound)
    else:
        initialisers.uniform(KEY, EMBEDDINGS, 100, bound=bound)
        assert not recwarn.list
