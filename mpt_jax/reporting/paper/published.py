"""The published figures of Wang et al. 2023, each with where it was read and what speaks against it.

`published.json` holds them. The paper's text could not be opened, so every figure names the source that
it was copied from, or says that it is from memory. Doubts that arithmetic alone raises (a printed average
that its cells do not give) are found here, the others stand in the file.
"""

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpt_jax.errors import unknown_name

FILE = Path(__file__).with_name("published.json")
AVERAGE, PARAMETERS = "average", "parameters"
LETTERS = {"K": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True)
class Figure:
    """One number of a table.

    Attributes:
      value: as printed; None where it was not found.
      deviation: over the authors' runs; None where none is printed.
      source: key of `PublishedTable.sources`.
      doubts: sentences.
    """

    value: float | None
    deviation: float | None
    source: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedRow:
    """One method's line.

    Attributes:
      label: its name in the table.
      method: our name of the method, whether mpt_jax has it or not.
      multi_target: whether it is trained on all tasks of the table together.
      later: whether the line is not from the paper's own tables but from those of later papers.
      parameters: per task, as printed ("77.6K"); None where nothing is.
      parameter_doubts: sentences.
      cells: a figure for each column.
      average: over the columns; None where none is printed.
    """

    label: str
    method: str
    multi_target: bool
    later: bool
    parameters: str | None
    parameter_doubts: tuple[str, ...]
    cells: Mapping[str, Figure]
    average: Figure | None


@dataclass(frozen=True)
class PublishedTable:
    """A table: its title, its columns, its lines in the published order, and what its sources are."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class TaskFacts:
    """A data set's published size: examples of each role, mean tokens of an input; None: not found."""

    train: int | None
    validation: int | None
    test: int | None
    input_tokens: float | None
    source: str


def published_table(name: str) -> PublishedTable:
    """The table of that name.

    Raises:
      UserError: unknown, with the names that there are.
    """
    content = _content()
    if name not in content["tables"]:
        raise unknown_name("published table", name, content["tables"])
    table = content["tables"][name]
    rows = tuple(_row(row, table) for row in table["rows"])
    return PublishedTable(name, table["title"], tuple(table["columns"]), rows, content["sources"])


def published_names() -> tuple[str, ...]:
    return tuple(_content()["tables"])


def task_facts(task: str) -> TaskFacts | None:
    """What is published of a task's data set; None for a task that the paper does not have."""
    facts = _content()["tasks"].get(task)
    return None if facts is None else TaskFacts(**facts)


@dataclass(frozen=True)
class Difference:
    """What mpt_jax counts where that is knowingly not what others count or print."""

    count: int
    why: str


def exact_counts(width: int) -> Mapping[str, int]:
    """Parameters per task by method, for a T5 v1.0 of that width and a prompt of 100; none if unknown.

    Those of methods that are not in the paper's tables alone are ATTEMPT's code's, counted there.
    """
    return _counts(width).get("methods", {})


def differences(width: int) -> Mapping[str, Difference]:
    """Where ours differ from `exact_counts` or from what is printed, by method."""
    return {
        method: Difference(**difference)
        for method, difference in _counts(width).get("differences", {}).items()
    }


def _counts(width: int) -> Mapping[str, Any]:
    found = _content()["counts"].values()
    return next((counts for counts in found if counts["width"] == width), {})


def parse_count(printed: str) -> float:
    """77600.0 of "77.6K"."""
    return _parse(printed)[0]


def fits(count: int, printed: str) -> bool:
    """Whether `count` is what is printed ("77.6K", "220M"), rounded or cut to as many digits."""
    value, unit = _parse(printed)
    return value - unit / 2 <= count < value + unit


def _parse(printed: str) -> tuple[float, float]:
    """A printed count and the worth of its last digit that says something."""
    found = re.fullmatch(r"(\d+?)(0*)(?:\.(\d+))?([KMB])", printed)
    if found is None:
        raise ValueError(f"{printed!r} is no number like '77.6K'.")
    letter = LETTERS[found[4]]
    # Noughts before the letter say nothing: 220M may be 223 million in two digits.
    digits = -len(found[3]) if found[3] else len(found[2])
    return float(printed[:-1]) * letter, letter * 10.0**digits


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def _row(row: Mapping[str, Any], table: Mapping[str, Any]) -> PublishedRow:
    sources = row.get("cell_sources", {})
    deviations = row.get("deviations", [None] * len(table["columns"]))
    cells = {
        column: Figure(
            value, deviation, sources.get(column, row["source"]),
            (*_doubts(row, column), *_value_doubts(table, column, value)),
        )
        for column, value, deviation in zip(table["columns"], row["cells"], deviations, strict=True)
    }  # fmt: skip
    average = None
    if "average" in row or _doubts(row, AVERAGE):
        value = row.get("average")
        doubts = (*_mean_doubts(row["cells"], value), *_doubts(row, AVERAGE))
        average = Figure(value, None, sources.get(AVERAGE, row["source"]), doubts)
    return PublishedRow(
        row["label"], row["method"], row["multi_target"], row["group"] == "later",
        row["parameters"], _doubts(row, PARAMETERS), cells, average,
    )  # fmt: skip


def _doubts(row: Mapping[str, Any], what: str) -> tuple[str, ...]:
    return tuple(d["text"] for d in row.get("doubts", ()) if what in d["cells"])


def _value_doubts(table: Mapping[str, Any], column: str, value: float | None) -> tuple[str, ...]:
    """Doubts about a value wherever it stands in a column, such as a constant answer's score."""
    return tuple(
        d["text"]
        for d in table.get("value_doubts", ())
        if (d["column"], d["value"]) == (column, value)
    )


def _mean_doubts(cells: Sequence[float | None], printed: float | None) -> tuple[str, ...]:
    known = [cell for cell in cells if cell is not None]
    if printed is None or len(known) < len(cells):
        return ()
    mean = math.fsum(known) / len(known)
    if math.isclose(mean, printed, abs_tol=0.05 + 1e-9):
        return ()
    cut = printed <= mean < printed + 0.1
    return (
        f"The cells' mean is {mean:.2f}: "
        + ("cut, not rounded." if cut else "not what is printed."),
    )
