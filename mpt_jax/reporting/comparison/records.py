"""What a comparison knows beside the scores: budgets, searches, costs, failures, transfer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mpt_jax.reporting.results import Score, restore_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One setting that the search tried.

    Attributes:
        factor_learning_rate: None for methods without factors.
        score: mean over the search's tasks, k's and seeds, each at its best step; None if a run diverged.
    """

    learning_rate: float
    factor_learning_rate: float | None
    score: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodRecord:
    """One method: what was chosen for it, and what it cost.

    Attributes:
        learning_rate, factor_learning_rate: the chosen ones.
        candidates: all that were tried.
        edges: rates whose best value is the smallest or largest that was tried.
        parameters: trained for a task. stored_bytes: of its files, for a task.
        members: trained side by side. rows: of a step, of all of them.
        steps: of training. timed_steps: of them, in the process whose times these are.
        seconds: of the program; compile_seconds and evaluate_seconds are parts of it.
        step_bytes: memory of the compiled step of all members; None where unknown.
        search_seconds: of the search's program.
    """

    name: str
    kind: str
    learning_rate: float
    factor_learning_rate: float | None
    candidates: list[Candidate]
    edges: list[str]
    parameters: int
    stored_bytes: int
    members: int
    rows: int
    steps: int
    timed_steps: int
    seconds: float
    compile_seconds: float
    evaluate_seconds: float
    step_bytes: int | None
    search_seconds: float

    @property
    def whole(self) -> bool:
        """Whether one process trained all steps, so that the times are of the whole training."""
        return self.timed_steps == self.steps

    @property
    def steps_per_second(self) -> float | None:
        """Without compiling and evaluating."""
        stepping = self.seconds - self.compile_seconds - self.evaluate_seconds
        return self.timed_steps / stepping if self.timed_steps and stepping > 0 else None


@dataclasses.dataclass(kw_only=True)
class Comparison:
    """Stands in `Results.comparison` as plain data.

    Attributes:
        budget: name -> value, for the reader; equal for all methods.
        methods: in the order in which they were named.
        failed: name of a method or run -> why it has no numbers.
        transfer: what a part of the source tasks is called -> scores of the method that starts there.
        transfer_method: which method that is.
    """

    budget: dict[str, Any] = dataclasses.field(default_factory=dict)
    methods: list[MethodRecord] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    transfer: dict[str, list[Score]] = dataclasses.field(default_factory=dict)
    transfer_method: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Comparison":
        """The inverse of `plain`."""
        methods = [
            MethodRecord(**{**m, "candidates": [Candidate(**c) for c in m["candidates"]]})
            for m in content["methods"]
        ]
        transfer = {
            name: [Score(**restore_numbers(s, "score", "metrics", "majorities")) for s in scores]
            for name, scores in content["transfer"].items()
        }
        return cls(**{**content, "methods": methods, "transfer": transfer})
