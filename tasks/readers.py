"""Reading a data set's records from each kind of source.

`open_folder` here, and `open_tfds` and `open_datasets` of `stored_readers`, look up a data set's files and
return a function from a split's name to its records. It holds the files' paths, so that
`mpt_jax.data.identity` sees their content. Files that are not there are an error when a split is read, not
before: a family names many data sets, and a user need not have them all.
"""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.fetched import local_copy
from mpt_jax.places import Object
from mpt_jax.tasks.data_set import DataSet, Layout, Located, Parser, Place

ReadSplit = Callable[[str], Iterator[Located]]


def open_folder(data_set: DataSet, data_dir: str | None) -> ReadSplit:
    """The files of the form in which the data set is distributed."""
    root = data_folder(data_set, data_dir, "folder")
    candidates = [(root / f, layout) for layout in data_set.layouts for f in layout.folders]
    for folder, layout in candidates:
        paths = _paths(folder, layout)
        if any(Path(path).exists() for names in paths.values() for path in names):
            return functools.partial(read_files, parse=layout.parse, paths=paths)
    searched = tuple(f"{folder}/({'|'.join(_names(layout))})" for folder, layout in candidates)
    return functools.partial(nothing_there, title=data_set.title, searched=searched)


def _paths(folder: Path, layout: Layout) -> dict[str, tuple[str, ...]]:
    return {
        split: tuple(path for name in names for path in _matching(folder, name))
        for split, names in layout.files.items()
    }


def _matching(folder: Path, name: str) -> list[str]:
    found = sorted(map(str, folder.glob(name))) if "*" in name else []
    return found or [str(folder / name)]


def _names(layout: Layout) -> list[str]:
    return sorted({name for names in layout.files.values() for name in names})


def data_folder(data_set: DataSet, data_dir: str | None, source: str) -> Path:
    if data_dir is None:
        raise UserError(
            f"{data_set.title} is to be read from source={source!r}, but there is no data_dir. Set "
            "DATA_DIR to the folder of the data sets, as in --gin.DATA_DIR=\"'/data/benchmark'\"."
        )
    return local_copy(data_dir, "DATA_DIR", functools.partial(_of, data_set)).expanduser().resolve()


def _of(data_set: DataSet, found: Mapping[str, Object]) -> Mapping[str, Object]:
    """What belongs to one data set in a bucket with many."""
    owner, name, *configuration = data_set.hub.split("/")
    folders = [data_set.tfds, owner, name, "_".join([name, *configuration]), data_set.task]
    folders += [folder for layout in data_set.layouts for folder in layout.folders]
    heads = {folder.partition("/")[0] for folder in folders}
    return {name: one for name, one in found.items() if name.partition("/")[0] in heads}


def read_files(
    split: str, *, parse: Parser, paths: dict[str, tuple[str, ...]]
) -> Iterator[Located]:
    for path in paths[split]:
        if not Path(path).is_file():
            near = sorted(p.name for p in Path(path).parent.glob("*"))[:8]
            raise UserError(
                f"No file {path} for the split {split!r}; its folder has {', '.join(near) or 'nothing'}."
            )
    yield from parse(paths[split], split)


def nothing_there(split: str, *, title: str, searched: tuple[str, ...]) -> Iterator[Located]:
    """Raises UserError: where the files of `split` were looked for."""
    raise UserError(
        f"There is no file of {title} in the data folder. Looked for: {', '.join(searched)}."
    )
    yield  # a generator, as the others are


def text_lines(path: str) -> Iterator[tuple[Place, str]]:
    """The lines of a file in UTF-8 (a byte order mark is dropped), cut at line feeds only.

    A file whose name ends in `.gz` is unpacked on the way.

    Raises:
        UserError: bytes that are not UTF-8, with the line, or that cannot be unpacked.
    """
    for number, line in enumerate(_byte_lines(path), start=1):
        place = Place(path, number)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield place, line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{place}: byte {error.start + 1} of the line, 0x{line[error.start]:02x}, is not "
                "UTF-8. Convert the file, e.g. with `iconv -f latin1 -t utf-8`."
            ) from error


def _byte_lines(path: str) -> Iterator[bytes]:
    if not path.endswith(".gz"):
        with open(path, "rb") as file:
            yield from file
        return
    lines = 0
    with gzip.open(path) as packed:
        try:
            for line in packed:
                yield line
                lines += 1
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"{path}, line {lines + 1}: the file cannot be unpacked from here on ({error}). Is it cut "
                "off, or no gzip file at all?"
            ) from error


def parse_table(
    paths: tuple[str, ...],
    split: str,
    *,
    columns: dict[str, str],
    header: tuple[str, ...] | None = None,
    drop_short_rows: bool = False,
) -> Iterator[Located]:
    """Records of tab-separated files in which quotes mean nothing, as GLUE's; empty lines are skipped.

    Args:
        columns: field -> its column's name.
        header: the columns' names where the file has no line for them.
        drop_short_rows: leave out rows that end before the last column that is wanted, or whose last
            one is empty; otherwise they are an error.

    Raises:
        UserError: a column is missing, or a row too short.
    """
    del split
    for path in paths:
        lines = text_lines(path)
        if header is None:
            place, line = next(lines, (Place(path, 1), ""))
            names = line.split("\t")
        else:
            place, names = Place(path, 1), list(header)
        if missing := set(columns.values()) - set(names):
            raise UserError(
                f"{place}: there is no column {', '.join(map(repr, sorted(missing)))}; the columns "
                f"are {', '.join(map(repr, names))}."
            )
        indices = {field: names.index(column) for field, column in columns.items()}
        last = max(indices.values())
        for place, line in lines:
            if not line:
                continue
            cells = line.split("\t")
            if len(cells) > last and not (drop_short_rows and not cells[last]):
                yield place, {field: cells[index] for field, index in indices.items()}
            elif not drop_short_rows:
                raise UserError(
                    f"{place}: {len(cells)} columns; expected at least {last + 1}, the last of them "
                    f"{names[last]!r}."
                )


def json_lines(path: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects of a file with one JSON object a line; empty lines are skipped.

    Raises:
        UserError: a line that is something else.
    """
    for place, line in text_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{place}: not JSON ({error.msg}, column {error.colno}).") from error
        if not isinstance(value, dict):
            raise UserError(f"{place}: a JSON {type(value).__name__}; expected an object {{...}}.")
        yield place, value
