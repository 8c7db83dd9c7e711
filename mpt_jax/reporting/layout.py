"""A table as data, and its two faces: rich for the terminal, Markdown for the report."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from mpt_jax.reporting.line_breaks import Parts, broken, letters, longest, pieces, whole, words
from mpt_jax.reporting.summaries import Spread, distinct

NOTHING = "–"
SOURCES, TARGETS, PROMPTS, COST = SECTIONS = (
    "Source tasks",
    "Target tasks",
    "Task prompts",
    "Cost",
)


class Way(NamedTuple):
    """What is kept whole of heads, of cells with text and of those with numbers."""

    heads: Parts
    texts: Parts
    numbers: Parts


# The table comes in parts before those of the next line are tried.
WAYS = (
    (Way(words, whole, whole), Way(pieces, whole, whole), Way(pieces, words, whole)),
    (Way(pieces, pieces, whole),),
    (Way(letters, letters, letters),),
)


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """One line; a `summary` (a mean over the lines above) is set off from them."""

    cells: list[Cell]
    summary: bool = False


@dataclass
class Table:
    """Title, column heads and rows; the first `text_columns` are text, the others numbers.

    All of it is plain text: the terminal would show marks of Markdown, and Markdown escapes them.
    `section` says under which of SECTIONS the report has it.
    """

    title: str
    columns: list[str]
    caption: str = ""
    text_columns: int = 1
    section: str = ""
    rows: list[Row] = field(default_factory=list)

    def add(self, *cells: Cell | str, summary: bool = False) -> None:
        whole = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        if len(whole) != len(self.columns):
            raise ValueError(
                f"table {self.title!r}: got {len(whole)} cells for {len(self.columns)} columns."
            )
        self.rows.append(Row(whole, summary))

    def rich(self, width: int) -> Group:
        """The table for a terminal of `width` characters.

        Where its columns do not fit side by side, the columns of numbers come in several parts, each with
        the texts in front. Only where that does not help either, names and then words are broken.
        """
        parts = [self._part(*one) for one in self._parts(width)]
        parts[0].title, parts[-1].caption = self.title, self.caption or None
        return Group(*parts)

    def _parts(self, width: int) -> list[tuple[Sequence[int], int, list[int]]]:
        """Each part's columns, the space between them and their widths."""
        texts, numbers = range(self.text_columns), range(self.text_columns, len(self.columns))
        divided = [
            [[*texts, *run] for run in _runs(numbers, count)]
            for count in range(1, max(len(numbers), 1) + 1)
        ]
        for ways, shares in itertools.product(WAYS, divided):
            found = [(share, self._widths(share, ways, width)) for share in shares]
            if parts := [(share, *one) for share, one in found if one is not None]:
                if len(parts) == len(shares):
                    return parts
        return [(share, 1, [1] * len(share)) for share in divided[-1]]

    def _part(self, share: Sequence[int], gap: int, widths: Sequence[int]) -> RichTable:
        """Some of the columns."""
        table = RichTable(
            box=box.SIMPLE_HEAD,  # has one space between columns of its own
            title_style="bold",
            title_justify="left",
            caption_justify="left",
            padding=(0, gap - 1, 0, 0),
            pad_edge=False,
        )
        for i, width in zip(share, widths, strict=True):
            table.add_column(
                Text(broken(self.columns[i], width)),
                justify="left" if i < self.text_columns else "right",
                width=width,
            )
        for row, after in zip(self.rows, [*self.rows[1:], None], strict=True):
            last = after is not None and after.summary and not row.summary
            cells = [
                Text(broken(row.cells[i].text, width), style="bold" if row.cells[i].bold else "")
                for i, width in zip(share, widths, strict=True)
            ]
            table.add_row(*cells, style="italic" if row.summary else None, end_section=last)
        return table

    def _widths(
        self, share: Sequence[int], ways: Sequence[Way], width: int
    ) -> tuple[int, list[int]] | None:
        """Space between some columns and their widths, by the first way that fits, if any."""
        for way, gap in itertools.product(ways, (2, 1)):
            least = [
                longest(
                    [
                        *way.heads([self.columns[i]]),
                        *(way.texts if i < self.text_columns else way.numbers)(self._cells(i)),
                    ]
                )
                for i in share
            ]
            if (found := self._narrowed(share, least, width, gap)) is not None:
                return gap, found
        return None

    def _cells(self, column: int) -> list[str]:
        return [row.cells[column].text for row in self.rows]

    def _narrowed(
        self, share: Sequence[int], least: Sequence[int], width: int, gap: int
    ) -> list[int] | None:
        """The columns' widths, narrowed where most can be saved; None where they do not fit."""
        widths = [longest([self.columns[i], *self._cells(i)]) for i in share]
        spare = width - 2 - gap * len(share)  # the box has an edge on either side
        while sum(widths) > spare:
            slack = [w - m for w, m in zip(widths, least, strict=True)]
            if max(slack) <= 0:
                return None
            widths[slack.index(max(slack))] -= 1
        return widths

    def markdown(self, level: int = 3) -> str:
        """The table as GitHub's Markdown, headed by its title and followed by its caption.

        Args:
            level: of the heading.
        """
        heads = [_escape(column) for column in self.columns]
        rules = ["---" if i < self.text_columns else "---:" for i in range(len(heads))]
        lines = [f"{'#' * level} {_escape(self.title)}", "", _line(heads), _line(rules)]
        for row in self.rows:
            texts = [
                _mark(cell, row.summary and i < self.text_columns)
                for i, cell in enumerate(row.cells)
            ]
            lines.append(_line(texts))
        if self.caption:
            lines += ["", f"*{_escape(self.caption)}*"]
        return "\n".join(lines) + "\n"


def number(value: float | None, decimals: int = 3, *, sign: bool = False) -> str:
    """`.638`, `1.000`, `−.021`, or a dash for None and nan."""
    if value is None or math.isnan(value):
        return NOTHING
    text = f"{abs(value):.{decimals}f}"
    is_zero = not text.strip("0.")
    text = text[1:] if text.startswith("0.") else text
    if value < 0 and not is_zero:
        return "−" + text
    return "+" + text if sign and not is_zero else text


def with_spread(value: Spread, decimals: int = 3) -> str:
    """Mean ± standard deviation; the mean alone where one seed was run."""
    if value.count == 0 or math.isnan(value.mean):
        return NOTHING
    mean = number(value.mean, decimals)
    return mean if math.isnan(value.deviation) else f"{mean} ±{number(value.deviation, decimals)}"


def decimals_for(values: Iterable[float | None]) -> int:
    """3 for scores between 0 and 1, 1 for scores in hundreds (seqio's accuracy runs to 100)."""
    sizes = [abs(v) for v in values if v is not None and not math.isnan(v)]
    return 1 if sizes and max(sizes) > 1.5 else 3


def span(values: Iterable[float]) -> str:
    """`500`, or `180–500` where they differ."""
    values = sorted(set(values))
    if not values:
        return NOTHING
    return "–".join(distinct(f"{v:,.0f}" for v in (values[0], values[-1])))


def _runs(columns: Sequence[int], count: int) -> list[Sequence[int]]:
    """The columns in `count` runs of nearly equal length."""
    ends = [i * len(columns) // count for i in range(count + 1)]
    return [columns[a:b] for a, b in itertools.pairwise(ends)]


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _mark(cell: Cell, emphasis: bool) -> str:
    text = _escape(cell.text)
    if cell.bold:
        return f"**{text}**"
    return f"*{text}*" if emphasis and text else text


def _escape(text: str) -> str:
    for special in "\\|*<":
        text = text.replace(special, "\\" + special)
    return text
