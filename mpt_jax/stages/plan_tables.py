"""Plans as a table for people, as JSON for programs, as Markdown for documents."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from mpt_jax.stages.planned import Planned
from mpt_jax.terminal import Output

NOT_KNOWN = "-"


def _gigabytes(value: float | None) -> str:
    return _number(value and value / 1e9, 2)


def _share(plan: Planned) -> str:
    if plan.arguments is None or plan.temporaries is None:
        return "refused"
    return f"{(plan.arguments + plan.temporaries) / plan.memory:.0%}"


def _collectives(plan: Planned) -> str:
    if plan.arguments is None:
        return NOT_KNOWN
    if not plan.collectives:
        return "none"
    return ", ".join(
        f"{total['count']} {kind} ({_number(total['bytes'] / 1e6, 2)} MB)"
        for kind, total in plan.collectives.items()
    )


def _mesh(plan: Planned) -> str:
    return f"{plan.setting.data} x {plan.setting.model}"


def _how(plan: Planned) -> str:
    parts = plan.setting.accumulate
    return plan.setting.remat + (f", {parts} parts" if parts > 1 else "")


def _number(value: float | None, digits: int = 1) -> str:
    """So many digits behind the point; of what is smaller, the first two that are not zero."""
    if value is None:
        return NOT_KNOWN
    if 0 < abs(value) < 10**-digits:
        return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"
    return f"{value:,.{digits}f}"


COLUMNS: dict[str, Callable[[Planned], str]] = {
    "step": lambda p: " ".join(filter(None, (p.model, p.stage, p.program))),
    "topology": lambda p: f"{p.topology} ({p.devices} x {p.chip})",
    "data x model": _mesh,
    "remat": _how,
    "B, T, L": lambda p: f"{p.rows}, {p.inputs}, {p.targets}",
    "arguments GB": lambda p: _gigabytes(p.arguments),
    "temporary GB": lambda p: _gigabytes(p.temporaries),
    "of memory": _share,
    "useful TFLOP": lambda p: _number(p.useful_flops / 1e12, 2),
    "ms at peak": lambda p: _number(p.seconds_at_peak and p.seconds_at_peak * 1e3),
    "collectives a step": _collectives,
    "host GB": lambda p: f"{p.host_memory / 1e9:.1f}",
    "compile s (CPU s)": lambda p: f"{p.compile_seconds:.0f} ({p.compile_cpu_seconds:.0f})",
    "hours": lambda p: _number(p.hours),
    "device-hours": lambda p: _number(p.device_hours, 0),
}


def as_json(plans: Sequence[Planned]) -> str:
    return json.dumps([dataclasses.asdict(p) | {"fits": p.fits} for p in plans], indent=1)


def as_markdown(plans: Sequence[Planned]) -> str:
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(show(plan) for show in COLUMNS.values()) for plan in plans]
    return "\n".join(f"| {line} |" for line in lines)


def show(plans: Sequence[Planned], console: Console) -> None:
    """One block for each plan: a row of fifteen columns fits no terminal."""
    for plan in plans:
        table = Table(show_header=False, box=None, padding=(0, 2))
        for name, text in COLUMNS.items():
            table.add_row(name, text(plan))
        table.add_row("fits", "yes" if plan.fits else f"[bold red]no[/]: {plan.verdict}")
        if plan.reason:
            table.add_row("chosen", plan.reason)
        console.print(table)
        console.print()
    if plans:
        console.print(
            f"Bytes and FLOPs are of one device and step; hours are of {plans[0].steps:,} steps at an "
            f"assumed {plans[0].utilisation:.0%} of the chip's peak, what is computed twice included. "
            "Host memory is an estimate."
        )


FORMS: dict[str, Callable[[Sequence[Planned]], None]] = {
    "table": lambda plans: show(plans, Output()),
    "json": lambda plans: print(as_json(plans)),
    "markdown": lambda plans: print(as_markdown(plans)),
}
