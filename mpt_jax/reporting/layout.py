"""A table as data, and its two faces: rich for the terminal, Markdown for the report."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from mpt_jax.reporting.summaries import Spread, distinct

NOTHING = "–"
SOURCES, TARGETS, PROMPTS, COST = SECTIONS = (
    "Source tasks",
    "Target tasks",
    "Task prompts",
    "Cost",
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

    def rich(self, width: int) -> RichTable:
        """The table for a terminal of `width` characters.

        Heads and cells break between words where they must, and inside a word only where nothing else
        helps, so that no column falls off the edge.
        """
        gap, widths = self._widths(width)
        table = RichTable(
            title=self.title,
            caption=self.caption or None,
            box=box.SIMPLE_HEAD,  # has one space between columns of its own
            title_style="bold",
            title_justify="left",
            caption_justify="left",
            padding=(0, gap - 1, 0, 0),
            pad_edge=False,
        )
        for i, column in enumerate(self.columns):
            table.add_column(
                Text(column),
                justify="left" if i < self.text_columns else "right",
                overflow="fold",
                width=widths[i],
            )
        for i, row in enumerate(self.rows):
            last = i + 1 < len(self.rows) and self.rows[i + 1].summary and not row.summary
            cells = [Text(cell.text, style="bold" if cell.bold else "") for cell in row.cells]
            table.add_row(*cells, style="italic" if row.summary else None, end_section=last)
        return table

    def _widths(self, width: int) -> tuple[int, list[int]]:
        """Space between columns and each column's width, narrowed where most can be saved."""
        texts = [[c, *(row.cells[i].text for row in self.rows)] for i, c in enumerate(self.columns)]
        words = [max((len(w) for t in ts for w in t.split()), default=1) for ts in texts]
        whole_cells = [
            max([w, *map(len, ts[1:])]) for ts, w in zip(texts, words, strict=True)
        ]  # only the heads break
        tries = ((2, whole_cells), (1, whole_cells), (2, words), (1, words), (1, [3] * len(texts)))
        for gap, least in tries:
            widths = [max(map(len, ts)) for ts in texts]
            spare = width - 2 - gap * len(texts)  # the box has an edge on either side
            while sum(widths) > spare:
                slack = [w - m for w, m in zip(widths, least, strict=True)]
                if max(slack) <= 0:
                    break
                widths[slack.index(max(slack))] -= 1
            if sum(widths) <= spare:
                break
        return gap, widths

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
