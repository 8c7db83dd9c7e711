"""Naive Bayes against a computation by hand, and on endings that only the boundary tells."""

import math

import pytest

from mpt_jax.reporting.naive_bayes import CharacterNaiveBayes, naive_bayes_ceiling


def test_probabilities_by_hand():
    model = CharacterNaiveBayes(orders=(1,)).fit(["aab", "b"], ["x", "y"])
    # Symbols: start, end, a, b. Class x has counts 1, 1, 2, 1 and y 1, 1, 0, 1, each with one more.
    x, y = model._log_joint("a")
    assert x == pytest.approx(math.log(0.5 * (2 / 9) * (2 / 9) * (3 / 9)))
    assert y == pytest.approx(math.log(0.5 * (2 / 7) * (2 / 7) * (1 / 7)))
    assert model.predict(["a", "b"]) == ["x", "y"]


def test_prior_decides_where_the_text_is_unknown():
    model = CharacterNaiveBayes(orders=(1,)).fit(["q", "q", "q"], ["rare", "often", "often"])
    assert model.predict(["zzz"]) == ["often"]


def test_sees_boundaries():
    train = [("quickly", "adverb"), ("slowly", "adverb"), ("lying", "verb"), ("lyric", "verb")]
    test = [("badly", "adverb"), ("lyoin", "verb")]
    ceiling = naive_bayes_ceiling("pos", train, test)
    assert (ceiling.score, ceiling.num_train) == (1.0, 4)


def test_wrong_use():
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        CharacterNaiveBayes().fit(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="fit"):
        CharacterNaiveBayes().predict(["a"])
    with pytest.raises(ValueError, match="above 0"):
        CharacterNaiveBayes(smoothing=0.0)
