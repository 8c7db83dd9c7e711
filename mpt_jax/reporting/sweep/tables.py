"""The tables of a sweep."""

from mpt_jax.reporting.layout import (
    NOTHING,
    TARGETS,
    Cell,
    Table,
    decimals_for,
    number,
    with_spread,
)
from mpt_jax.reporting.summaries import Spread, k_label
from mpt_jax.reporting.sweep.records import (
    ALL,
    SOURCES,
    Sweep,
    at,
    best,
    described,
    difference,
    is_clear,
    is_paired,
    mean_majority,
    score,
    shown,
    values,
)

BEST = 10
MOST_VALUES = 12  # of an axis with more (a range) the plot alone tells


def measured(sweep: Sweep) -> str:
    """What every score of the report is."""
    about = sweep.about
    ks = ", ".join(k_label(k) for k in about["shots"])
    examples = sorted({target["examples"] for target in sweep.targets.values()})
    many = f"{examples[0]}" if len(examples) == 1 else f"{examples[0]} to {examples[-1]}"
    return (
        f"validation split, {many} examples a task, mean of {len(sweep.targets)} target tasks, {ks}, "
        f"{about['num_seeds']} seeds"
    )


def places(sweep: Sweep) -> int:
    return decimals_for(row["score"] for trial in sweep.done for row in trial.rows)


def best_table(sweep: Sweep) -> Table:
    """The best settings, and the base beside them."""
    table = Table(
        "The best settings",
        ["rank", "trial", "setting", "mean score", "source tasks"],
        f"Scores: {measured(sweep)}; ± standard deviation over seeds. A setting is told by what differs from "
        "the base. The source tasks' score is the distilled prompts' mean on the setting's own source tasks, "
        "which does not compare between mixtures.",
        text_columns=3,
        section=TARGETS,
    )
    ranked, digits = best(sweep), places(sweep)
    for rank, trial in enumerate(ranked, start=1):
        if rank <= BEST or trial.setting == sweep.base:
            table.add(
                str(rank), str(trial.number), described(trial.setting, sweep.base),
                with_spread(score([trial]), digits), number(trial.source_score, digits),
            )  # fmt: skip
    if ranked:
        table.add("", "", "majority class", number(mean_majority(sweep), digits), "", summary=True)
    return table


def mixture_table(sweep: Sweep) -> Table | None:
    """What each source mixture scores above all sources, on each target."""
    mixtures = [name for name in values(sweep, SOURCES) if name != ALL]
    if not mixtures or ALL not in values(sweep, SOURCES):
        return None
    paired = is_paired(sweep, SOURCES, ALL)
    table = Table(
        "Source mixtures",
        ["source mixture", "tasks", "mean", *sweep.targets],
        "Difference to all sources"
        + (", paired by the other settings and by seed" if paired else ", of the means over all settings")
        + f" ({measured(sweep)}); ± standard deviation of the difference over seeds. Bold: over two standard "
        "errors from zero, with three seeds or more; among so many cells some are so by chance. Without a "
        "source that helps, the difference is negative.",
        section=TARGETS,
    )  # fmt: skip
    digits = places(sweep)
    for name in mixtures:
        cells = [difference(sweep, SOURCES, name, ALL, task) for task in (None, *sweep.targets)]
        table.add(name, str(len(sweep.mixtures[name])), *(_signed(c, digits) for c in cells))
    whole = at(sweep, SOURCES, ALL)
    table.add(
        "all sources: score", str(len(sweep.mixtures[ALL])),
        *(with_spread(score(whole, task), digits) for task in (None, *sweep.targets)), summary=True,
    )  # fmt: skip
    table.add(
        "majority class", "", number(mean_majority(sweep), digits),
        *(number(target["majority"], digits) for target in sweep.targets.values()), summary=True,
    )  # fmt: skip
    return table


def effect_table(sweep: Sweep) -> Table | None:
    """Each value of each other axis beside the base's."""
    table = Table(
        "Settings of distillation and adaptation",
        ["setting", "value", "mean score", "difference to the base's value", "trials"],
        f"Scores: {measured(sweep)}; ± standard deviation over seeds. A value's score is that of the "
        "trials that are the base otherwise, or of all trials where there are none. Differences are paired "
        "by the other settings and by seed where such pairs are.",
        text_columns=2,
        section=TARGETS,
    )  # fmt: skip
    digits = places(sweep)
    for axis in sweep.axes:
        found = values(sweep, axis)
        if axis == SOURCES or not 1 < len(found) <= MOST_VALUES:
            continue
        base = sweep.base[axis]
        for value in found:
            trials = at(sweep, axis, value)
            text: Cell | str = "base" if value == base else NOTHING
            if value != base and base in found:
                text = _signed(difference(sweep, axis, value, base), digits)
            table.add(
                axis, shown(value), with_spread(score(trials), digits), text, str(len(trials))
            )
    return table if table.rows else None


def unfinished_table(sweep: Sweep) -> Table | None:
    """Trials that failed or were pruned."""
    table = Table(
        "Without a score",
        ["trial", "setting", "state", "why"],
        "A pruned setting was adapted with the first seed only; the score is that seed's.",
        text_columns=4,
    )
    for trial in sweep.trials:
        if trial.state == "failed":
            table.add(
                str(trial.number), described(trial.setting, sweep.base), "failed", trial.reason
            )
        if trial.state == "pruned":
            text = number(score([trial]).mean, places(sweep))
            table.add(str(trial.number), described(trial.setting, sweep.base), "pruned", text)
    return table if table.rows else None


def _signed(value: Spread, digits: int) -> Cell:
    if not value.count:
        return Cell(NOTHING)
    text = number(value.mean, digits, sign=True)
    deviation = "" if value.count < 2 else f" ±{number(value.deviation, digits)}"
    return Cell(text + deviation, bold=is_clear(value))
