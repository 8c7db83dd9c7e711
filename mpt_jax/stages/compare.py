"""Compares methods on the same tasks: searches each one's learning rate, trains, tests once, reports.

    mpt compare --gin_file=compare_embedded.gin --model_dir=runs/compare
    mpt compare --gin_file=models/embedded.gin --gin_file=compare.gin --model_dir=runs/compare ...

Every method has the same number of candidate rates, tried on validation data and on few-shot draws of their
own, and the same steps. Each part is a command of `mpt` in a folder of its own: what is done is not run
again, so the same command goes on where it was stopped, and tries again what failed. A method that fails
stops no other.
"""

from collections.abc import Callable, Sequence

from rich.console import Console

from mpt_jax.errors import UserError
from mpt_jax.reporting.comparison.report import write_comparison
from mpt_jax.reporting.comparison.tables import all_ks, ranking_table, transfer_table
from mpt_jax.reporting.layout import Table
from mpt_jax.reporting.results import Results
from mpt_jax.reporting.styles import label
from mpt_jax.stages import compare_results
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.stages.command_runs import (
    DONE,
    Run,
    all_runs,
    check_all,
    run_all,
    state_of,
    state_text,
)
from mpt_jax.stages.compare_runs import Plan
from mpt_jax.stages.compare_setup import Setup
from mpt_jax.stages.data import Data
from mpt_jax.stages.variants import Variant, build_method
from mpt_jax.terminal import Output
from mpt_jax.working_copy import shown

Launch = Callable[[Sequence[str]], object]


def run(
    setup: Setup,
    data: Data,
    launch: Launch,
    backbone: BackboneSource = BackboneSource(),
    gin_words: tuple[str, ...] = (),
    model_dir: str | None = None,
    title: str = "The methods compared",
    notes: tuple[str, ...] = (),
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
) -> None:
    """Runs what is missing, and writes MODEL_DIR's report.md, results.json and plots/.

    Args:
        setup: what is compared.
        data: of all stages.
        launch: runs a command line of mpt in this process.
        backbone: the frozen model.
        gin_words: the gin flags of this command, for those that it launches.
        model_dir: the directory of all runs.
        title: of the report.
        notes: paragraphs of the report about what the numbers do not show by themselves.
        task_modules: Python files or modules that register tasks.
        dry_run: list runs, counts and budgets, and check what can be checked; train nothing.

    Raises:
        UserError: the budgets are not equal; or parts failed, said when all else is done and reported.
    """
    setup.check()
    vocabulary = backbone.open_vocabulary()
    data.register(task_modules, vocabulary)
    with all_runs(model_dir or "MODEL_DIR") as root:
        plan = Plan(setup, root, lambda name: data.tasks_of(name, vocabulary))
        console = Output()
        _check_transfer(plan)
        if dry_run:
            _describe(plan, backbone, launch, gin_words, task_modules, console)
            return
        if model_dir is None:
            raise UserError("the runs need a place: give --model_dir=DIR")
        if root.exists() and not root.is_dir():
            raise UserError(f"MODEL_DIR {root} is a file; give a directory")

        def finish(runs: Sequence[Run]) -> list[str]:
            left = [run for run in runs if state_of(run) != DONE]
            return run_all(left, launch, gin_words, task_modules, console)

        wrong = finish(plan.sources)
        wrong += finish([plan.search(variant) for variant in setup.chosen])
        chosen: dict[str, Variant] = {}
        for variant in setup.chosen:
            if state_of(plan.search(variant)) == DONE:
                try:
                    chosen[variant.name] = compare_results.best_of(plan, variant)
                except UserError as error:
                    wrong.append(f"methods/{variant.name}/search failed: {error}")
        wrong += finish([plan.train(variant) for variant in chosen.values()])
        if setup.transfer is not None and setup.transfer.method in chosen:
            parts = plan.transfer(chosen[setup.transfer.method]).values()
            wrong += finish([run for runs in parts for run in runs[:2]])
            tests = [runs[2] for runs in parts]
        else:
            tests = []
        wrong += finish([*(plan.test(variant) for variant in chosen.values()), *tests])
        _report(plan, chosen, wrong, title, notes, console)
        if wrong:
            raise UserError(
                f"{len(wrong)} parts of the comparison are not done; the same command goes on with them:\n"
                + "\n".join(f"  {line}" for line in wrong)
            )


