"""Rows out of CSV, TSV, JSON lines and Parquet files, as text, each with its place in the file.

The suffix says which form a file has:

- `.csv`: comma-separated; a field in double quotes may hold commas, line breaks and doubled quotes.
- `.tsv`: tab-separated, and quotes are text like any other (text/tab-separated-values).
- `.jsonl`, `.ndjson`: an object a line; numbers stay as they are written, true and false too.
- `.parquet`: numbers, times and the like become text as Arrow casts them.

Text is UTF-8, with or without a byte order mark. The first line of CSV and TSV names the columns. White
space round a value does not count; null is no text.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpt_jax.errors import UserError, unknown_name


class Row(NamedTuple):
    """One row: where it stands, as messages say it, and column -> text."""

    place: str
    values: dict[str, str]


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a file, in its order, with the columns asked for.

    Raises:
        UserError: no such file, a form that is not known, text that is not UTF-8, a file that is not of
            the form that its suffix says, or a column that is missing; with file and line.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path}: expected a table whose name ends in {', '.join(READERS)}; the suffix says how it is "
            "read."
        )
    if not path.is_file():
        folder = path.parent
        near = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
        hint = unknown_name("file", path.name, near) if near else f"no files in {folder.absolute()}"
        raise UserError(f"There is no table {path}: {hint}.")
    try:
        return [
            Row(place, {name: text.strip() for name, text in values.items()})
            for place, values in reader(path, columns)
        ]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    for mark, name in _FOREIGN_MARKS:
        if content.startswith(mark):
            raise UserError(
                f"{path} is {name} text (its byte order mark says so); expected UTF-8. Convert it: "
                f"iconv -f {name} -t UTF-8 {path.name} > new{path.suffix}"
            )
    if (offset := content.find(b"\0")) >= 0:
        raise UserError(
            f"{path}, line {_line(content, offset)} (byte offset {offset}): a NUL byte, which no text has. "
            "UTF-16 without a byte order mark looks like this, and so do binary files; expected UTF-8."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder counts from behind the mark.
        offset = error.start + len(content) - len(error.object)
        raise UserError(
            f"{path}, line {_line(content, offset)} (byte offset {offset}): the byte "
            f"0x{content[offset]:02x} is not UTF-8 there. If the file is from Windows, convert it: iconv -f "
            f"WINDOWS-1252 -t UTF-8 {path.name} > new{path.suffix}"
        ) from error


_FOREIGN_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16's, which its own begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def _line(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1


def _check_columns(wanted: Sequence[str], there: Sequence[str], place: str) -> None:
    for name in wanted:
        if name not in there:
            listed = ", ".join(map(repr, there[:12])) + (", ..." if len(there) > 12 else "")
            raise UserError(
                f"{place}: {unknown_name('column', name, there)} (in a template; the columns are {listed})"
                + _separator_hint(there)
            )
        if there.count(name) > 1:
            raise UserError(f"{place}: two columns are called {name!r}; rename one of them.")


def _separator_hint(header: Collection[str]) -> str:
    joined = "".join(header)
    found = next((c for c in (";", "\t", ",", "|") if len(header) == 1 and c in joined), None)
    if found is None:
        return ""
    return (
        f". The line holds {found!r}: a .csv file is read with commas between its columns, a .tsv file "
        "with tabs."
    )


def _delimited(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[tuple[str, dict]]:
    lines = io.StringIO(_read_text(path), newline="")
    records = csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    header: list[str] = []
    while True:
        place = f"{path}, line {records.line_num + 1}"
        try:
            with _fields_of_any_length():
                fields = next(records, None)
        except csv.Error as error:
            raise UserError(
                f"{place}: this is not CSV ({error}). A field that holds quotes, commas or line breaks "
                "must stand in double quotes, and quotes in it are doubled."
            ) from error
        if fields is None:
            break
        if not fields:  # a blank line
            continue
        if not header:
            header = [name.strip() for name in fields]
            _check_columns(columns, header, place)
            continue
        if len(fields) != len(header):
            raise UserError(
                f"{place}: {len(fields)} field(s), but the first line names {len(header)} columns"
                + (
                    ". A field that holds commas must stand in double quotes."
                    if delimiter == ","
                    else "."
                )
            )
        row = dict(zip(header, fields, strict=True))
        yield place, {name: row[name] for name in columns}
    if not header:
        raise UserError(f"{path} is empty; expected a first line with the columns' names.")


@contextlib.contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """csv's limit, 128 KiB a field, is the process's; a document may be longer."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _comma_separated(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
    return _delimited(path, columns, ",")


def _tab_separated(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
    return _delimited(path, columns, "\t")


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
    # Not splitlines: JSON's strings may hold other separators than the line feed.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            # Numbers stay as they are written: 1.0 is not 1 where it is a label.
            value = json.loads(
                line, parse_int=str, parse_float=str, parse_constant=_no_json,
                object_pairs_hook=_without_repetition,
            )  # fmt: skip
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{place}: not JSON ({error}). Expected one whole object on each line."
            ) from error
        if not isinstance(value, dict):
            raise UserError(
                f"{place}: expected an object with columns, {{...}}, and got "
                f"{'a list: write its items one a line' if isinstance(value, list) else repr(value)}."
            )
        _check_columns(columns, list(value), place)
        yield place, {name: _json_text(value[name], name, place) for name in columns}


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON value")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} is there twice")
        found[name] = value
    return found


def _json_text(value: Any, column: str, place: str) -> str:
    if isinstance(value, list | dict):
        raise UserError(
            f"{place}: column {column!r} holds {'a list' if isinstance(value, list) else 'an object'}; "
            "expected text, a number, true, false or null."
        )
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        value.encode()
    except UnicodeEncodeError as error:  # \ud800 without its other half is valid JSON
        raise UserError(
            f"{place}: column {column!r} holds half a character, {error.object[error.start]!r}."
        ) from error
    return str(value)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
    import pyarrow
    from pyarrow import parquet

    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        if start != b"PAR1" or file.read(4) != b"PAR1":
            raise UserError(
                f"{path} is no Parquet file, or a part of one: it must begin and end with PAR1, and begins "
                f"with {start!r}. If it is CSV or JSON lines, give it that suffix."
            )
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(columns, names, str(path))
            table = file.read(columns=list(columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is a damaged Parquet file: {error}") from error
    texts = []
    for name in columns:
        kind = table.schema.field(name).type
        # Bytes that are UTF-8 could be cast too, but are most often no text.
        castable = not (pyarrow.types.is_nested(kind) or "binary" in str(kind))
        try:
            texts.append(table.column(name).cast(pyarrow.string()).to_pylist() if castable else [])
        except pyarrow.ArrowException:
            castable = False
        if not castable:
            raise UserError(f"{path}: column {name!r} is of the type {kind}; expected text.")
    for number, row in enumerate(zip(*texts, strict=True), start=1):
        values = {n: "" if text is None else text for n, text in zip(columns, row, strict=True)}
        yield f"{path}, row {number}", values


READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[tuple[str, dict]]]] = {
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
