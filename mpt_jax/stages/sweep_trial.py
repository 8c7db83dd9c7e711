"""A trial of a sweep, as its ledger has it."""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mpt_jax.stages.sweep_space import Setting

WAITING, RUNNING, DONE, PRUNED, FAILED = "waiting", "running", "done", "pruned", "failed"
STATES = {  # Optuna's names
    "WAITING": WAITING, "RUNNING": RUNNING, "COMPLETE": DONE, "PRUNED": PRUNED, "FAIL": FAILED,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial as the ledger has it.

    Attributes:
        number: in the ledger.
        state: WAITING, RUNNING, DONE, PRUNED or FAILED.
        setting: None of one that a worker is just asking for.
        population: that it is trained in; "" before.
        worker: who trains it, or did.
        rows: {"task", "k", "seed", "score"} of each prompt on a target.
        kept: whether it was not pruned, where that is decided.
        source_score: mean over source tasks and seeds, on validation data.
        seconds: its share of its population's training.
        reason: why it failed.
        begun: when it was asked for, by its worker's clock.
        taken_from: the dead worker that had it before; "" if none had.
    """

    number: int
    state: str
    setting: Setting | None
    population: str
    worker: str
    rows: Sequence[Mapping[str, Any]]
    kept: bool
    source_score: float | None
    seconds: float
    reason: str
    begun: datetime.datetime | None
    taken_from: str = ""

    @property
    def name(self) -> str:
        """Of its variants in run directories."""
        return f"trial{self.number:04d}"

    @property
    def score(self) -> float:
        """Mean over target tasks, seeds and shots; nan without any."""
        scores = [row["score"] for row in self.rows]
        return sum(scores) / len(scores) if scores else math.nan


def trial_of(frozen: Any) -> Trial:
    """From Optuna's trial."""
    notes = frozen.user_attrs
    setting = notes.get("setting")
    return Trial(
        frozen.number, STATES[frozen.state.name], None if setting is None else Setting(**setting),
        notes.get("population", ""), notes.get("worker", ""), notes.get("rows", ()),
        notes.get("kept", False), notes.get("source_score"), notes.get("seconds", 0.0),
        notes.get("reason", ""), frozen.datetime_start, notes.get("taken_from", ""),
    )  # fmt: skip
