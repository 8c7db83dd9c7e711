"""The teachers' pass over examples that are to be recorded: each once, in batches of few shapes."""

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType

import jax
import numpy as np
from jaxtyping import Int

from mpt_jax.data.buckets import choose_buckets
from mpt_jax.data.evaluation import EvaluationBatch, evaluation_batches
from mpt_jax.data.recorded import Fields, Record
from mpt_jax.data.sampler import ProportionalSampler
from mpt_jax.data.streams import Stream, Streams
from mpt_jax.errors import Stopped
from mpt_jax.partitioning import fetch, process_data_shard, shard_batch
from mpt_jax.stages.backbone import Backbone
from mpt_jax.stages.predict import rows_for
from mpt_jax.training.distillation import TEACHER_TOKENS, DistillationObjective
from mpt_jax.training.progress import TrainingProgress
from mpt_jax.training.signals import stop_on_signal

_LOOK_AROUND = 8  # batches between looks at whether another process is to stop


class TeacherRuns:
    """Runs the teachers; a context manager with one progress bar for all streams.

    Args:
        backbone: the frozen model.
        objective: with the teachers' parameters.
        streams: one for each task, with the virtual ids of its teacher.
        batch_size: rows of a batch at most, over all devices.
    """

    def __init__(
        self, backbone: Backbone, objective: DistillationObjective, streams: Sequence[Stream],
        batch_size: int,
    ):  # fmt: skip
        self._mesh = backbone.mesh
        self._states = jax.jit(objective.teacher_states)
        self._frozen = objective.frozen(backbone.params)
        devices = self._mesh.shape["data"]
        most = -(-batch_size // devices) * devices
        self._rows = rows_for(max(map(len, streams)), most, devices)
        together = Streams(streams)
        # Shapes for all of them, so that a second task compiles nothing.
        sampler = ProportionalSampler(together, self._rows)
        self._buckets = choose_buckets(together, sampler, grouped=True)
        self._done, self._batches = 0, 0
        self._stack = contextlib.ExitStack()
        self._bar = TrainingProgress("teacher cache, examples", sum(map(len, streams)))

    def __enter__(self) -> "TeacherRuns":
        self._stop = self._stack.enter_context(stop_on_signal())
        self._stack.enter_context(self._bar)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def records(
        self, stream: Stream, fields: Fields, lengths: Int[np.ndarray, "N 2"]
    ) -> Iterator[tuple[int, Record]]:
        """(example, its states) of all examples, by length. All processes must read it to its end.

        Args:
            lengths: encoder (prompt included) and decoder positions of every example.

        Raises:
            Stopped: by a signal.
        """
        index, count = process_data_shard(self._mesh)
        for batch in evaluation_batches(
            Streams([stream]), self._rows, self._buckets, process_index=index, process_count=count
        ):
            examples, states = self._run(batch)
            real = np.flatnonzero(examples >= 0)
            for row, example in zip(real.tolist(), examples[real].tolist(), strict=True):
                yield (
                    example,
                    {
                        key: states[key][row, : field.positions(lengths[example])]
                        for key, field in fields.items()
                    },
                )
            self._done += len(real)
            self._batches += 1
            self._bar.update(self._done, stream.name)
            if self._stop.agreed(self._batches, _LOOK_AROUND):
                raise Stopped(
                    f"{self._stop.name} while the teacher cache was filled, at {stream.name}; the same "
                    "command goes on with that task"
                )

    def _run(self, batch: EvaluationBatch) -> tuple[Int[np.ndarray, " B"], Record]:
        """Which examples all rows are (-1 for none), of all processes, and their states."""
        arrays = shard_batch(
            self._mesh,
            {
                TEACHER_TOKENS: batch.batch["encoder_input_tokens"],
                "decoder_input_tokens": batch.batch["decoder_input_tokens"],
                "examples": batch.rows[:, 1].astype(np.int32),
            },
        )
        examples = fetch(arrays.pop("examples"))
        return examples, fetch(self._states(self._frozen, arrays))
