"""The teachers' states of all training examples, kept on disk, so that the steps of distill run no teacher.

    mpt distill ... --gin.TEACHER_CACHE="'runs/teacher_cache'"

One recorded store for each task, `<task>-train-<hash>`. The hash is of all that the states depend on: the
network and its weights as they lie, the teacher's prompt, the examples, which states. So the variants of a
run, later runs, the populations of a sweep and its workers share a cache; what was made from anything else
has another name, and is left alone. A store appears whole: after a kill, filling goes on with the task that
it was at.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int
from rich.filesize import decimal

from mpt_jax.data.examples import Examples
from mpt_jax.data.recorded import (
    FORMAT_VERSION,
    Fields,
    Record,
    RecordedStore,
    total_bytes,
    write_recorded,
)
from mpt_jax.data.shared_stores import fetch_store, is_published, publish_store
from mpt_jax.data.streams import Stream
from mpt_jax.errors import UserError
from mpt_jax.places import cache_folder, is_address
from mpt_jax.scratch_folders import remove_abandoned
from mpt_jax.stages.backbone import Backbone
from mpt_jax.stages.teacher_runs import TeacherRuns
from mpt_jax.training.distillation import DistillationObjective

_ONLY_HOW = ("remat", "scan_layers", "attention")  # of T5Config: they change no number


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is kept of one task.

    Attributes:
        task: its name.
        number: of its teacher in the bank.
        examples: N.
        lengths: positions of each on both sides, the prompt included.
        made_from: all that the states depend on, as JSON; none while there is no teacher yet.
        bytes: of all states.
    """

    task: str
    number: int
    examples: Examples
    lengths: Int[np.ndarray, "N 2"]
    made_from: Mapping[str, Any]
    bytes: int

    @property
    def name(self) -> str:
        key = hashlib.sha256(json.dumps(self.made_from, sort_keys=True).encode()).hexdigest()[:16]
        readable = re.sub(r"[^\w.-]", "_", self.task)
        return f"{readable}-train-{key}"


