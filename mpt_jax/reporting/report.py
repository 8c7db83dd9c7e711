"""The written report of a run: `report.md` with tables and plots, and `results.json` beside it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt_jax.reporting.caveats import caveats
from mpt_jax.reporting.layout import SECTIONS, Table, decimals_for, number
from mpt_jax.reporting.plots import Plot, write_plots
from mpt_jax.reporting.results import Results, ResultsError
from mpt_jax.reporting.styles import MEANINGS, label, methods_of
from mpt_jax.reporting.summaries import (
    k_label,
    ks_of,
    paired_difference,
    seed_means,
    shared_tasks,
    shown_scores,
    spread,
)
from mpt_jax.reporting.tables import Subsets, all_tables, source_columns

REPORT_FILE, RESULTS_FILE, PLOTS_FOLDER = "report.md", "results.json", "plots"


def check_folder(results: Results, folder: str | Path) -> None:
    """Refuses a folder that holds another run's report; call it before training, too.

    Raises:
      ResultsError: there is a `results.json` of another id, or a `report.md` without any.
    """
    folder = Path(folder)
    if (folder / RESULTS_FILE).exists():
        found = Results.load(folder / RESULTS_FILE).id
        if found != results.id:
            raise ResultsError(
                f"{folder} holds the report of run {found}, this is run {results.id}; it is not "
                "overwritten. Name another --model_dir, or move the old report away."
            )
    elif (folder / REPORT_FILE).exists():
        raise ResultsError(
            f"{folder / REPORT_FILE} exists without a {RESULTS_FILE}, so it may be another run's; it "
            "is not overwritten. Name another --model_dir, or move the file away."
        )


def write_report(
    results: Results,
    folder: str | Path,
    title: str,
    notes: Sequence[str] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    method: str = "mpt",
    subsets: Subsets | None = None,
) -> Path:
    """Writes results.json, plots/*.png and report.md into `folder` and returns the path of the latter.

    Args:
      results: whatever there is so far; what has no records is left out.
      notes: what the reader must know to judge the numbers, a sentence or two each.
      settings: training settings by name; a mapping inside stands for a group.
      method: the one that is compared with each of the others.
      subsets: name -> target tasks, for means over a part of the tasks.

    Raises:
      ResultsError: the folder holds another run's report.
    """
    folder = Path(folder)
    check_folder(results, folder)
    results.save(folder / RESULTS_FILE)
    plots = write_plots(results, folder / PLOTS_FOLDER)
    tables = all_tables(results, method=method, subsets=subsets)
    parts = [
        f"# {title}",
        f"<!-- mpt_jax results {results.id} -->",
        backbone_line(results),
        _in_short(results, method),
        _how_to_read(results, subsets or {}),
        *_sections(tables, plots, folder),
        setup_section(results, settings or {}),
        bullets("## Notes", [*notes, *caveats(results)]),
    ]
    text = "\n\n".join(part.strip() for part in parts if part) + "\n"
    temporary = folder / f".{REPORT_FILE}.{os.getpid()}.tmp"
    temporary.write_text(text, encoding="utf-8")
    return temporary.replace(folder / REPORT_FILE)


def backbone_line(results: Results) -> str:
    """On what everything stands."""
    b = results.backbone
    if not b:
        return ""
    size = f", {b['parameters']:,} parameters, all frozen" if b.get("parameters") else ""
    name, fingerprint = b.get("name", "unnamed"), b.get("fingerprint", "unknown")
    precision = b.get("precision", "float32")
    kept = "" if precision == "float32" else f", in {precision}"
    return f"Backbone: **{name}** (fingerprint `{fingerprint}`{size}{kept}). Run `{results.id}`."


def _in_short(results: Results, method: str) -> str:
    """The main numbers as sentences, each with what keeps it in proportion."""
    lines = []
    columns = source_columns(results)
    tasks = shared_tasks(columns.values())
    values = {h: list(seed_means(of, tasks).values()) for h, of in columns.items()}
    means = {head: spread(of).mean for head, of in values.items() if of}
    if means:
        majorities = [
            s.majority for task in tasks for s in next(iter(columns.values())) if s.task == task
        ]
        known = [m for m in majorities if m is not None]
        beside = ""
        if known and len(known) == len(majorities):
            beside = f" The majority class scores {_score(spread(known).mean)}."
        listed = ", ".join(f"{head} {_score(mean)}" for head, mean in means.items())
        lines.append(f"Source tasks, mean of {len(tasks)}: {listed}.{beside}")
    scores = shown_scores(results, "adapt")
    for k in ks_of(scores):
        here = [s for s in scores if s.k == k]
        places = decimals_for(s.score for s in here)
        parts = []
        for control in methods_of(results):
            d = paired_difference(here, method, control) if control != method else None
            if d is not None:
                error = "" if d.error != d.error else f" ± {number(d.error, places)}"
                parts.append(
                    f"{number(d.mean, places, sign=True)}{error} against {label(control)} "
                    f"({d.verdict})"
                )
        if parts:
            tasks_here = len({s.task for s in here})
            lines.append(
                f"Target tasks ({tasks_here}), {k_label(k)}: {label(method)} is at "
                + "; ".join(parts)
                + ". Here ± is the standard error over (task, seed) pairs."
            )
    return bullets("## In short", lines)


def _score(value: float) -> str:
    return number(value, decimals_for([value]))


def _how_to_read(results: Results, subsets: Subsets) -> str:
    sources, targets = shown_scores(results, "teach", "distill"), shown_scores(results, "adapt")
    if not sources and not targets:
        return ""
    lines = [
        "Each score is the task's own metric on the split that its table names; higher is better. "
        "*Majority* is what always giving the most frequent answer of the split would score: a "
        "method that does not beat it has learnt nothing."
    ]
    if sources:
        lines.append(
            "On the source tasks, *teacher* is a prompt trained for that task alone; the columns after "
            "it are prompts made of one shared prompt and a small factor pair for each task."
        )
    if targets:
        seeds = ", ".join(str(seed) for seed in sorted({s.seed for s in targets}))
        lines.append(
            "On the target tasks every method trains on the same examples, drawn by seed "
            f"({seeds}); a seed also decides the start and the order of batches. Methods are best "
            "compared by the paired differences, which take out how lucky a draw of examples was, and "
            "by the curves, which tell faster learning from a better end."
        )
        present = {s.method for s in targets}
        lines += [f"*{label(m)}*: {MEANINGS[m]}." for m in MEANINGS if m in present]
    if results.ceilings:
        lines.append(
            "A ceiling such as naive Bayes is no prompt method: it says what the text alone gives away "
            "when all training examples are used."
        )
    lines += [f"*{name}*: {', '.join(tasks)}." for name, tasks in subsets.items()]
    return bullets("## How to read this", lines)


def _sections(tables: Sequence[Table], plots: Sequence[Plot], folder: Path) -> list[str]:
    """Tables and plots of one subject together."""
    sections: dict[str, list[str]] = {name: [] for name in SECTIONS}
    for table in tables:
        sections[table.section].append(table.markdown().strip())
    for plot in plots:
        link = plot.path.relative_to(folder).as_posix()
        sections[plot.section].append(f"![{plot.caption}]({link})")
    return ["\n\n".join([f"## {name}", *parts]) for name, parts in sections.items() if parts]


def setup_section(results: Results, settings: Mapping[str, Any]) -> str:
    """Times, versions and settings."""
    lines = []
    if results.seconds:
        times = ", ".join(f"{stage} {value:,.0f} s" for stage, value in results.seconds.items())
        lines.append(f"Run time: {times}; together {sum(results.seconds.values()):,.0f} s.")
    lines += [f"{name}: {_plain(value)}" for name, value in results.environment.items()]
    parts = [bullets("", lines).strip()] if lines else []
    if settings:
        table = Table("Training settings", ["setting", "value"], text_columns=2)
        for name, value in settings.items():
            group = value.items() if isinstance(value, Mapping) else [("", value)]
            for inner, one in group:
                table.add(f"{name}.{inner}" if inner else name, _plain(one))
        parts.append(table.markdown())
    return "## How it was made\n\n" + "\n\n".join(parts) if parts else ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)


def bullets(heading: str, lines: Sequence[str]) -> str:
    """A section of points; nothing where there are none."""
    return "\n".join([heading, "", *(f"- {line}" for line in lines)]) if lines else ""
