"""How a fleet is trained, whatever it is: the settings that teach, distill and adapt have in common."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh

from mpt_jax.data.sampler import PaperSampler, ProportionalSampler, Sampler
from mpt_jax.errors import UserError
from mpt_jax.training.optimizers import Group
from mpt_jax.training.schedules import Schedule, WarmupLinear
from mpt_jax.training.update_rules import AdamW, Rule

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "proportional": ProportionalSampler,
    "paper": PaperSampler,
}


@dataclasses.dataclass(frozen=True)
class Training:
    """How a fleet is trained, whatever it is.

    Attributes:
        steps: TRAIN_STEPS.
        rows_per_member: batch rows of each member; BATCH_SIZE for a fleet of one.
        rule: the update rule (AdamW, Adafactor as in Lester et al. 2021, SGD).
        schedule: of the learning rate over the run.
        clip_norm: largest norm of a member's gradient.
        accumulate: parts into which a batch is cut to save memory.
        eval_period: steps between evaluations on validation data; 0 for none but the last.
        validation_examples: at most so many of each task are used for that.
        checkpoint_period: steps between checkpoints.
        keep: checkpoints kept, the best besides.
        log_period: steps between rows of metrics.
        sampler: "proportional" (every step has every task) or "paper" (a random number of tasks).
        grouped: whether batches are of like length; saves padding where lengths differ widely.
        packed_lengths: (encoder, decoder) positions of packed rows; None pads to length buckets.
        seed: of the order of examples and everything else that is drawn.
        eval_batch_size: rows of an evaluation batch.
        tolerate_divergence: members whose loss is no longer finite do not end the run.
    """

    steps: int
    rows_per_member: int
    rule: Rule = dataclasses.field(default_factory=AdamW)
    schedule: Schedule = dataclasses.field(default_factory=WarmupLinear)
    clip_norm: float | None = 1.0
    accumulate: int = 1
    eval_period: int = 0
    validation_examples: int = 64
    checkpoint_period: int = 0
    keep: int = 2
    log_period: int = 10
    sampler: str = "proportional"
    grouped: bool = False
    packed_lengths: tuple[int, int] | None = None
    seed: int = 0
    eval_batch_size: int = 256
    tolerate_divergence: bool = False

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler: got {self.sampler!r}, expected one of {sorted(SAMPLERS)}.")

    def group(self, learning_rate: float | np.ndarray | None) -> Group:
        return Group(learning_rate, self.rule, self.schedule)

    def mesh_of_members(self, mesh: Mesh) -> Mesh | None:
        """What a bank is given as its mesh: packed rows do not lie member by member."""
        return mesh if self.packed_lengths is None else None