class TeacherCache:
    """The stores of a run's tasks: described first, filled and opened later.

    Args:
        root: TEACHER_CACHE. At an address stores are shared by all hosts, each of which has a copy in its
            own cache.
        fields: what is recorded; none where no variant is compared with a teacher.
        backbone: the frozen model.
        prompt_length: P of all teachers.
        examples: what is trained on, by task.
        prompts: the teachers of all tasks of the run, in the order of their bank; none while they are
            still to be made (a dry run).

    Raises:
        UserError: it is a file, or its disk has too little room.
    """

    def __init__(
        self, root: str, fields: Fields, backbone: Backbone, prompt_length: int,
        examples: Mapping[str, Examples], prompts: Mapping[str, np.ndarray],
    ):  # fmt: skip
        self._root, self._fields, self._backbone = root, fields, backbone
        self._shared = root if is_address(root) else None
        self._folder = Path(root) if self._shared is None else cache_folder() / "teacher_cache"
        numbers = {task: number for number, task in enumerate(prompts)}
        self._entries = [
            self._entry(task, numbers.get(task, -1), prompt_length, own, prompts.get(task))
            for task, own in (examples.items() if fields else ())
        ]
        self._missing = [entry for entry in self._entries if not self._is_there(entry)]
        if self._folder.exists() and not self._folder.is_dir():
            raise UserError(f"TEACHER_CACHE {root} is a file; give a folder.")
        self._check_room()

    def described(self, rows: int) -> str:
        """A line for people.

        Args:
            rows: that the steps of the run have, each a pass of the teacher without the cache.
        """
        if not self._entries:
            return "teacher cache: not needed, no variant is compared with the teachers"
        missing = _examples(self._missing)
        text = (
            f"teacher cache {self._root}: {_examples(self._entries):,} examples of "
            f"{len(self._entries)} tasks, {decimal(_bytes(self._entries))}"
        )
        if not missing:
            return f"{text}, all there; saves the teachers' pass of all {rows:,} rows of the steps"
        text += f"; {missing:,} of them ({decimal(_bytes(self._missing))}) are to be filled: "
        if missing < rows:
            return f"{text}{1 - missing / rows:.0%} of the teachers' {rows:,} passes saved"
        return (
            f"{text}more passes of the teachers than the {rows:,} of the steps, which pays only if "
            "other runs use them too"
        )

    def filled(self, objective: DistillationObjective, batch_size: int) -> dict[str, RecordedStore]:
        """The stores by task; those that are missing are filled first. All processes call it together.

        Args:
            objective: with the teachers' parameters.
            batch_size: rows of a batch at most.

        Raises:
            UserError: a store is damaged, cannot be written, or is not seen by a process that is not the
                first one, which wrote it.
            Stopped: by a signal; the tasks that are done stay.
        """
        if missing := self._agreed():
            self._fill(missing, objective, batch_size)
        if self._shared is not None and jax.process_index() == 0:
            for entry in self._entries:
                publish_store(self._open(entry), self._shared)
        multihost_utils.sync_global_devices("the teacher cache is filled")
        return {
            entry.task: RecordedStore(self._open(entry), self._fields, entry.lengths)
            for entry in self._entries
        }

    def _entry(
        self, task: str, number: int, prompt_length: int, examples: Examples,
        prompt: np.ndarray | None,
    ) -> Entry:  # fmt: skip
        lengths = examples.lengths().astype(np.int64) + (prompt_length, 0)
        made_from: dict[str, Any] = {}
        if prompt is not None:
            config = dataclasses.asdict(self._backbone.config)
            made_from = {
                "format_version": FORMAT_VERSION,
                "backbone": self._backbone.fingerprint,
                "placed": self._backbone.placed,
                "network": {name: v for name, v in config.items() if name not in _ONLY_HOW},
                "prompt": hashlib.sha256(prompt.astype("<f4").tobytes()).hexdigest()[:16],
                "examples": examples.key,
                "states": {key: [f.side, *f.shape] for key, f in self._fields.items()},
            }
        return Entry(task, number, examples, lengths, made_from, total_bytes(self._fields, lengths))

    def _is_there(self, entry: Entry) -> bool:
        if not entry.made_from:
            return False
        if (self._folder / entry.name).is_dir():
            return True
        return self._shared is not None and is_published(self._shared, entry.name)

    def _check_room(self) -> None:
        place = self._folder.absolute()
        while not place.exists():
            place = place.parent
        needed = _bytes(self._missing)
        if needed > shutil.disk_usage(place).free:
            remove_abandoned(self._folder.glob(".*.tmp-*"))  # what killed processes left is large
        if needed > (free := shutil.disk_usage(place).free):
            raise UserError(
                f"TEACHER_CACHE {self._root}: the teachers' states of {_examples(self._missing):,} "
                f"examples need {decimal(needed)}, but only {decimal(free)} are free in {place}. Give a "
                "folder on a larger disk, or leave TEACHER_CACHE out: the teachers then run in every step."
            )

    def _agreed(self) -> list[Entry]:
        """What the first process misses: all of them have to fill the same."""
        missing = np.array([not self._is_there(entry) for entry in self._entries], bool)
        seen_by_first = multihost_utils.broadcast_one_to_all(missing)
        return [entry for entry, wanted in zip(self._entries, seen_by_first, strict=True) if wanted]

    def _open(self, entry: Entry) -> Path:
        folder = self._folder / entry.name
        if not folder.is_dir() and self._shared is not None:
            folder = fetch_store(self._shared, entry.name, "teacher cache") or folder
        if not folder.is_dir():
            raise UserError(
                f"TEACHER_CACHE {self._root}: process {jax.process_index()} does not see {folder}, which "
                "the first process wrote. Give a folder that all of them see, or an address."
            )
        return folder

    def _fill(
        self, entries: Sequence[Entry], objective: DistillationObjective, batch_size: int
    ) -> None:
        """All processes run the teachers, the first one writes."""
        streams = [self._stream(entry, objective) for entry in entries]
        with TeacherRuns(self._backbone, objective, streams, batch_size) as runs:
            for entry, stream in zip(entries, streams, strict=True):
                records = runs.records(stream, self._fields, entry.lengths)
                if jax.process_index() == 0:
                    self._write(entry, records)
                else:
                    for _ in records:
                        pass

    def _write(self, entry: Entry, records: Iterator[tuple[int, Record]]) -> None:
        folder = self._folder / entry.name
        try:
            write_recorded(folder, self._fields, entry.lengths, records, entry.made_from)
        except OSError as error:
            raise UserError(f"TEACHER_CACHE {self._root} cannot be written: {error}") from error

    def _stream(self, entry: Entry, objective: DistillationObjective) -> Stream:
        ids = objective.teacher_bank.virtual_ids(0, entry.number)
        return Stream(entry.examples, ids, 0, entry.number, entry.task)


def _examples(entries: Sequence[Entry]) -> int:
    return sum(len(entry.examples) for entry in entries)


def _bytes(entries: Sequence[Entry]) -> int:
    return sum(entry.bytes for entry in entries)
