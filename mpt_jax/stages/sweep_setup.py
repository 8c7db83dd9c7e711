"""What `mpt sweep` trains for each setting, and how it goes through the space."""

import dataclasses
from typing import Any

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.stages.sweep_space import Space

SAMPLERS = ("grid", "random", "tpe")


@dataclasses.dataclass(frozen=True)
class Setup:
    """A sweep.

    Attributes:
        space: its settings.
        sources, targets: seqio tasks or mixtures.
        teach_steps, distill_steps, steps: of teachers, shared prompts, and on targets.
        teach_rows, distill_rows: rows of each teacher, and of each shared prompt, in a step.
        rows: of each target task in a step.
        source_eval_period, eval_period: steps between evaluations.
        validation_examples: at most so many of a task are scored.
        num_seeds: every setting is distilled from so many starts, and adapted with as many draws.
        shots, per_class: as of adapt.
        sampler: "grid" (every setting), "random" or "tpe".
        trials: how many settings those two draw.
        population: settings that train side by side, at most.
        keep: share of the settings that are adapted with all seeds; the others are pruned by their score
            with the first seed, which all have. 1 prunes nothing.
        sampler_seed: of "random" and "tpe"; each worker draws with its own.
    """

    space: Space
    sources: str
    targets: str
    teach_steps: int
    distill_steps: int
    steps: int
    teach_rows: int
    distill_rows: int
    rows: int
    source_eval_period: int
    eval_period: int
    validation_examples: int
    num_seeds: int = 3
    shots: tuple[int | None, ...] = (16,)
    per_class: tuple[str, ...] = ()
    sampler: str = "grid"
    trials: int | None = None
    population: int = 16
    keep: float = 1.0
    sampler_seed: int = 0

    def check(self) -> None:
        """Checks what can be checked without data.

        Raises:
            UserError: an unknown sampler, a number that is too small, or pruning that has nothing to
                save.
        """
        if self.sampler not in SAMPLERS:
            raise unknown_name("sampler of the sweep", self.sampler, SAMPLERS)
        if not 0 < self.keep <= 1:
            raise UserError(f"KEEP is {self.keep}, expected a share above 0 and up to 1.")
        if self.sampler != "grid" and self.trials is None:
            raise UserError(
                f"the sampler {self.sampler} draws settings without end: give TRIALS, how many."
            )
        for name in ("population", "num_seeds", "trials"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} of the sweep is {value}, expected at least 1.")
        if self.keep < 1 and self.num_seeds < 2:
            raise UserError(
                "settings are pruned by their score with the first seed, which saves the others: with one "
                "seed there is nothing to save. Give SWEEP_SEEDS of 2 or more, or KEEP = 1."
            )

    @property
    def told(self) -> dict[str, Any]:
        """What all trials of one ledger have in common, as JSON."""
        mine = dataclasses.asdict(self)
        for name in ("space", "population", "trials", "sampler_seed"):
            del mine[name]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in mine.items()}
