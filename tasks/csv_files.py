"""Comma-separated files in which cells may be quoted and hold line feeds."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from mpt_jax.errors import UserError
from mpt_jax.tasks.data_set import Place
from mpt_jax.tasks.readers import text_lines


def csv_rows(path: str) -> Iterator[tuple[Place, list[str]]]:
    """The rows of a file in UTF-8, each with the line that it starts on; empty lines are skipped.

    Raises:
        UserError: quotes that do not match, or bytes that are not UTF-8, with the line.
    """
    lines = (f"{line}\n" for _, line in text_lines(path))
    reader = csv.reader(lines, strict=True)  # else an unclosed quote would swallow the rest
    start = 1
    try:
        for row in reader:
            if row:
                yield Place(path, start), row
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{Place(path, start)}: not CSV ({error}). Expected cells in double quotes, with double "
            'quotes inside them doubled: "He said ""yes""."'
        ) from error


def csv_records(path: str, columns: tuple[str, ...]) -> Iterator[tuple[Place, dict[str, str]]]:
    """The named columns of a file whose first row names its columns.

    Raises:
        UserError: no such column, or a row with more or fewer cells than the first.
    """
    header: list[str] = []
    for place, row in csv_rows(path):
        if not header:
            header = row
            if missing := [name for name in columns if name not in header]:
                raise UserError(
                    f"{place}: there is no column {', '.join(map(repr, missing))}; the columns are "
                    f"{', '.join(map(repr, header))}."
                )
        elif len(row) != len(header):
            raise UserError(f"{place}: {len(row)} cells; expected {len(header)}, as in the header.")
        else:
            cells = dict(zip(header, row, strict=True))
            yield place, {name: cells[name] for name in columns}
