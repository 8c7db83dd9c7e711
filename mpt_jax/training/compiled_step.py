"""The jitted step, compiled ahead once for each shape of batch, so that its memory can be told."""

from typing import Any

import numpy as np

from mpt_jax.training.objectives import Batch, Metrics
from mpt_jax.training.step import TrainState, TrainStep


class CompiledStep:
    """Calls a step of `make_train_step`; state and frozen arrays are the same shapes in every call.

    Args:
        step: the jitted function.
    """

    def __init__(self, step: TrainStep):
        self._step: Any = step
        self._programs: dict[tuple[Any, ...], Any] = {}

    def __call__(self, state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        return self._program(state, frozen, batch)(state, frozen, batch)

    def prepare(self, state: TrainState, frozen: Any, batch: Batch) -> None:
        """Compiles the step for batches of this shape, if it is not, and runs nothing."""
        self._program(state, frozen, batch)

    def _program(self, state: TrainState, frozen: Any, batch: Batch) -> Any:
        shapes = tuple(sorted((name, np.shape(value)) for name, value in batch.items()))
        if shapes not in self._programs:
            self._programs[shapes] = self._step.lower(state, frozen, batch).compile()
        return self._programs[shapes]

    @property
    def peak_bytes(self) -> int | None:
        """Arguments, outputs and temporaries of the largest program on one device; None if unknown.

        Outputs that lie in donated arguments count once. The frozen backbone is an argument.
        """
        found = [stats for p in self._programs.values() if (stats := p.memory_analysis())]
        return max(
            (
                stats.argument_size_in_bytes + stats.output_size_in_bytes
                + stats.temp_size_in_bytes - stats.alias_size_in_bytes
                for stats in found
            ),
            default=None,
        )  # fmt: skip
