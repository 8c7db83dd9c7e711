"""Where the members of adapt start: each start by its name, from what earlier stages made.

A start is a function of (method, m, starting point) that gives member m's parameters. A method says
in `Method.starts` which it can do.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.arithmetic import combine
from mpt_jax.methods.prompt_file import PromptFile
from mpt_jax.methods.prompt_method import Initialiser
from mpt_jax.places import exists, join
from mpt_jax.run_directory import RECORD
from mpt_jax.stages import prompts
from mpt_jax.stages.backbone import Backbone
from mpt_jax.stages.source_choices import SIMILAR, WEIGHTED, Choice

FROM_DISTILLED = ("shared", "distilled")
FROM_TEACHERS = ("best_source", "sources", SIMILAR, WEIGHTED)


@dataclasses.dataclass(frozen=True)
class Point:
    """What a member may start from.

    Attributes:
        rng: of the member's seed.
        backbone: the frozen model. embeddings: its vocabulary table [V, D].
        initialiser: where prompts from scratch start.
        distilled: the distilled run's arrays for this variant and seed; none where it needs none.
        teachers: name -> prompt [P, D].
        best: name of the teacher with the lowest loss on the member's examples, likewise. similar: of
            the one most similar to a prompt trained on them. weights: of all teachers.
    """

    rng: Any
    backbone: Backbone
    embeddings: Any
    initialiser: Initialiser
    distilled: Mapping[str, np.ndarray]
    teachers: Mapping[str, np.ndarray]
    best: str
    similar: str
    weights: Mapping[str, float]


def _vocabulary(method: Any, m: int, point: Point) -> Any:
    return method.init_member(m, point.rng, point.initialiser, point.embeddings)


def _backbone(method: Any, m: int, point: Point) -> Any:
    del m
    return method.init_member(point.rng, point.backbone.params)


def _shared(method: Any, m: int, point: Point) -> Any:
    return method.start(m, point.rng, point.distilled["shared"])


def _distilled(method: Any, m: int, point: Point) -> Any:
    return method.start_from_average(m, point.distilled)


def _best_source(method: Any, m: int, point: Point) -> Any:
    return method.start(m, point.rng, point.teachers[point.best])


def _sources(method: Any, m: int, point: Point) -> Any:
    """All teachers stay beside a prompt that starts from the best (ATTEMPT starts from MNLI's)."""
    every = list(point.teachers.values())
    return method.start(m, point.rng, point.teachers[point.best], every)


def _similar_source(method: Any, m: int, point: Point) -> Any:
    return method.start(m, point.rng, point.teachers[point.similar])


def _weighted_sources(method: Any, m: int, point: Point) -> Any:
    taught = [point.teachers[name] for name in point.weights]
    return method.start(m, point.rng, combine(taught, list(point.weights.values())))


STARTS: Mapping[str, Callable[[Any, int, Point], Any]] = {
    "vocabulary": _vocabulary,
    "backbone": _backbone,
    "shared": _shared,
    "distilled": _distilled,
    "best_source": _best_source,
    "sources": _sources,
    SIMILAR: _similar_source,
    WEIGHTED: _weighted_sources,
}


class Sources:
    """What the variants start from, read and checked before anything is trained.

    Args:
        variants: with `start` and `source`.
        distilled: a run of distill, where a variant needs one.
        teachers: a run of teach, likewise.
        backbone: whose prompts they have to be.
    """

    def __init__(
        self,
        variants: Sequence[Any],
        distilled: str | None,
        teachers: str | None,
        backbone: Backbone,
    ):
        self.distilled: dict[str, list[PromptFile]] = {}
        self.teachers: dict[str, np.ndarray] = {}
        learned = [v for v in variants if v.start in FROM_DISTILLED]
        wanted = {v.source for v in learned}
        if wanted:
            files = prompts.load_run(_needed(distilled, "distilled", learned), backbone)
            # One file (or adapter) that is given by its own path is meant whatever it is called.
            alone = len(files) == len(wanted) == 1 and not exists(join(str(distilled), RECORD))
            for name, file in sorted(files.items(), key=lambda pair: (len(pair[0]), pair[0])):
                if "shared" in file.arrays:
                    variant = next(iter(wanted)) if alone else name.partition("/")[0]
                    self.distilled.setdefault(variant, []).append(file)
            for name in wanted - set(self.distilled):
                raise unknown_name(f"distilled variant in {distilled}", name, self.distilled)
        if taught := [variant for variant in variants if variant.start in FROM_TEACHERS]:
            files = prompts.load_run(_needed(teachers, "teachers", taught), backbone)
            self.teachers = {task: prompt for (_, task), prompt in prompts.finished(files).items()}

    def of_seed(self, name: str, seed: int) -> Mapping[str, np.ndarray]:
        """A distilled variant's arrays; seeds beyond those that were distilled wrap round."""
        files = self.distilled.get(name)
        return {} if files is None else files[seed % len(files)].arrays


def _needed(path: str | None, argument: str, variants: Sequence[Any]) -> str:
    if path is None:
        raise UserError(
            f"adapt.run.{argument} is not given, but the variants {[v.name for v in variants]} start "
            "from such a run. Give its directory, or leave those variants out."
        )
    return path


def point_of(
    variant: Any,
    seed: int,
    choice: Choice,
    sources: Sources,
    backbone: Backbone,
    embeddings: Any,
    initialiser: Initialiser,
    run_seed: int,
) -> Point:
    """What a member of that variant and seed may start from."""
    return Point(
        jax.random.fold_in(jax.random.key(run_seed), seed),
        backbone,
        jnp.asarray(embeddings),
        initialiser,
        sources.of_seed(variant.source, seed),
        sources.teachers,
        choice.best,
        choice.similar,
        choice.weights,
    )
