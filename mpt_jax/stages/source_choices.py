"""What each training set says of the teachers, for the starts that choose among them or weigh them.

By trial: each teacher's loss on the set's examples. By similarity: the cosine of each teacher's prompt
to one that an earlier run trained on the same examples.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mpt_jax.errors import UserError
from mpt_jax.methods.spot import best_source, similarities, similarity_weights, trial_weights
from mpt_jax.stages import prompts
from mpt_jax.stages.backbone import Backbone
from mpt_jax.stages.fleet import limit
from mpt_jax.stages.predict import Job, Predictor

SIMILAR, WEIGHTED = "similar_source", "weighted_sources"
TRAINED = "prompt_tuning"  # the variant whose prompts tell what a target task is like
MOST_EXAMPLES = 64  # of a training set's task, by which teachers are tried

Key = tuple[str, int | None, int]  # target task, k, seed


def set_name(key: Key) -> str:
    """`<task>/<k>/seed<seed>`, in the names of members."""
    target, k, seed = key
    return f"{target}/{'full' if k is None else f'k{k}'}/seed{seed}"


class TrainingSet(NamedTuple):
    """Examples by task, and the starts of the variants that train on them."""

    examples: Mapping[str, Any]
    starts: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a training set says of the teachers, as far as its variants ask.

    Attributes:
        best: name of the teacher with the lowest loss on the examples. similar: of the one most similar
            to the prompt that was trained on them. Empty where nobody asks.
        weights: name -> weight, which sum to 1.
    """

    best: str = ""
    similar: str = ""
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)


def trained_on_targets(
    path: str | None, keys: Sequence[Key], needed_by: Sequence[str], backbone: Backbone
) -> dict[Key, np.ndarray]:
    """The prompts [P, D] that an earlier run of adapt trained on the same training sets.

    Args:
        path: that run; None where there is none.
        keys: whose prompts are wanted.
        needed_by: names of variants that cannot do without.

    Raises:
        UserError: no such run though it is needed, it lacks a prompt, or has those of another backbone.
    """
    if path is None:
        if needed_by:
            raise UserError(
                f"adapt.run.target_prompts is not given, but the variants {list(needed_by)} start from the "
                "teacher most similar to a prompt trained on the target. Run `mpt adapt` with "
                f"METHOD={TRAINED!r} first and give its directory as TARGET_PROMPTS."
            )
        return {}
    if not keys:
        return {}
    found, trained, files = prompts.find(path), {}, {}
    for key in keys:
        name = f"{set_name(key)}/{TRAINED}"
        if name not in found:
            raise UserError(
                f"{path} holds no prompt {name}; it has {', '.join(list(found)[:5])}, .... "
                f"TARGET_PROMPTS has to be a run of `mpt adapt` with METHOD={TRAINED!r}, the same tasks, "
                "SHOTS and SEEDS."
            )
        files[name] = prompts.load_prompt(found[name], backbone)
        trained[key] = files[name].prompt(key[0])
    prompts.note_precisions(path, files.values(), backbone)
    return trained


def choices(
    sets: Mapping[Key, TrainingSet],
    teachers: Mapping[str, np.ndarray],
    targets: Mapping[Key, np.ndarray],
    backbone: Backbone,
    feature_lengths: Mapping[str, int],
) -> dict[Key, Choice]:
    """What each training set says of the teachers.

    Args:
        targets: of :func:`trained_on_targets`, for each task of the sets that ask for similarity.
    """
    by_similarity = {SIMILAR, WEIGHTED} if targets else set()
    tried = {key: one.examples for key, one in sets.items() if one.starts - by_similarity}
    losses = _losses(tried, teachers, backbone, feature_lengths)
    return {
        key: _choice(one.starts, losses.get(key), _cosines(key, one, teachers, targets))
        for key, one in sets.items()
    }


def _choice(
    starts: frozenset[str],
    losses: Mapping[str, float] | None,
    cosines: Mapping[str, float] | None,
) -> Choice:
    best = similar = ""
    weights: Mapping[str, float] = {}
    if losses is not None:
        best = best_source(losses, higher_is_better=False)
    if cosines is not None and SIMILAR in starts:
        similar = best_source(cosines, higher_is_better=True)
    if WEIGHTED in starts:
        weights = (
            similarity_weights(cosines) if cosines is not None else trial_weights(losses or {})
        )
    return Choice(best, similar, weights)


def _cosines(
    key: Key,
    one: TrainingSet,
    teachers: Mapping[str, np.ndarray],
    targets: Mapping[Key, np.ndarray],
) -> dict[str, float] | None:
    """Each teacher's similarity, the mean of the set's tasks; None where nobody asks."""
    if not targets or not one.starts & {SIMILAR, WEIGHTED}:
        return None
    found = [similarities(targets[task, key[1], key[2]], teachers) for task in one.examples]
    return {name: float(np.mean([values[name] for values in found])) for name in teachers}


def _losses(
    examples: Mapping[Key, Mapping[str, Any]],
    teachers: Mapping[str, np.ndarray],
    backbone: Backbone,
    feature_lengths: Mapping[str, int],
) -> dict[Key, dict[str, float]]:
    """Each teacher's loss on (at most `MOST_EXAMPLES` of each task of) training sets."""
    if not examples:
        return {}
    bank, params, ids = prompts.plain_bank(teachers, backbone.config.vocab_size)
    predictor = Predictor(backbone, bank, batch_size=256, feature_lengths=feature_lengths)
    triples = [
        (key, teacher, pair)
        for key, teacher in itertools.product(sorted(examples, key=str), teachers)
        for pair in examples[key].items()
    ]
    jobs = [
        Job(task, ids[teacher], limit(found, MOST_EXAMPLES))
        for _, teacher, (task, found) in triples
    ]
    sums: dict[Key, dict[str, list[float]]] = {}
    for (key, teacher, _), values in zip(triples, predictor.losses(params, jobs), strict=True):
        sums.setdefault(key, {}).setdefault(teacher, []).append(float(values.mean()))
    return {
        key: {teacher: float(np.mean(losses)) for teacher, losses in by_teacher.items()}
        for key, by_teacher in sums.items()
    }
