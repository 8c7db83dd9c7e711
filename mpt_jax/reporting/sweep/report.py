"""The written report of a sweep: `report.md`, `sweep.json` and `plots/`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpt_jax.reporting.layout import Table, number, with_spread
from mpt_jax.reporting.report import PLOTS_FOLDER, REPORT_FILE, bullets
from mpt_jax.reporting.sweep.plots import effect_plot, history_plot, mixture_map
from mpt_jax.reporting.sweep.records import (
    ALL,
    SOURCES,
    Sweep,
    best,
    described,
    difference,
    mean_majority,
    score,
    values,
)
from mpt_jax.reporting.sweep.tables import (
    best_table,
    effect_table,
    measured,
    mixture_table,
    places,
    unfinished_table,
)
from mpt_jax.run_directory import write_json, write_text

SWEEP_FILE = "sweep.json"
CAVEATS = (
    "The best step of each prompt and the order of the settings are chosen on the same validation data, so "
    "the best score is too high, the more so the more settings there are. Confirm a choice with `mpt "
    "evaluate` on the test split, which nothing here has read.",
    "A seed is a start of the distilled prompt and a draw of few-shot examples. The teachers and the order "
    "of the source tasks' examples are common to all seeds, so the spread leaves theirs out.",
)


class Report(NamedTuple):
    """A written report, and the tables for the terminal."""

    path: Path
    tables: tuple[Table, ...]


def write_sweep(sweep: Sweep, folder: Path, title: str, notes: Sequence[str] = ()) -> Report:
    """Writes the report anew, from the records alone.

    Args:
        notes: what the reader must know to judge the numbers.
    """
    write_json(folder / SWEEP_FILE, sweep.plain())
    plots = folder / PLOTS_FOLDER
    best_settings = best_table(sweep) if sweep.done else None
    mixtures, effects = mixture_table(sweep), effect_table(sweep)
    unfinished = unfinished_table(sweep)
    parts: list[str] = [
        f"# {title}",
        _backbone_line(sweep),
        bullets("## In short", in_short(sweep)),
        _section(best_settings),
        _section(mixtures),
        _image(mixture_map(sweep, plots / "mixtures.png"), "Source mixtures by targets", folder),
        _section(effects),
        _image(effect_plot(sweep, plots / "effects.png"), "Score along each axis", folder),
        _image(history_plot(sweep, plots / "trials.png"), "All trials", folder),
        _section(unfinished),
        bullets("## How it was made", _made(sweep)),
        bullets("## Notes", [*notes, *CAVEATS]),
    ]
    write_text(folder / REPORT_FILE, "\n\n".join(p.strip() for p in parts if p) + "\n")
    tables = (best_settings, mixtures, effects, unfinished)
    return Report(folder / REPORT_FILE, tuple(table for table in tables if table is not None))


def in_short(sweep: Sweep) -> list[str]:
    """How far it is, the best setting, and which sources help most."""
    count = len(sweep.done)
    states = [t.state for t in sweep.trials if t.state != "done"]
    others = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    lines = [
        f"{count} settings have scores{f'; {others}' if others else ''}. Scores: {measured(sweep)}."
    ]
    digits = places(sweep)
    if ranked := best(sweep):
        first = ranked[0]
        majority = number(mean_majority(sweep), digits)
        lines.append(
            f"Best: {described(first.setting, sweep.base)} (trial {first.number}), "
            f"{with_spread(score([first]), digits)}; the majority class scores {majority}."
        )
        base = [trial for trial in ranked if trial.setting == sweep.base]
        if base and base[0] is not first:
            place = ranked.index(base[0]) + 1
            lines.append(f"The base is number {place}, {with_spread(score(base), digits)}.")
    found = values(sweep, SOURCES)
    if ALL in found and len(found) > 1:
        mean = {m: difference(sweep, SOURCES, m, ALL) for m in found if m != ALL}
        ordered = sorted(mean, key=lambda name: mean[name].mean)
        for name, word in ((ordered[0], "loses"), (ordered[-1], "gains")):
            if (mean[name].mean < 0) == (word == "loses"):
                lines.append(
                    f"Against all sources the mixture *{name}* {word} most: "
                    f"{number(mean[name].mean, digits, sign=True)} ± {number(mean[name].error, digits)} "
                    "(standard error over seeds)."
                )
    return lines


def _made(sweep: Sweep) -> list[str]:
    seconds = sum(trial.seconds for trial in sweep.trials)
    told = {name: _plain(value) for name, value in sweep.about.items()}
    lines = [f"{name}: {text}" for name, text in told.items() if text]
    lines.append(f"base: {', '.join(f'{n} {v}' for n, v in sweep.base.items())}")
    metrics = {target["metric"] for target in sweep.targets.values()}
    lines.append(f"metrics: {', '.join(sorted(metrics))}")
    lines += [
        f"mixture {name}: {', '.join(tasks)}"
        for name, tasks in sweep.mixtures.items()
        if not name.startswith(("without ", "only "))
    ]
    if seconds:
        lines.append(
            f"training, teachers not counted: {seconds:,.0f} s for the settings with scores"
        )
    return lines


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _backbone_line(sweep: Sweep) -> str:
    b = sweep.backbone
    return (
        f"Backbone: **{b['name']}** (fingerprint `{b['fingerprint']}`, {b['parameters']:,} parameters, all "
        "frozen)."
    )


def _section(table: Table | None) -> str:
    """A table under its own title alone."""
    return "" if table is None else table.markdown(level=2)


def _image(path: Path | None, caption: str, folder: Path) -> str:
    return "" if path is None else f"![{caption}]({path.relative_to(folder).as_posix()})"
