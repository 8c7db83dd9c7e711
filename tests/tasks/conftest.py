"""Data sets of the benchmark, registered for one test, and their examples as the model gets them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
