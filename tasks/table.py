"""A user's own table as a task: a CSV, TSV, JSON lines or Parquet file, two templates, a metric.

    mpt adapt --gin_file=models/embedded.gin --gin_file=runs/adapt.gin --gin_file=runs/table.gin \\
        --gin.TABLE_FILE="'reviews.csv'" --gin.TABLE_INPUTS="'review: {text}'" \\
        --gin.TABLE_TARGETS="'{label}'" ...

`gin/runs/table.gin` has one table; several, each under a scope of its own, are a gin file of ten lines:

    from __gin__ import dynamic_registration
    from mpt_jax.stages import data
    from mpt_jax.tasks import mixture
    from mpt_jax.tasks import table

    reviews/table.Table:
      name = "reviews"
      file = "reviews.csv"
      inputs = "review: {text}"
      targets = "{label}"
    ...
    mixture.Mixture:
      name = "own"
      tasks = ("reviews", "topics")
    data.Data.families = (@reviews/table.Table(), @topics/table.Table(), @mixture.Mixture())
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any

from mpt_jax.data.tasks import import_seqio
from mpt_jax.errors import UserError, unknown_name
from mpt_jax.fetched import local_copy
from mpt_jax.places import is_address
from mpt_jax.tasks.metrics.postprocessors import stripped
from mpt_jax.tasks.registration import check_free
from mpt_jax.tasks.table_files import Row, read_rows
from mpt_jax.tasks.table_splits import (
    Splits,
    TableExample,
    check_apart,
    divide,
    warn_of_unseen_labels,
)
from mpt_jax.tasks.template import Template
from mpt_jax.tasks.text_metrics import text_metrics

SPLITS = ("train", "validation", "test")
Paths = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class Table:
    """One task from a table (`TaskFamily`). How files are read: `mpt_jax.tasks.table_files`.

    A split is a file of its own, or a share of `file`; without either the task does not have it. Several
    files in the place of one are read one after another.

    Attributes:
        name: of the task.
        inputs: template of the text that goes in, as "review: {text}"; `mpt_jax.tasks.template`.
        targets: template of the answer, as "{label}".
        file: a table that is divided by `fractions`.
        train: a table that is the training set.
        validation: a table that is the validation set.
        test: a table that is the test set.
        fractions: shares of `file` for (train, validation, test); 0 for a split with its own file.
        stratify: divide each target in these shares, for classes.
        split_seed: of the division.
        labels: text of the filled `targets` -> text in its place, as {"0": "negative", "1":
            "positive"}; with it, other texts are errors.
        metrics: a name, or several; `mpt_jax.tasks.text_metrics` has them.
        positive: the label that the metric "f1" counts.
    """

    name: str
    inputs: str
    targets: str
    file: Paths = None
    train: Paths = None
    validation: Paths = None
    test: Paths = None
    fractions: Sequence[float] = (0.8, 0.1, 0.1)
    stratify: bool = False
    split_seed: int = 42
    labels: Mapping[Any, Any] | tuple[tuple[str, str], ...] = ()
    metrics: str | Sequence[str] = "accuracy"
    positive: str | None = None

    def __post_init__(self) -> None:
        """Makes plain and hashable what gin gives as lists and dicts."""
        labels = tuple((str(key), str(text).strip()) for key, text in dict(self.labels).items())
        metrics = (self.metrics,) if isinstance(self.metrics, str) else tuple(self.metrics)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "metrics", metrics)
        object.__setattr__(self, "fractions", tuple(self.fractions))
        for name in ("file", *SPLITS):
            if not isinstance(paths := getattr(self, name), str | None):
                object.__setattr__(self, name, tuple(paths))

    def split_rules(self) -> Mapping[str, str]:
        return {}

    def register(self, vocabulary: Any) -> None:
        """Reads the files, checks all rows, and adds the task to seqio's registry.

        Raises:
            UserError: what is wrong in the settings, or in a file, with file and line.
        """
        check_free(self.name)
        splits = self.read()
        metrics = text_metrics(self.metrics, [e for s in splits.values() for e in s], self.positive)
        seqio = import_seqio()
        feature = seqio.Feature(vocabulary, add_eos=True)
        seqio.TaskRegistry.add(
            self.name,
            source=seqio.FunctionDataSource(
                dataset_fn=functools.partial(
                    _dataset, types.MappingProxyType(splits), _digest(splits)
                ),
                splits=tuple(splits),
                num_input_examples={split: len(found) for split, found in splits.items()},
            ),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={"inputs": feature, "targets": feature},
            postprocess_fn=stripped,
            metric_fns=metrics,
        )

    def read(self) -> dict[str, list[TableExample]]:
        """Split -> its examples, in the order of their file; everything is checked.

        Raises:
            UserError: what is wrong in the settings, or in a file, with file and line.
        """
        shares = self._shares()
        found: dict[str, list[TableExample]] = {}
        if self.file:
            examples = self._examples(self.file)
            found |= divide(examples, shares, self.split_seed, self.stratify)
            for split in shares:
                if not found[split]:
                    raise UserError(
                        f"Table {self.name!r}: the split {split!r} gets none of the {len(examples)} rows "
                        f"of {self.file} with fractions = {self.fractions}. Give it a larger one, or more "
                        "rows; rows with the same input stay together."
                    )
        for split, paths in self._own_files().items():
            found[split] = self._examples(paths)
        splits = {split: found[split] for split in SPLITS if split in found}
        check_apart(splits)
        warn_of_unseen_labels(self.name, splits)
        return splits

    def _own_files(self) -> dict[str, str | Sequence[str]]:
        named = {split: getattr(self, split) for split in SPLITS}
        return {split: paths for split, paths in named.items() if paths}

    def _shares(self) -> dict[str, float]:
        """Split -> fraction of `file`, for the splits that get any of it."""
        own = self._own_files()
        what = f"Table {self.name!r}"
        if not self.file:
            if "train" not in own:
                raise UserError(
                    f"{what} has no training set: give `file`, which is divided by `fractions`, or `train` "
                    "(and `validation`, `test`) (TABLE_FILE, TABLE_TRAIN, ... in runs/table.gin)."
                )
            return {}
        expected = (
            "expected shares of `file` for (train, validation, test) that sum to 1, none below 0"
        )
        if len(self.fractions) != len(SPLITS) or not all(0 <= f <= 1 for f in self.fractions):
            raise UserError(f"{what}: fractions = {self.fractions}; {expected}.")
        if not math.isclose(sum(self.fractions), 1, abs_tol=1e-6):
            total = f"{sum(self.fractions):.6g}"
            raise UserError(f"{what}: fractions = {self.fractions} sum to {total}; {expected}.")
        shares = {s: f for s, f in zip(SPLITS, self.fractions, strict=True) if f > 0}
        for split in SPLITS:
            if split in own and split in shares:
                raise UserError(
                    f"{what}: the split {split!r} has a file of its own, {own[split]}, and the fraction "
                    f"{shares[split]} of {self.file}. Give one of them: fractions = {self.fractions} with 0 "
                    f"for {split}, the rest summing to 1."
                )
        if "train" not in own and "train" not in shares:
            raise UserError(f"{what}: fractions = {self.fractions} leave nothing for training.")
        return shares

    def _examples(self, paths: str | Sequence[str]) -> list[TableExample]:
        inputs, targets = (
            Template.parse("inputs", self.inputs),
            Template.parse("targets", self.targets),
        )
        columns = tuple(dict.fromkeys(inputs.columns + targets.columns))
        labels = dict(self.labels)
        if "" in labels.values():
            raise UserError(
                f"Table {self.name!r}: labels = {labels} has an empty text; a target needs one."
            )
        files = (paths,) if isinstance(paths, str) else paths
        rows = [row for path in files for row in _rows(path, columns)]
        examples = []
        for place, values in rows:
            for what, template in (("input", inputs), ("target", targets)):
                if not any(values[column] for column in template.columns):
                    raise UserError(
                        f"{place}: an empty {what}: nothing stands in "
                        f"{' and '.join(repr(column) for column in template.columns)}. Fill it in or "
                        "remove the row."
                    )
            answer = targets.fill(values).strip()
            if labels and answer not in labels:
                raise UserError(f"{place}: {unknown_name('label', answer, labels)} (of `labels`)")
            examples.append(TableExample(inputs.fill(values), labels.get(answer, answer), place))
        if not examples:
            raise UserError(f"Table {self.name!r}: {', '.join(files)} has no rows.")
        return examples


def _dataset(
    splits: Splits, digest: str, split: str, shuffle_files: bool, seed: int | None = None
) -> Any:
    """seqio's `dataset_fn`, when the first two are bound.

    Args:
        splits: the examples; in a proxy, which `mpt_jax.data.identity` does not look into, since a
            text may look like a file's name.
        digest: stands for them in the token store's key, which is made of what is bound.
        split: which to give.
        shuffle_files: the order is fixed.
        seed: the same.
    """
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(
        {
            "inputs": [example.inputs for example in splits[split]],
            "targets": [example.targets for example in splits[split]],
        }
    )


def _digest(splits: Splits) -> str:
    """A hash (hex) of all texts, split by split, in their order."""
    digest = hashlib.sha256()
    for split, examples in splits.items():
        for example in examples:
            digest.update(json.dumps([split, example.inputs, example.targets]).encode())
    return digest.hexdigest()


def _rows(path: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a file here or at an address, with their places as the user knows them."""
    local = local_copy(path, "table").expanduser()
    rows = read_rows(local, columns)
    if is_address(path):
        return [Row(place.replace(str(local), path), values) for place, values in rows]
    return rows
