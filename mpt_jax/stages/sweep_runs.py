"""The runs of `mpt sweep`, each a command line of `mpt` in a folder of its own.

MODEL_DIR/teachers/p<P>                    one run for all settings of a prompt length
MODEL_DIR/populations/<name>/distill       a population's settings x seeds in one program
MODEL_DIR/populations/<name>/adapt         from each of them, on all target tasks
MODEL_DIR/populations/<name>/adapt_first   before it, the first seed alone, where settings are pruned
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt_jax.stages.command_runs import Run, fields, texts
from mpt_jax.stages.sweep_setup import Setup
from mpt_jax.stages.sweep_space import Settings
from mpt_jax.stages.sweep_trial import Trial


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which runs there are.

    Attributes:
        setup, settings: the sweep.
        root: MODEL_DIR.
        sources, targets: the tasks.
    """

    setup: Setup
    settings: Settings
    root: Path
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def teach(self, prompt_length: int) -> Run:
        """The teachers of all source tasks: a teacher does not depend on those beside it."""
        setup, name = self.setup, f"teachers/p{prompt_length}"
        settings = {
            "MIXTURE_OR_TASK_NAME": setup.sources, "PROMPT_LENGTH": prompt_length,
            "TEACH_STEPS": setup.teach_steps, "TEACH_BATCH_SIZE": setup.teach_rows,
            "EVAL_PERIOD": setup.source_eval_period,
        }  # fmt: skip
        return Run(
            "teach", name, self.root / name, texts(settings), (), self.sources, len(self.sources),
            len(self.sources) * setup.teach_rows, setup.teach_steps,
        )  # fmt: skip

    def distill(self, trials: Sequence[Trial]) -> Run:
        """All settings of a population, each with all seeds."""
        setup, members = self.setup, len(trials) * self.setup.num_seeds
        prompt_length, sampler = _common(trials)
        teach = self.teach(prompt_length)
        settings = {
            "MIXTURE_OR_TASK_NAME": setup.sources, "PROMPT_LENGTH": prompt_length, "RANK": 1,
            "TEACHER_DIR": teach.place, "DISTILL_STEPS": setup.distill_steps,
            "DISTILL_BATCH_SIZE": setup.distill_rows, "EVAL_PERIOD": setup.source_eval_period,
            "DISTILL_SAMPLER": sampler, "distill.run.num_seeds": setup.num_seeds,
        }  # fmt: skip
        variants = {
            trial.name: trial.setting.distilled(trial.name, self.settings.mixtures)
            for trial in trials
            if trial.setting is not None
        }
        name = f"{_folder(trials)}/distill"
        return Run(
            "distill", name, self.root / name,
            {**texts(settings), **_variants("distill", variants)}, (teach,), self.sources, members,
            members * setup.distill_rows, setup.distill_steps,
        )  # fmt: skip

    def adapt(
        self, population: Sequence[Trial], left: Sequence[Trial], seeds: Sequence[int], kind: str = "adapt"
    ) -> Run:  # fmt: skip
        """Those of a population that are left, on all target tasks.

        Args:
            seeds: of the draws, and of the distilled prompts that are started from.
            kind: "adapt", or "adapt_first" where it is still to be decided who is kept.
        """
        setup, distill = self.setup, self.distill(population)
        members = len(left) * len(seeds) * len(setup.shots) * len(self.targets)
        settings = {
            "TARGET_MIXTURE_OR_TASK_NAME": setup.targets, "PROMPT_LENGTH": _common(population)[0],
            "RANK": 1, "SOURCE_DIR": distill.place, "ADAPT_STEPS": setup.steps,
            "ADAPT_BATCH_SIZE": setup.rows, "EVAL_PERIOD": setup.eval_period, "METHOD": None,
            "SHOTS": setup.shots, "SEEDS": tuple(seeds), "PER_CLASS": setup.per_class,
        }  # fmt: skip
        variants = {t.name: t.setting.adapted(t.name) for t in left if t.setting is not None}
        name = f"{_folder(population)}/{kind}"
        return Run(
            "adapt", name, self.root / name, {**texts(settings), **_variants("adapt", variants)},
            (distill,), self.targets, members, members * setup.rows, setup.steps,
        )  # fmt: skip


def _common(trials: Sequence[Trial]) -> tuple[Any, ...]:
    """What the settings of a population have in common."""
    return next(trial.setting.compiled for trial in trials if trial.setting is not None)


def _folder(population: Sequence[Trial]) -> str:
    return f"populations/{population[0].population}"


def _variants(stage: str, variants: Mapping[str, Any]) -> dict[str, str]:
    """Gin settings that give a stage these variants."""
    settings: dict[str, Any] = {}
    for name, variant in variants.items():
        settings |= fields(f"{name}/{stage}.Variant", variant)
    listed = "".join(f"@{name}/{stage}.Variant(), " for name in variants)
    return {**texts(settings), f"{stage}.run.variants": f"({listed})"}