def _report(
    plan: Plan, chosen: dict[str, Variant], wrong: Sequence[str], title: str,
    notes: Sequence[str], console: Console,
) -> None:  # fmt: skip
    failed: dict[str, str] = {}
    for line in wrong:  # the first of a method's is the cause, the others wait for it
        place = line.partition(" ")[0].split("/")
        failed.setdefault(place[1] if place[0] == "methods" else line.partition(" ")[0], line)
    path = plan.root / "results.json"
    earlier = Results.load(path).id if path.exists() else None
    results, comparison = compare_results.gather(plan, chosen, failed, earlier)
    settings = {"configuration of each run": "config.gin in its folder"}
    report = write_comparison(results, comparison, plan.root, title, notes, settings=settings)
    for k in all_ks(results):
        console.print(ranking_table(results, comparison, k).rich(console.width), "")
    if (table := transfer_table(results, comparison, "prompt_tuning")) is not None:
        console.print(table.rich(console.width), "")
    console.print(f"report: {shown(report)}")


def _check_transfer(plan: Plan) -> None:
    transfer = plan.setup.transfer
    if transfer is None:
        return
    known = plan.expand(plan.setup.targets)
    for task in plan.expand(transfer.mixture_or_task_name):
        if task not in known:
            raise UserError(
                f"the transfer's target {task} is not among the target tasks of {plan.setup.targets}, "
                "so it would have nothing to stand beside."
            )


def _describe(
    plan: Plan, backbone: BackboneSource, launch: Launch, gin_words: Sequence[str],
    task_modules: Sequence[str], console: Console,
) -> None:  # fmt: skip
    """What would be run, at which budget; and a dry run of what starts from nothing that is missing."""
    setup, config = plan.setup, backbone.open().config
    for name, value in compare_results.budget(plan).items():
        console.print(f"{name}: {value}")
    shown = Table(
        "Methods",
        ["method", "parameters a task", "learning rates", "of the factors, times"],
        text_columns=1,
    )
    for variant in setup.chosen:
        tasks = len(plan.expand(setup.targets)) if variant.multi_target else 1
        method = build_method(variant, 1, tasks, setup.prompt_length, setup.rank, config)
        rates, ratios = setup.search.grid(variant)
        shown.add(
            label(variant.name), f"{method.count() // tasks:,}", ", ".join(f"{r:g}" for r in rates),
            ", ".join(f"{r:g}" for r in ratios) if variant.has_factors else "",
        )  # fmt: skip
    console.print(shown.rich(console.width))
    runs = _all_runs(plan)
    table = Table("Runs", ["run", "state", "members", "rows a step", "steps", "rows in all"], "", 2)
    for one in runs:
        if one.members:
            table.add(
                one.name, state_text(one), str(one.members), str(one.rows), f"{one.steps:,}",
                f"{one.rows * one.steps:,}",
            )  # fmt: skip
    total = sum(one.rows * one.steps for one in runs)
    table.add("all", "", "", "", "", f"{total:,}", summary=True)
    console.print(table.rich(console.width))
    tried = [*plan.sources[:-1], *(plan.search(variant) for variant in setup.chosen)]
    wrong, notes = check_all(tried, launch, gin_words, task_modules)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    if wrong:
        raise UserError(
            "this comparison cannot be run as it is:\n" + "\n".join(f"  {w}" for w in wrong)
        )
    print(f"\ndry run: everything checked, nothing trained ({len(tried)} runs resolved)")


def _all_runs(plan: Plan) -> list[Run]:
    """All that a comparison has; the rates that the search is to choose stand open."""
    variants = plan.setup.chosen
    runs = [*plan.sources, *map(plan.search, variants), *map(plan.train, variants)]
    for variant in variants:
        if plan.setup.transfer is not None and variant.name == plan.setup.transfer.method:
            runs += [run for runs in plan.transfer(variant).values() for run in runs]
    return runs
