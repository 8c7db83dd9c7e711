"""Metrics on disk: one JSON line a row in MODEL_DIR/metrics/SPLIT.jsonl, and TensorBoard beside it.

A row is `{"step": 20, "seconds": 3.1, "loss": {"MEMBER": 0.42, ...}, ...}`. A resumed run first drops the
rows that an interrupted one wrote after its last checkpoint, so that each step has one row.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpt_jax.optional_imports import without


class MetricsWriter:
    """Writes rows of one run.

    Args:
      folder: MODEL_DIR/metrics; made when missing.
      members: names of the fleet's members, in order (M of them).
      resumed_at: the step that the run goes on from; rows of later steps are dropped. 0 for a new run.
    """

    def __init__(self, folder: str | Path, members: Sequence[str], *, resumed_at: int = 0):
        with without("torch"):
            from tensorboardX import SummaryWriter

        self.folder = Path(folder)
        self.members = tuple(members)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.jsonl"):
            _drop_after(path, resumed_at)
        self._board = SummaryWriter(str(self.folder), purge_step=resumed_at + 1, flush_secs=30)

    def write(self, split: str, step: int, seconds: float, metrics: Mapping[str, Any]) -> None:
        """Adds one row.

        Args:
          split: "train", "validation" and so on: the file's name.
          step: number of steps done.
          seconds: since the run (this process) began.
          metrics: name -> one number a member [M], or one number for all.
        """
        row: dict[str, Any] = {"step": step, "seconds": round(seconds, 3)}
        for name, values in metrics.items():
            values = np.asarray(values, np.float64)
            if values.ndim == 0:
                row[name] = _finite(values)
                self._board.add_scalar(f"{split}/{name}", float(values), step)
            else:
                pairs = list(zip(self.members, values, strict=True))
                row[name] = {member: _finite(value) for member, value in pairs}
                for member, value in pairs:
                    self._board.add_scalar(f"{split}/{name}/{member}", float(value), step)
        with (self.folder / f"{split}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Flushes TensorBoard's file; the JSON lines are on disk after each row."""
        self._board.close()


def read_rows(folder: str | Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split, oldest first; a line that a kill cut off is left out."""
    path = Path(folder) / f"{split}.jsonl"
    return _parse(path) if path.is_file() else []


def _parse(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # cut off by a kill: a later line is whole again
    return rows


def _drop_after(path: Path, step: int) -> None:
    kept = [row for row in _parse(path) if row["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(temporary, path)


def _finite(value: Any) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None  # JSON knows no NaN
