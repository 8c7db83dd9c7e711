"""From a seqio task to its token store: the only place where examples come out of TensorFlow."""

from __future__ import annotations

import inspect
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpt_jax.data.examples import Description, Example
from mpt_jax.data.generated import original_error
from mpt_jax.data.identity import source_identity
from mpt_jax.data.shared_stores import fetch_store, publish_store
from mpt_jax.data.store import TokenStore, write_store
from mpt_jax.data.tasks import get_task, import_seqio, task_vocabulary
from mpt_jax.data.vocabularies import Vocabulary
from mpt_jax.errors import UserError, unknown_name

FEATURES = ("inputs", "targets")
_FILL_SEED = 0
_ROWS_AT_A_TIME = 256


def fill_store(
    task_name: str,
    split: str,
    feature_lengths: Mapping[str, int],
    root: str | os.PathLike[str],
    shared: str | None = None,
) -> TokenStore:
    """The token store of a task's split under `root`; filled if it is not there yet.

    Args:
        feature_lengths: most tokens (EOS included, prompt not) in "inputs" and in "targets".
            Longer inputs are cut, longer targets are an error.
        shared: an address where stores of all hosts are: looked for there, and published there.

    Raises:
        UserError: unknown task or split, empty split, lengths without room for text, a target that
            is too long, or a damaged store in the place.
    """
    lengths = check_feature_lengths(feature_lengths)
    task = get_task(task_name)
    if split not in task.splits:
        raise unknown_name(f"split of task {task_name!r}", split, task.splits)
    vocabulary = task_vocabulary(task_name)
    description = Description(
        task_name, split, lengths, vocabulary.fingerprint(), source_identity(task, split)
    )
    folder = Path(root) / store_name(description)
    if not folder.is_dir() and shared is not None:
        if (found := fetch_store(shared, folder.name, "token store")) is not None:
            return TokenStore(found)
    if folder.is_dir():
        store = TokenStore(folder)
    else:
        examples = TaskExamples(task, split, vocabulary, lengths)
        store = write_store(folder, examples, description, examples.fields)
    if shared is not None:
        publish_store(store.folder, shared)
    return store


def check_feature_lengths(feature_lengths: Mapping[str, int]) -> dict[str, int]:
    """The lengths as a plain dict, inputs first.

    Raises:
        UserError: other features than inputs and targets, or a length without room for text.
    """
    if set(feature_lengths) != set(FEATURES):
        raise UserError(
            f"TASK_FEATURE_LENGTHS has {sorted(feature_lengths)}; expected exactly "
            "{'inputs': ..., 'targets': ...}."
        )
    lengths = {name: int(feature_lengths[name]) for name in FEATURES}
    for name, length in lengths.items():
        if length < 2:
            raise UserError(
                f"TASK_FEATURE_LENGTHS: {name!r} is {length}, which leaves no room for text; "
                "expected at least 2, one token and the end of sequence."
            )
    return lengths


def store_name(description: Description) -> str:
    """The name of a store's folder: readable, then a hash of all that its content depends on."""
    d = description
    readable = re.sub(r"[^\w.-]", "_", f"{d.task}-{d.split}")
    lengths = "x".join(str(d.feature_lengths[name]) for name in FEATURES)
    return f"{readable}-{lengths}-{d.key}"


