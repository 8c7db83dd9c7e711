import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods import similarity, spot

RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(20, 6)).astype(np.float32)


def plain_cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_cosines_equal_the_plain_formula():
    prompts = [RNG.normal(size=(4, 6)).astype(np.float32) for _ in range(3)]
    slots, means = similarity.cosine_of_slots(prompts), similarity.cosine_of_mean_slots(prompts)
    for i, a in enumerate(prompts):
        for j, b in enumerate(prompts):
            assert slots[i, j] == pytest.approx(plain_cosine(a.ravel(), b.ravel()), abs=1e-6)
            assert means[i, j] == pytest.approx(plain_cosine(a.mean(0), b.mean(0)), abs=1e-6)
    assert similarity.cosine(np.zeros((1, 6), np.float32), EMBEDDINGS).max() == 0
    with pytest.raises(ValueError, match="cosine_of_mean_slots"):
        similarity.cosine_of_slots([prompts[0], prompts[1][:2]])


def test_nearest_tokens_finds_scaled_embeddings():
    ids, cosines = similarity.nearest_tokens(EMBEDDINGS[[7, 3]] * np.float32(4), EMBEDDINGS, 3)
    assert ids.shape == (2, 3) and list(ids[:, 0]) == [7, 3]
    np.testing.assert_allclose(cosines[:, 0], 1, rtol=1e-5)
    assert np.all(np.diff(cosines, axis=1) <= 0)


def test_scale_ratio_and_its_warning():
    assert similarity.scale_ratio(3 * EMBEDDINGS, EMBEDDINGS) == pytest.approx(3, rel=1e-5)
    with pytest.warns(similarity.PromptScaleWarning, match="teacher is 20 times"):
        similarity.warn_about_scale(20 * EMBEDDINGS, EMBEDDINGS, "teacher")
    with pytest.warns(similarity.PromptScaleWarning):
        similarity.warn_about_scale(EMBEDDINGS / 20, EMBEDDINGS)


def test_spot_chooses_by_loss_score_or_similarity():
    values = {"mnli": 0.5, "qqp": 0.2, "sst2": 0.9, "qnli": 0.9}
    assert spot.best_source(values, higher_is_better=True) == "sst2"
    assert spot.best_source(values, higher_is_better=False) == "qqp"
    assert [n for n, _ in spot.rank_sources(values, higher_is_better=True)] == [
        "sst2",
        "qnli",
        "mnli",
        "qqp",
    ]
    target = EMBEDDINGS[:4]
    sources = {"other": EMBEDDINGS[4:10], "near": 2 * target + np.float32(0.01)}
    assert spot.most_similar_source(target, sources) == "near"
    expected = plain_cosine(target.mean(0), sources["other"].mean(0))
    assert spot.similarities(target, sources)["other"] == pytest.approx(expected, abs=1e-6)


def test_spot_refuses_nothing_and_nan():
    with pytest.raises(ValueError, match="No source"):
        spot.best_source({}, higher_is_better=True)
    with pytest.raises(ValueError, match=r"\['b'\].*not finite"):
        spot.best_source({"a": 1.0, "b": float("nan")}, higher_is_better=True)


def test_weights_by_similarity_are_in_proportion_and_never_negative():
    cosines = {"a": 0.6, "b": -0.3, "c": 0.2}
    assert spot.similarity_weights(cosines) == pytest.approx({"a": 0.75, "b": 0, "c": 0.25})
    with pytest.raises(UserError, match="one above 0"):
        spot.similarity_weights({"a": -0.1, "b": 0.0})
    with pytest.raises(ValueError, match="not finite"):
        spot.similarity_weights({"a": 0.5, "b": float("nan")})


def test_weights_by_trial_are_the_softmax_of_the_losses():
    losses = {"a": 2.0, "b": 0.5, "c": 1.25}
    likelihoods = np.exp([-2.0, -0.5, -1.25])
    expected = dict(zip(losses, likelihoods / likelihoods.sum(), strict=True))
    assert spot.trial_weights(losses) == pytest.approx(expected)
    assert spot.trial_weights({"a": 5000.0, "b": 4000.0}) == {"a": 0.0, "b": 1.0}
    with pytest.raises(ValueError, match="No source"):
        spot.trial_weights({})
