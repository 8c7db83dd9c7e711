"""Rows of results: a table for people, JSON for programs, the same numbers in both.

A file of results holds one object for each benchmark, by name; docs/write_benchmarks.py makes the page
of it.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from problem import SIZES
from rich.console import Console
from rich.table import Table
from turns import Ratio


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        what: is told, e.g. "PEFT / ours".
        value: what the target is about; for ratios of time the one in wall time.
        target: ">= 1.15", "<= 1.1", or empty where there is none.
        spread: of `value` over the rounds, largest less smallest.
        cpu, cpu_spread: the same ratio in CPU-seconds.
    """

    what: str
    value: float
    target: str = ""
    spread: float | None = None
    cpu: float | None = None
    cpu_spread: float | None = None

    @classmethod
    def of_ratio(cls, what: str, ratio: Ratio, target: str = "") -> "Row":
        return cls(what, ratio.wall, target, ratio.wall_spread, ratio.cpu, ratio.cpu_spread)

    @property
    def met(self) -> bool | None:
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.value >= float(bound) if sign == ">=" else self.value <= float(bound)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        name: of the script.
        title: what was measured, in a line.
        rows: figures with their targets.
        notes: checks that held, and what was left out, a line each.
        settings: sizes, rounds, device.
        raw: seconds of every turn and facts of every worker.
    """

    name: str
    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def show(self) -> None:
        table = Table(title=self.title, title_justify="left")
        table.add_column("")
        for heading in ("wall or value", "spread", "CPU", "spread", "target", ""):
            table.add_column(heading, justify="right")
        for row in self.rows:
            met = {None: "", True: "met", False: "missed"}[row.met]
            numbers = (row.value, row.spread, row.cpu, row.cpu_spread)
            table.add_row(row.what, *map(shown, numbers), row.target, met)
        console = Console()
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", highlight=False)

    def write(self, output: Path) -> None:
        """Puts the result into the file `output`, in place of an earlier one of the same name."""
        held = json.loads(output.read_text()) if output.exists() else {}
        own = {**dataclasses.asdict(self), "rows": [
            {**dataclasses.asdict(row), "met": row.met} for row in self.rows
        ]}  # fmt: skip
        beside = output.with_name(output.name + ".new")
        beside.write_text(json.dumps({**held, self.name: own}, indent=1) + "\n")
        os.replace(beside, output)

    def finish(self, output: Path | None) -> None:
        self.show()
        if output is not None:
            self.write(output)


def shown(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}" if abs(number) < 1 else f"{number:.2f}"


def parser(description: str, rounds: int = 7) -> argparse.ArgumentParser:
    """With the flags that all benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--size", choices=SIZES, default="small", help="of model and batch")
    made.add_argument("--rounds", type=int, default=rounds, help="turns of each worker")
    made.add_argument("--output", type=Path, help="JSON file of results, written or added to")
    return made


def settings(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What a reader must know beside the figures; nothing that names the machine."""
    return {
        "size": args.size, **dataclasses.asdict(SIZES[args.size]), "rounds": args.rounds,
        "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), **more,
    }  # fmt: skip
