"""Data sets of the benchmark on disk, registered for one test, and their examples as the model gets them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mpt_jax.data.fill import fill_store
from mpt_jax.data.scoring import score_predictions
from mpt_jax.data.store import TokenStore
from mpt_jax.data.tasks import import_seqio

LENGTHS = {"inputs": 4096, "targets": 512}


@pytest.fixture
def own_registries():
    """seqio's registries, empty; they are the process's, so they are put back."""
    seqio = import_seqio()
    registries = (seqio.TaskRegistry, seqio.MixtureRegistry)
    kept = [(registry, registry._REGISTRY) for registry in registries]
    for registry in registries:
        registry.reset()
    yield seqio
    for registry, tasks in kept:
        registry._REGISTRY = tasks


@pytest.fixture
def data_dir(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def write(data_dir) -> Callable[[str, str | bytes], Path]:
    """Writes a file below the data folder."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


class Registered:
    """Tasks of a `Benchmark`: their token stores, texts and scores."""

    def __init__(self, store_root: Path):
        self._root = store_root

    def store(self, task: str, split: str) -> TokenStore:
        return fill_store(task, split, LENGTHS, self._root)

    def texts(self, task: str, split: str) -> list[tuple[str, str]]:
        """Inputs and targets, decoded from their ids."""
        store = self.store(task, split)
        return [(e.inputs_text, e.targets_text) for e in store.read(range(len(store)))]

    def extras(self, task: str, split: str, field: str) -> list[Any]:
        store = self.store(task, split)
        return [e.extras[field] for e in store.read(range(len(store)))]

    def score(self, task: str, split: str, predictions: Sequence[str]) -> dict[str, float]:
        return score_predictions(task, self.store(task, split), list(predictions))


@pytest.fixture
def register(own_registries, tmp_path, data_dir) -> Callable[..., Registered]:
    """Registers data sets with T5's byte vocabulary, read from the data folder."""
    from mpt_jax.tasks.benchmark import Benchmark

    def register_sets(*sets: str, **settings: Any) -> Registered:
        family = Benchmark(sets=sets, data_dir=str(data_dir), **settings)
        family.register(own_registries.ByteVocabulary())
        return Registered(tmp_path / "stores")

    return register_sets


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
def put_stored(data_dir) -> Callable[[str, str, Mapping[str, list[dict[str, Any]]]], str]:
    """Writes records of splits as "tfds", "saved" or "parquet"; returns the source's name."""
    from mpt_jax.tasks.benchmark import DATA_SETS

    def put_records(task: str, form: str, records: Mapping[str, list[dict[str, Any]]]) -> str:
        data_set = DATA_SETS[task]
        if form == "tfds":
            write_tfds(data_dir, data_set.tfds, records)
        elif form == "saved":
            write_saved(data_dir.joinpath(*data_set.hub.split("/")[1:]), records)
        else:
            write_parquet(data_dir / data_set.hub, records)
        return "tfds" if form == "tfds" else "datasets"

    return put_records


@pytest.fixture
def put(write, put_stored) -> Callable[[str, dict[str, Any], str], str]:
    """Writes a task's sample in a form, and returns what a `Benchmark` calls its source.

    A sample is a dict of the data set's "files" as they are distributed (path -> content) and the same
    examples in TFDS's published schema, "records" (split -> list), in the same order.
    """

    def put_sample(task: str, sample: dict[str, Any], form: str) -> str:
        if form != "folder":
            return put_stored(task, form, sample["records"])
        for name, content in sample["files"].items():
            write(name, content)
        return form

    return put_sample