class TaskExamples:
    """The examples of one split of a seqio task, uncut, in the task's own order.

    `fields` names the dtype of every field that the task leaves beside its output features, as
    metric functions may need them.
    """

    def __init__(
        self,
        task: Any,
        split: str,
        vocabulary: Vocabulary,
        feature_lengths: Mapping[str, int] | None = None,
    ):
        import_seqio()
        import tensorflow as tf

        self._task, self._split, self._vocabulary = task, split, vocabulary
        # Preprocessors that draw at random draw the same in every process.
        tf.random.set_seed(_FILL_SEED)
        # Lengths are withheld, since a task that knows them cuts, and cutting is to be counted.
        known = dict(feature_lengths or {}) if _needs_lengths(task) else None
        dataset = task.get_dataset(
            sequence_length=known, split=split, shuffle=False, trim_output_features=False
        )
        specs = dataset.element_spec
        self.fields = {
            name: dtype
            for name, spec in sorted(specs.items())
            if name not in task.output_features and (dtype := _storable_dtype(spec, tf))
        }
        kept = (*FEATURES, *self.fields)
        # One call into TensorFlow costs more than tokenising a short text: fetch many at a time.
        self._batches = dataset.map(lambda example: {n: example[n] for n in kept}).ragged_batch(
            _ROWS_AT_A_TIME
        )

    def __iter__(self) -> Iterator[Example]:
        """Raises UserError if there is not one example."""
        empty = True
        for batch in self._numpy_batches():
            empty = False
            columns = [_rows(column) for column in batch.values()]
            for row in zip(*columns, strict=True):
                yield self._example(dict(zip(batch, row, strict=True)))
        if empty:
            raise UserError(
                f"Task {self._task.name!r} has no examples in split {self._split!r}; its splits "
                f"are {list(self._task.splits)}. Look at its source, and at preprocessors that "
                "filter."
            )

    def _numpy_batches(self) -> Iterator[Mapping[str, Any]]:
        try:
            yield from self._batches.as_numpy_iterator()
        except Exception as error:
            if (users := original_error(error)) is not None:
                raise users from None
            raise

    def _example(self, raw: Mapping[str, Any]) -> Example:
        ids = {name: np.asarray(raw[name], np.int32) for name in FEATURES}
        texts = {}
        for name in FEATURES:
            text = raw.get(f"{name}_pretokenized")
            if isinstance(text, bytes):
                texts[name] = text.decode("utf-8", errors="replace")
            else:
                texts[name] = self._vocabulary.decode(ids[name].tolist())
        extras = {
            name: _to_json(raw[name])
            for name in self.fields
            if not (name.endswith("_pretokenized") and name.removesuffix("_pretokenized") in ids)
        }
        return Example(ids["inputs"], ids["targets"], texts["inputs"], texts["targets"], extras)


def _rows(column: Any) -> Any:
    """The rows of a batched field: of an array, or of TensorFlow's form for uneven lengths."""
    if isinstance(column, np.ndarray):
        return column
    inner = _rows(column.values)
    return [inner[start:stop] for start, stop in itertools.pairwise(column.row_splits.tolist())]


def _needs_lengths(task: Any) -> bool:
    """Whether a preprocessor demands `sequence_length` (seqio's Evaluator asks the same)."""
    for preprocessor in task.preprocessors:
        parameter = inspect.signature(preprocessor).parameters.get("sequence_length")
        if parameter is not None and parameter.default is inspect.Parameter.empty:
            return True
    return False


def _storable_dtype(spec: Any, tf: Any) -> str | None:
    """A dtype's name; None for what is not kept: ragged fields and rare types."""
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
        return None
    if spec.dtype == tf.string:
        return "string"
    return spec.dtype.name if spec.dtype.is_integer or spec.dtype.name in _OTHER_DTYPES else None


_OTHER_DTYPES = ("bool", "float16", "float32", "float64")


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="surrogateescape")
    if isinstance(value, np.ndarray | np.generic):
        return _to_json(value.tolist())
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return value


def seqio_example(example: Example, fields: Mapping[str, str]) -> dict[str, Any]:
    """`example` as seqio's Evaluator hands it to a postprocessor: NumPy values, text as bytes."""
    restored: dict[str, Any] = {"inputs": example.inputs, "targets": example.targets}
    texts = {
        "inputs_pretokenized": example.inputs_text,
        "targets_pretokenized": example.targets_text,
    }
    for name, dtype in fields.items():
        value = example.extras[name] if name in example.extras else texts[name]
        restored[name] = _from_json(value, dtype)
    return restored


def _from_json(value: Any, dtype: str) -> Any:
    if dtype == "string":
        if isinstance(value, str):
            return value.encode("utf-8", errors="surrogateescape")
        return np.asarray([_from_json(item, dtype) for item in value], object)
    return np.asarray(value, dtype)[()]
