"""Made-up records of a plausible run."""

import numpy as np
import pytest

from mpt_jax.reporting.results import Ceiling, Curve, Results, Score, Similarity

SOURCES = {
    "inflect_plural": (0.01, 0.91),
    "inflect_third_person": (0.01, 0.93),
    "inflect_gerund": (0.01, 0.86),
    "inflect_comparative": (0.02, 0.84),
    "lemma_of_plural": (0.01, 0.9),
    "derive_er": (0.01, 0.74),
    "classify_part_of_speech": (0.25, 0.62),
    "classify_language_a": (0.17, 0.55),
}
TARGETS = {
    "inflect_past": (0.01, 0.72),
    "lemma_of_past": (0.01, 0.61),
    "inflect_superlative": (0.02, 0.78),
    "derive_ness": (0.01, 0.35),
    "classify_language_b": (0.2, 0.48),
}
# start of the curve, gain at the end over scratch, speed
METHODS = {
    "prompt_tuning": (0.0, 0.0, 30.0),
    "shared_prompt": (0.02, 0.05, 18.0),
    "spot": (0.15, 0.06, 15.0),
    "mpt_no_distillation": (0.01, 0.03, 20.0),
    "mpt": (0.02, 0.055, 17.0),
}
STEPS = [0, 10, 20, 30, 40, 60, 80, 100, 120]


def make_score(stage, task, method, score, *, k=None, seed=0, majority=0.01, **others):
    fields = dict(
        stage=stage, task=task, method=method, k=k, seed=seed, split="test", num_examples=500,
        metric="accuracy" if task.startswith("classify") else "exact_match", score=float(score),
        majority=majority, train_examples=k or 2000, steps=120, best_step=100, parameters=1536,
    )  # fmt: skip
    return Score(**{**fields, **others})


def make_results(methods=tuple(METHODS), ks=(16, 64), seeds=(0, 1, 2), curves=True) -> Results:
    rng = np.random.default_rng(7)
    results = Results(
        id="0123456789ab",
        backbone={"name": "embedded", "fingerprint": "00ff00ff00ff00ff", "parameters": 3_100_000},
        environment={"versions": {"jax": "0.10.2", "numpy": "2.1"}, "devices": "2 x CPU"},
        seconds={"teach": 71.2, "distill": 64.0, "adapt": 140.5},
    )
    for task, (majority, top) in SOURCES.items():
        for stage, method, loss in (
            ("teach", "prompt_tuning", 0.0),
            ("distill", "mpt_no_distillation", 0.05),
            ("distill", "mpt", 0.02),
        ):
            final = top - loss + rng.normal(0, 0.015)
            results.scores.append(make_score(stage, task, method, final, majority=majority))
            if curves:
                values = final * (1 - np.exp(-np.array(STEPS) / 25)) + rng.normal(0, 0.01, 9)
                results.curves.append(
                    Curve(stage=stage, task=task, method=method, k=None, seed=0,
                          split="validation", steps=STEPS, scores=[float(v) for v in values])
                )  # fmt: skip
    for task, (majority, top) in TARGETS.items():
        for k in ks:
            for seed in seeds:
                luck = rng.normal(0, 0.02)
                for method in methods:
                    start, gain, tau = METHODS[method]
                    end = top + luck + gain * (1 if k == 16 else 0.3) - (0.12 if k == 16 else 0)
                    end += rng.normal(0, 0.015)
                    rise = 1 - np.exp(-np.array(STEPS) / tau)
                    values = np.clip(start + (end - start) * rise + rng.normal(0, 0.01, 9), 0, 1)
                    results.scores.append(
                        make_score("adapt", task, method, end, k=k, seed=seed, majority=majority)
                    )
                    if curves:
                        results.curves.append(
                            Curve(stage="adapt", task=task, method=method, k=k, seed=seed,
                                  split="validation", steps=STEPS,
                                  scores=[float(v) for v in values])
                        )  # fmt: skip
    factors = rng.normal(size=(len(SOURCES), 6)) + np.repeat(np.eye(4, 6) * 3, 2, axis=0)
    factors = factors[rng.permutation(len(SOURCES))]
    unit = factors / np.linalg.norm(factors, axis=1)[:, None]
    results.similarities.append(
        Similarity(what="distilled prompts of the source tasks", tasks=list(SOURCES),
                   cosine=[[float(x) for x in row] for row in unit @ unit.T])
    )  # fmt: skip
    for task, value in (("classify_part_of_speech", 0.722), ("classify_language_a", 0.974),
                        ("classify_language_b", 0.998)):  # fmt: skip
        results.ceilings.append(
            Ceiling(task=task, name="naive Bayes, full data", score=value, num_train=1500)
        )
    return results


@pytest.fixture
def results() -> Results:
    return make_results()


@pytest.fixture(scope="session")
def results_with():
    """`results_with(methods=..., ks=..., seeds=..., curves=...)`: a smaller run."""
    return make_results


@pytest.fixture(scope="session")
def score():
    """`score(stage, task, method, score, ...)`: one record with defaults for the rest."""
    return make_score
