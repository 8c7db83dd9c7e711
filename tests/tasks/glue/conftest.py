"""Small data sets on disk, in each form that a `Benchmark` reads.

A sample is a dict of the data set's "files" as they are distributed (path -> content) and the same examples
in TFDS's published schema, "records" (split -> list), in the same order.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mpt_jax.data.tasks import import_seqio
from mpt_jax.tasks.benchmark import DATA_SETS


def published_features(name: str) -> Any:
    """The schema of a data set as TFDS publishes it."""
    import_seqio()
    import tensorflow_datasets as tfds

    return tfds.builder(name, try_gcs=False).info.features


def write_tfds(folder: Path, name: str, records: Mapping[str, list[dict[str, Any]]]) -> None:
    import_seqio()
    import tensorflow_datasets as tfds

    features = published_features(name)
    top, _, configuration = name.partition("/")
    place = folder / name / "2.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name=top,
        config_name=configuration,
        version=tfds.core.Version("2.0.0"),
        data_dir=str(place),
        module_name="tests",
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(list(records))
    writer.add_examples(dict(records))
    writer.close_all()


def write_saved(folder: Path, records: Mapping[str, list[dict[str, Any]]]) -> None:
    """As `datasets.DatasetDict.save_to_disk` writes it."""
    for split, rows in records.items():
        place = folder / split
        place.mkdir(parents=True)
        table = pyarrow.Table.from_pylist(rows)
        name = "data-00000-of-00001.arrow"
        with pyarrow.ipc.new_stream(str(place / name), table.schema) as stream:
            stream.write_table(table)
        (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        (place / "dataset_info.json").write_text("{}")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(records)}))


def write_parquet(folder: Path, records: Mapping[str, list[dict[str, Any]]]) -> None:
    """As the files lie in a repository of the hub, each split in two."""
    folder.mkdir(parents=True)
    for split, rows in records.items():
        for part, some in enumerate((rows[:1], rows[1:])):
            path = folder / f"{split}-{part:05}-of-00002.parquet"
            schema = pyarrow.Table.from_pylist(rows).schema
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some, schema), path)


@pytest.fixture
def put(data_dir, write) -> Callable[[str, dict[str, Any], str], str]:
    """Writes a task's sample in a form, and returns what a `Benchmark` calls its source."""

    def put_sample(task: str, sample: dict[str, Any], form: str) -> str:
        data_set = DATA_SETS[task]
        if form == "folder":
            for name, content in sample["files"].items():
                write(name, content)
        elif form == "tfds":
            write_tfds(data_dir, data_set.tfds, sample["records"])
        elif form == "saved":
            write_saved(data_dir.joinpath(*data_set.hub.split("/")[1:]), sample["records"])
        else:
            write_parquet(data_dir / data_set.hub, sample["records"])
        return form if form in ("folder", "tfds") else "datasets"

    return put_sample
