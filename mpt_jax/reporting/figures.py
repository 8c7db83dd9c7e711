"""The look that all plots share: fonts, quiet axes, panels, one legend, PNG files 900 pixels wide or more."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mpt_jax.reporting.styles import Style

WIDTH = 9.0  # inches
DPI = 150  # 1350 pixels: shown at 900, the text is 13 to 15 pixels high
INK, QUIET, FAINT = "#222222", "#666666", "#DDDDDD"
MAJORITY_LINE: dict[str, Any] = {"color": QUIET, "linestyle": (0, (2, 2)), "linewidth": 1.4}
CEILING_COLOUR = "#000000"

_LOOK: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 2.0,
    "figure.facecolor": "white",
}


def draw(path: Path, height: float, paint: Callable[[Figure], None], width: float = WIDTH) -> Path:
    """Paints a figure of the common width and `height` inches, and writes it to `path`.

    Neither a display nor pyplot is needed, and the user's own matplotlib settings neither change the
    plots nor are changed (leaving an rc_context does not restore the backend, so it is not touched).
    """
    default = {name: v for name, v in matplotlib.rcParamsDefault.items() if name != "backend"}
    look: Any = {**default, **_LOOK}
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(width, height), dpi=DPI)
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
        paint(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})
    return path


def panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    """`count` panels in a grid with common axes; every lowest panel of a column has tick labels."""
    columns = min(columns, count)
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    flat = [axes for line in grid for axes in line]
    for i, axes in enumerate(flat):
        if i >= count:
            axes.set_visible(False)
        elif i + columns >= count:
            axes.tick_params(labelbottom=True)
    return flat[:count]


def heading(figure: Figure, title: str, detail: str = "") -> None:
    """A bold title over a line in grey, at the left."""
    text = title if not detail else f"{title}\n"
    figure.suptitle(text, x=0.01, ha="left", fontsize=12.5, fontweight="bold", color=INK)
    if detail:
        height = figure.get_size_inches()[1]
        figure.text(0.01, 1 - 0.33 / height, detail, ha="left", va="top", fontsize=9.5, color=QUIET)


def legend(figure: Figure, styles: Sequence[Style], extra: Sequence[Line2D] = ()) -> None:
    """One legend below the whole figure, in rows that its width can hold."""
    handles = []
    for s in styles:
        line: Any = s.line  # a name that matplotlib knows
        handles.append(
            Line2D(
                [], [], color=s.colour, marker=s.marker, linestyle=line, label=s.label, markersize=6
            )
        )
    handles += extra
    widest = max(len(str(h.get_label())) for h in handles)
    rows = -(-len(handles) * (widest + 7) // 105)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=-(-len(handles) // rows),  # rows of even length
        columnspacing=1.6,
        handlelength=2.6,
    )


def majority_handle() -> Line2D:
    return Line2D([], [], label="majority class", **MAJORITY_LINE)


def ceiling_handle(name: str) -> Line2D:
    return Line2D(
        [], [], color=CEILING_COLOUR, marker="|", markersize=11, linestyle="none",
        markeredgewidth=2.2, label=name,
    )  # fmt: skip


def score_limit(values: Sequence[float]) -> float:
    """The upper end of a score axis: a little over the highest, and 1 or 100 where that is near."""
    top = max([v for v in values if v == v], default=1.0)
    whole = 100.0 if top > 1.5 else 1.0
    return whole * 1.02 if top > 0.85 * whole else max(top * 1.12, 0.05 * whole)


def short(text: str, length: int = 26) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
