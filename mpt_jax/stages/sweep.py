"""Trains many settings of the pipeline, as populations: which source mixtures help which target tasks.

    mpt sweep --gin_file=sweeps/embedded_mixtures.gin --model_dir=runs/sweep
    mpt sweep --gin_file=... --model_dir=runs/sweep --status
    mpt sweep --gin_file=... --dry_run

A trial is one setting: distilled from the teachers that all trials share, adapted to the target tasks, scored
on validation data. Settings that differ in numbers only (rates, lambda, temperature, seeds, sources, rank)
train side by side in one program. Any number of workers may be given the same command: on one machine; with
MODEL_DIR at an address, or --storage, on several. What is done is not done again, so the same command also
goes on where it was stopped, and takes over what a dead worker left. A trial that fails is noted with its
reason and stops no other.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from mpt_jax.errors import UserError
from mpt_jax.models.t5_config import T5Config
from mpt_jax.places import join
from mpt_jax.reporting.layout import Table
from mpt_jax.reporting.sweep.report import write_sweep
from mpt_jax.stages import sweep_results
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.stages.command_runs import Run, all_runs, check_all, state_text
from mpt_jax.stages.data import Data
from mpt_jax.stages.sweep_ledger import Ledger
from mpt_jax.stages.sweep_population import Busy, Trainer
from mpt_jax.stages.sweep_runs import Plan
from mpt_jax.stages.sweep_setup import Setup
from mpt_jax.stages.sweep_space import Range, Setting, resolve
from mpt_jax.stages.sweep_status import show_status
from mpt_jax.stages.sweep_trial import FAILED, RUNNING, Trial
from mpt_jax.stages.sweep_workers import BEAT_SECONDS, Worker, locked
from mpt_jax.terminal import Output
from mpt_jax.training.distillation import compared_states
from mpt_jax.working_copy import shown, tell_bucket

Launch = Callable[[Sequence[str]], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--status", action="store_true", help="only show how far it is")
    parser.add_argument(
        "--storage", metavar="URL_OR_FILE",
        help="the ledger that workers on several machines share: a database URL, or a journal's path or "
        "address; at an address MODEL_DIR has one itself",
    )  # fmt: skip
    parser.add_argument("--retry_failed", action="store_true", help="try again what failed before")


def run(
    setup: Setup,
    data: Data,
    launch: Launch,
    backbone: BackboneSource = BackboneSource(),
    gin_words: tuple[str, ...] = (),
    model_dir: str | None = None,
    storage: str | None = None,
    status: bool = False,
    retry_failed: bool = False,
    title: str = "The sweep",
    notes: tuple[str, ...] = (),
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
) -> None:
    """Trains what is left of a sweep, and writes MODEL_DIR's report.md, sweep.json and plots/.

    Args:
        setup: the sweep.
        data: of all stages.
        launch: runs a command line of mpt in this process.
        backbone: the frozen model.
        gin_words: the gin flags of this command, for those that it launches.
        model_dir: the directory of all runs, which its workers share.
        storage: the ledger; None for one in MODEL_DIR.
        status: show the table, train nothing.
        retry_failed: put failed trials into the queue again.
        title: of the report.
        notes: paragraphs of the report about what the numbers do not show by themselves.
        task_modules: Python files or modules that register tasks.
        dry_run: list populations, members and steps, and check what can be checked; train nothing.

    Raises:
        UserError: the sweep is not one, the ledger holds another; or trials failed, said when all else is
            done and reported.
    """
    setup.check()
    if model_dir is None:
        if not dry_run:
            raise UserError("a sweep needs a place: give --model_dir=DIR")
        model_dir = "MODEL_DIR"
    vocabulary = backbone.open_vocabulary()
    data.register(task_modules, vocabulary)
    sources, targets = (data.tasks_of(name, vocabulary) for name in (setup.sources, setup.targets))
    settings = resolve(setup.space, sources, lambda names: data.tasks_of(names, vocabulary))
    console = Output()
    if status:
        show_status(Ledger(storage, model_dir, setup, settings, joins=False), console)
        return
    with all_runs(model_dir, without=("prompts", "metrics")) as root:
        plan = Plan(setup, settings, root, sources, targets)
        if dry_run:
            _describe(plan, backbone.open_config(), launch, gin_words, task_modules, console)
            return
        if root.exists() and not root.is_dir():
            raise UserError(f"MODEL_DIR {root} is a file; give a directory")
        if setup.sampler == "grid":
            settings.grid()  # says what has none before anything is made
        ledger = Ledger(storage, model_dir, setup, settings)
        if retry_failed:
            console.print(f"{ledger.retry_failed()} failed trials are tried again")
        trainer = Trainer(plan, ledger, launch, gin_words, task_modules, console)
        with Worker(ledger.beat) as worker:
            _work(ledger, worker, trainer, console)
        with locked(join(model_dir, ".report.lock")):
            trials = ledger.trials()
            record = sweep_results.gather(plan, trials, data, backbone)
            report = write_sweep(record, root, title, notes)
            tell_bucket(root)
        for table in report.tables:
            console.print(table.rich(console.width), "")
        console.print(f"report: {shown(report.path)}")
    if busy := sum(trial.state == RUNNING for trial in trials):
        console.print(f"{busy} trials are still being trained by other workers")
    if failed := [trial for trial in trials if trial.state == FAILED]:
        raise UserError(
            f"{len(failed)} of {len(trials)} trials failed; --retry_failed tries them again (where "
            "memory was short, with a smaller POPULATION):\n"
            + "\n".join(f"  {trial.name}: {trial.reason}" for trial in failed[:20])
        )


def _work(ledger: Ledger, worker: Worker, trainer: Trainer, console: Console) -> None:
    """Trains populations until none is left: first those of dead workers, then new ones.

    One that nothing is left for ends when the others have shown that they are at work still: who died a
    moment ago is not known to be dead yet, and nobody else might come to take over.
    """
    busy: set[str] = set()  # told to be dead, but a process holds its run directories
    before: Mapping[str, float] | None = None  # the beats when nothing was left
    while True:
        beats = ledger.beats()
        lost = ledger.stale(functools.partial(worker.is_alive, beats=beats))
        if left := [p for p in lost if p[0].population not in busy]:
            population = left[0]
            if not ledger.claim(population, worker.name):
                continue
            console.print(f"takes over population {population[0].population}")
            work = [population]
        else:
            work = ledger.ask(worker.name)
        if not work:
            before = before or beats
            if all(
                trial.population in busy or worker.was_seen(trial.worker, before, beats)
                for trial in ledger.trials()
                if trial.state == RUNNING
            ):
                return
            time.sleep(BEAT_SECONDS / 3)
            continue
        before = None
        for population in work:
            console.rule(_announced(population, ledger), align="left")
            try:
                trainer.train(population)
            except Busy:
                busy.add(population[0].population)


def _announced(population: Sequence[Trial], ledger: Ledger) -> str:
    waiting = ledger.left(ledger.trials())
    return (
        f"population {population[0].population}: {len(population)} settings side by side; "
        f"{waiting} wait"
    )


def _describe(
    plan: Plan, config: T5Config, launch: Launch, gin_words: Sequence[str],
    task_modules: Sequence[str], console: Console,
) -> None:  # fmt: skip
    """What would be trained; and a dry run of the commands of the first population."""
    setup, axes = plan.setup, plan.settings.axes
    shown = Table("Axes", ["axis", "values"], text_columns=2)
    for name, values in axes.items():
        text = str(values) if isinstance(values, Range) else ", ".join(map(str, values))
        shown.add(name, text)
    console.print(shown.rich(console.width))
    if setup.sampler == "grid":
        settings = plan.settings.grid()
    else:
        console.print(f"{setup.trials} settings are drawn ({setup.sampler}); counted at the base")
        settings = [plan.settings.base] * int(setup.trials or 0)
    groups: dict[tuple, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.compiled, []).append(setting)
    seeds = range(setup.num_seeds)
    table = Table("Runs", ["run", "state", "settings", "members", "rows a step", "steps"], "", 2)
    rows = 0
    first: list[Run] = []
    parts: list[list[Setting]] = []
    for (prompt_length, sampler), group in groups.items():
        teach = plan.teach(prompt_length)
        runs = [(teach, "")]
        for start in range(0, len(group), setup.population):
            part = group[start : start + setup.population]
            population = _examples(part)
            stages = [plan.distill(population), plan.adapt(population, population, seeds)]
            runs += [(one, str(len(part))) for one in stages]
            first = first or [teach, *stages]
            parts.append(part)
        for one, count in runs:
            what = f"{one.stage}, P = {prompt_length}, {sampler} sampler"
            table.add(what, state_text(one) if one is teach else "", count, str(one.members),
                      str(one.rows), f"{one.steps:,}")  # fmt: skip
            rows += one.rows * one.steps
    console.print(table.rich(console.width))
    console.print(
        f"{len(settings)} settings x {setup.num_seeds} seeds on {len(plan.targets)} target tasks in "
        f"populations of at most {setup.population}; {rows:,} rows in all"
        + (f"; {setup.keep:g} of them with all seeds" if setup.keep < 1 else "")
    )
    wrong, notes = check_all(first, launch, gin_words, task_modules)
    if notes:  # of the teacher cache, which the populations share
        alike = _with_one_cache(plan, config, parts)
        more, notes = check_all(alike, launch, gin_words, task_modules)
        wrong += more
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    if wrong:
        raise UserError("this sweep cannot be run as it is:\n" + "\n".join(f"  {w}" for w in wrong))
    print(f"\ndry run: everything checked, nothing trained ({len(first)} runs resolved)")


def _with_one_cache(plan: Plan, config: T5Config, parts: Sequence[Sequence[Setting]]) -> list[Run]:
    """As one run of distill all populations that read the same states of the same teachers."""
    alike: dict[Any, list[Setting]] = {}
    for part in parts:
        weight, logits, hidden = np.array([(s.weight, s.logits, s.hidden) for s in part]).T
        states = compared_states(config, weight, logits, hidden, {s.layers for s in part})
        alike.setdefault((part[0].prompt_length, *states.items()), []).extend(part)
    return [
        dataclasses.replace(
            plan.distill(_examples(settings)),
            name=f"P = {settings[0].prompt_length}, {len(settings)} setting{'s' * (len(settings) > 1)}",
        )
        for settings in alike.values()
    ]


def _examples(settings: Sequence[Setting]) -> list[Trial]:
    """Trials that nobody has asked for."""
    return [
        Trial(number, RUNNING, setting, "example", "", (), False, None, 0.0, "", None)
        for number, setting in enumerate(settings)
    ]
