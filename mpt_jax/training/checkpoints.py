"""Checkpoints of what is trained, never of the backbone: small, checked on reading, and exact to resume.

Each checkpoint (Orbax, written under a temporary name and renamed when complete) holds the arrays of the
training state and a JSON record: the step, the fingerprint of the backbone, what the method and the
data are, and a digest of the arrays. Random state and data position need no arrays: both are functions of
the seed, which the record holds, and the step.
"""

import dataclasses
import hashlib
import json
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mpt_jax.errors import UserError
from mpt_jax.partitioning import fetch
from mpt_jax.working_copy import is_working_copy, shown, tell_bucket

FORMAT = 1
_ARRAYS, _RECORD = "arrays", "record"


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a run must have in common with a checkpoint to go on from it. Everything is plain JSON.

    Attributes:
      backbone: fingerprint of the frozen model, as it is stored.
      precision: how the model's weights are kept and computed with, `T5Config.precision`.
      method: name, shapes and task names of what is trained.
      data: what the batches are a function of, beside the step: seed, batch size, tasks and so on.
    """

    backbone: str
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint as read: its step, its state (of the template's structure) and its JSON record."""

    step: int
    state: Any
    record: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Of the working copy of a run directory at an address, each of several processes has one of its own. Then
    each writes everything, and that of the first is uploaded.

    Args:
      folder: where; made when the first checkpoint is written.
      identity: what is trained, on what.
      keep: how many of the latest are kept; the one with the best score is kept besides.
    """

    def __init__(self, folder: str | Path, identity: Identity, *, keep: int = 2):
        if keep < 1:
            raise UserError(f"keep is {keep}; at least 1 checkpoint must be kept")
        self.folder = Path(folder).absolute()
        self.identity = identity
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        self._alone = is_working_copy(self.folder) and jax.process_count() > 1

    def save(self, step: int, state: Any, *, score: float | None = None) -> None:
        """Writes `state` as the checkpoint of `step`, and returns when it is complete on disk.

        Args:
          step: number of steps done.
          state: a pytree of arrays.
          score: the higher the better; the checkpoint with the highest is kept.
        """
        arrays = _flatten(fetch(state) if self._alone else state)
        record = {
            "format": FORMAT,
            "step": step,
            **dataclasses.asdict(self.identity),
            "shapes": _shapes(arrays),
            "digest": _digest(arrays),
        }
        items = ocp.args.Composite(
            **{_ARRAYS: ocp.args.StandardSave(arrays), _RECORD: ocp.args.JsonSave(record)}
        )
        manager = self._open()
        if step in manager.all_steps():
            return  # a stop right after a periodic save: this very state is there already
        manager.save(step, args=items, metrics=None if score is None else {"score": float(score)})
        tell_bucket(self.folder)

    def restore_latest(self, template: Any) -> Restored | None:
        """Reads the newest checkpoint that is whole, or None where there is none.

        A damaged one is renamed, a warning says so, and the one before is read. Those that a kill left
        half written never counted.

        Args:
          template: a state of the wanted structure, shapes and placement (sharding); values are not used.

        Raises:
          UserError: the checkpoint is of another backbone, method or data set; or all are damaged.
        """
        damaged = []
        for step in reversed(steps(self.folder)):
            try:
                restored = self._restore(step, template)
            except UserError:
                raise
            # Whatever reading raises: Orbax and TensorStore have no common class for damaged files.
            except Exception as error:
                damaged.append(step)
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                path = self.folder / str(step)
                path.rename(_free_name(self.folder / f"{step}.damaged"))
                warnings.warn(
                    f"checkpoint {shown(path)} is damaged ({reason}); renamed it to {step}.damaged and "
                    "going back to the one before",
                    stacklevel=2,
                )
                continue
            if self._manager is not None:
                self._manager.reload()
            return restored
        if damaged:
            raise UserError(
                f"every checkpoint in {shown(self.folder)} is damaged (steps {damaged}); restore the folder "
                "from a copy, or remove it to start again from step 0"
            )
        return None

    def close(self) -> None:
        """Ends Orbax's helpers; everything is on disk already."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            logging.getLogger("absl").setLevel(
                logging.ERROR
            )  # Orbax reports each phase of each save
            self.folder.mkdir(parents=True, exist_ok=True)
            best = policies.BestN(
                get_metric_fn=lambda metrics: metrics["score"],
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(self._keep), best]
                ),
                # The arrays are small, and the step reuses their buffers: nothing to gain, much to lose.
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                multiprocessing_options=self._processes(),
                create=False,  # it is there, and with processes of one's own Orbax would refuse to
            )
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_names=(_ARRAYS, _RECORD)
            )
        return self._manager

    def _processes(self) -> ocp.options.MultiprocessingOptions:
        if not self._alone:
            return ocp.options.MultiprocessingOptions()
        me = jax.process_index()
        return ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )

    def _restore(self, step: int, template: Any) -> Restored:
        record = read_record(self.folder, step)
        self._check_identity(record, step)
        wanted = _flatten(template)
        self._check_shapes(record["shapes"], _shapes(wanted), step)
        read = {n: _whole(array) for n, array in wanted.items()} if self._alone else wanted
        with ocp.StandardCheckpointer(multiprocessing_options=self._processes()) as checkpointer:
            arrays = checkpointer.restore(self.folder / str(step) / _ARRAYS, read)
        if record["digest"] is not None and _digest(arrays) != record["digest"]:
            raise ValueError("the digest of the arrays is not the one written with them")
        if self._alone:
            arrays = {name: _spread(arrays[name], array) for name, array in wanted.items()}
        leaves = [arrays[name] for name in wanted]
        state = jax.tree.unflatten(jax.tree.structure(template), leaves)
        return Restored(step, state, record)

    def _check_identity(self, record: Mapping[str, Any], step: int) -> None:
        where = f"checkpoint {shown(self.folder / str(step))}"
        if record["backbone"] != self.identity.backbone:
            raise UserError(
                f"{where} belongs to the backbone with fingerprint {record['backbone']}, but this run uses "
                f"{self.identity.backbone}; give that backbone, or another run directory"
            )
        # Checkpoints of earlier versions do not tell.
        if (was := record.get("precision", self.identity.precision)) != self.identity.precision:
            raise UserError(
                f"{where} was trained on the backbone in {was}, but this run has it in "
                f"{self.identity.precision}; go on with the dtype and weights of the run directory's "
                "config.gin, or use another directory"
            )
        for part in ("method", "data"):
            was, now = record[part], json.loads(json.dumps(dict(getattr(self.identity, part))))
            changed = sorted(key for key in was | now if was.get(key) != now.get(key))
            if changed:
                lines = [f"  {part}.{k}: was {was.get(k)!r}, is {now.get(k)!r}" for k in changed]
                raise UserError(
                    f"{where} was written by another configuration:\n" + "\n".join(lines) + "\n"
                    "resume with the settings of the run directory's config.gin, or use another directory"
                )

    def _check_shapes(self, was: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
        if was == now:
            return
        names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        lines = [
            f"  {n}: has {was.get(n, 'none')}, expected {now.get(n, 'none')}" for n in names[:5]
        ]
        raise UserError(
            f"checkpoint {shown(self.folder / str(step))} does not fit what this run trains:\n"
            + "\n".join(lines)
        )


def steps(folder: str | Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, oldest first."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if re.fullmatch(r"\d+", path.name))


def folders(root: str | Path) -> list[Path]:
    """Where the checkpoints of a run lie: `root`, and the folder of each program of its own below it."""
    root = Path(root)
    below = (
        [p for p in root.glob("*") if p.is_dir() and not p.name[0].isdigit()]
        if root.is_dir()
        else []
    )
    return [folder for folder in (root, *sorted(below)) if steps(folder)]


def read_record(folder: str | Path, step: int) -> dict[str, Any]:
    """The JSON record of one checkpoint, without its arrays.

    Raises:
      OSError, ValueError: it is missing or damaged.
    """
    record = json.loads(_record_file(folder, step).read_text())
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"its record has not the format {FORMAT}")
    return record


def written_at(folder: str | Path, step: int) -> float:
    """When a checkpoint was written, in seconds."""
    return _record_file(folder, step).stat().st_mtime


def _record_file(folder: str | Path, step: int) -> Path:
    return Path(folder) / str(step) / _RECORD / "metadata"


def _flatten(tree: Any) -> dict[str, Any]:
    # Flat, because optimizer states hold empty nodes and tuples that a file system has no name for.
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _whole(array: Any) -> np.ndarray:
    return np.empty(array.shape, array.dtype)


def _spread(values: Any, like: Any) -> Any:
    """A whole array as `like` lies on the devices of all processes."""
    values = np.asarray(values)
    if not isinstance(like, jax.Array):
        return values
    return jax.make_array_from_callback(values.shape, like.sharding, lambda part: values[part])


def _shapes(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{np.dtype(array.dtype).name}{list(array.shape)}" for name, array in arrays.items()
    }


def _digest(arrays: Mapping[str, Any]) -> str | None:
    """A digest of names and values, or None where a process does not see all of the values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        if isinstance(array, jax.Array) and not (
            array.is_fully_addressable or array.is_fully_replicated
        ):
            return None
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _free_name(path: Path) -> Path:
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(1, 100))]
    return next(candidate for candidate in candidates if not candidate.exists())
