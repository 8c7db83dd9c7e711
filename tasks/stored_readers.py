"""Reading records of data sets that TFDS or Hugging Face's `datasets` stored on disk.

Neither of the two is needed to read what `datasets` saved: it is Arrow and Parquet.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.tasks.data_set import DataSet, Located, Place, Stored
from mpt_jax.tasks.readers import ReadSplit, data_folder, nothing_there


def open_tfds(data_set: DataSet, data_dir: str | None) -> ReadSplit:
    """The data set as TFDS prepared it.

    Args:
        data_dir: TFDS's folder, from which the newest version is read and nothing is downloaded; None
            for TFDS's own way, which downloads what is missing.
    """
    return _conformed(_open_tfds(data_set, data_dir), data_set, "tfds")


def _open_tfds(data_set: DataSet, data_dir: str | None) -> ReadSplit:
    if data_dir is None:
        # Another release of TFDS may hold other examples.
        release = importlib.metadata.version("tensorflow-datasets")
        return functools.partial(read_tfds, name=data_set.tfds, directory=None, files=(release,))
    folder = data_folder(data_set, data_dir, "tfds") / data_set.tfds
    versions = (
        [p for p in folder.iterdir() if (p / "features.json").exists()] if folder.exists() else []
    )
    if not versions:
        searched = (f"{folder}/<version>/features.json",)
        return functools.partial(nothing_there, title=data_set.title, searched=searched)
    newest = max(versions, key=lambda path: [int(n) for n in path.name.split(".") if n.isdigit()])
    files = tuple(sorted(str(path) for path in newest.iterdir()))
    return functools.partial(read_tfds, name=data_set.tfds, directory=str(newest), files=files)


def _conformed(read: ReadSplit, data_set: DataSet, source: str) -> ReadSplit:
    stored = data_set.stored.get(source)
    return read if stored is None else functools.partial(read_conformed, read=read, stored=stored)


def read_conformed(split: str, *, read: ReadSplit, stored: Stored) -> Iterator[Located]:
    """Records of a source that has them otherwise, as the canonical schema wants them.

    Raises:
        UserError: a record that is not what is made canonical, with its place.
    """
    records = read(stored.splits.get(split, split))
    if stored.conform is None:
        yield from records
        return
    last: list[Located] = []
    try:
        yield from stored.conform(_remembered(records, last), split)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        if not last:  # the source itself
            raise
        place, record = last[0]
        raise UserError(
            f"{place}: not the data set's published schema ({type(error).__name__}: {error}); it has "
            f"{', '.join(map(repr, record))}."
        ) from error


def _remembered(records: Iterator[Located], last: list[Located]) -> Iterator[Located]:
    for located in records:
        last[:] = [located]
        yield located


def read_tfds(
    split: str, *, name: str, directory: str | None, files: tuple[str, ...] = ()
) -> Iterator[Located]:
    """Records of a prepared data set, in the order of its files.

    Args:
        directory: of one version; None for the newest that TFDS knows.
        files: what the examples depend on, so that a change in it makes a new token store.
    """
    del files
    import tensorflow_datasets as tfds

    try:
        if directory is None:
            builder = tfds.builder(name)
            builder.download_and_prepare()
        else:
            builder = tfds.builder_from_directory(directory)
            if split not in builder.info.splits:
                there = ", ".join(builder.info.splits)
                raise UserError(f"{directory} has no split {split!r}; there are {there}.")
        in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=in_order)
        source = f"TFDS {name} {builder.version}, {split}"
        for number, record in enumerate(dataset.as_numpy_iterator(), start=1):
            yield Place(source, number, "example"), record
    except UserError:
        raise
    except Exception as error:  # TFDS's kinds, TensorFlow's, the network's
        raise UserError(
            f"TFDS cannot read {name} from {directory or 'its own folder'}: {error}"
        ) from error


def open_datasets(data_set: DataSet, data_dir: str | None) -> ReadSplit:
    """What `datasets` saved with `save_to_disk`, or Parquet files as they lie on the hub."""
    return _conformed(_open_datasets(data_set, data_dir), data_set, "datasets")


def _open_datasets(data_set: DataSet, data_dir: str | None) -> ReadSplit:
    root = data_folder(data_set, data_dir, "datasets")
    owner, name, *configuration = data_set.hub.split("/")
    folders = [
        root.joinpath(owner, name, *configuration),
        root.joinpath(name, *configuration),
        root / "_".join([name, *configuration]),
        root / data_set.task,
    ]
    stored = data_set.stored.get("datasets", Stored())
    splits = dict.fromkeys(stored.splits.get(split, split) for split in data_set.sizes)
    for folder in folders:
        paths = {split: stored_files(folder, split) for split in splits}
        if any(paths.values()):
            return functools.partial(read_stored, paths=paths, folder=str(folder))
    searched = tuple(map(str, dict.fromkeys(folders)))
    return functools.partial(nothing_there, title=data_set.title, searched=searched)


def stored_files(folder: Path, split: str) -> tuple[str, ...]:
    """The Arrow or Parquet files of a split, in order; none if it is not there."""
    state = folder / split / "state.json"
    if state.is_file():
        names = [entry["filename"] for entry in json.loads(state.read_text())["_data_files"]]
        return tuple(str(folder / split / name) for name in names)
    found = [
        *folder.glob(f"{split}.parquet"),
        *folder.glob(f"{split}-*.parquet"),
        *folder.glob(f"data/{split}-*.parquet"),
        *folder.glob(f"{split}/*.parquet"),
    ]
    return tuple(map(str, sorted(found)))


def read_stored(split: str, *, paths: dict[str, tuple[str, ...]], folder: str) -> Iterator[Located]:
    """Records of Arrow streams and Parquet files."""
    if not paths[split]:
        there = [name for name, files in paths.items() if files]
        raise UserError(
            f"{folder} has no split {split!r}; there are {', '.join(there)}. Expected a folder that "
            f"`datasets` saved, or files like {split}-00000-of-00001.parquet."
        )
    for path in paths[split]:
        row = 0
        for batch in _batches(path):
            for record in batch.to_pylist():
                row += 1
                yield Place(path, row, "row"), record


def _batches(path: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UserError(f"Reading {path} needs pyarrow: `pip install pyarrow`.") from error
    try:
        if path.endswith(".parquet"):
            with pyarrow.parquet.ParquetFile(path) as file:
                yield from file.iter_batches()
        else:
            with pyarrow.memory_map(path) as memory, pyarrow.ipc.open_stream(memory) as stream:
                yield from stream
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
