"""Stage 2: target tasks, from the shared prompt or from what it is compared with.

    mpt adapt --model_dir=runs/adapt --gin_file=runs/adapt.gin --gin.SOURCE_DIR="'runs/distill'"

Every (target task, k, seed, variant) is one member of a fleet; all are trained in one program, on
the same few-shot draws. The loss is the task's alone (Wang et al. 2023, section 3.2).
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from mpt_jax.data.few_shot import draw_record, few_shot_subset
from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.initialisers import sampled_vocabulary
from mpt_jax.methods.method import Initialiser, Method, stack_members
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_file import PromptFile
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.methods.spot import best_source
from mpt_jax.run_directory import RECORD
from mpt_jax.stages import prompts
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.data import Data
from mpt_jax.stages.fleet import Member, Training, limit, train_fleet
from mpt_jax.stages.predict import Job, Predictor
from mpt_jax.stages.session import About, Session
from mpt_jax.training.objectives import TaskObjective, TokenLoss

STARTS = ("vocabulary", "shared", "distilled", "best_source")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One method of the comparison.

    Attributes:
        name: in file names and tables.
        method: what is trained: "prompt_tuning" (a plain prompt) or "mpt" (shared prompt and
            factors).
        start: "vocabulary" (from scratch), "shared" (the distilled shared prompt, as a plain
            prompt), "distilled" (the shared prompt with the mean task factors, the paper's start),
            or "best_source" (the teacher with the lowest loss on the training examples, SPoT).
        source: the distilled variant that "shared" and "distilled" start from.
        learning_rate: of the plain or the shared prompt; 0 keeps it frozen.
        factor_learning_rate: of "mpt"'s task factors.
    """

    name: str
    method: str
    start: str
    learning_rate: float
    factor_learning_rate: float = 0.0
    source: str = "mpt"

    def __post_init__(self):
        if self.method not in ("prompt_tuning", "mpt"):
            raise unknown_name(
                f"method of variant {self.name}", self.method, ("prompt_tuning", "mpt")
            )
        if self.start not in STARTS:
            raise unknown_name(f"start of variant {self.name}", self.start, STARTS)
        if self.method == "prompt_tuning" and self.start == "distilled":
            raise UserError(
                f"variant {self.name}: a plain prompt has no task factors to start from; use the "
                "start 'shared', or the method 'mpt'."
            )


def rate_grid(
    variants: Sequence[Variant],
    learning_rates: Sequence[float],
    factor_ratios: Sequence[float] = (1.0,),
) -> tuple[Variant, ...]:
    """Every variant at every learning rate, as variants named `<name>@<rate>`: a search in one fleet.

    Args:
        variants: whose own rates are replaced.
        learning_rates: of the plain or shared prompt.
        factor_ratios: factor rates as multiples of these, for variants with task factors
            (`<name>@<rate>x<ratio>`).
    """
    found = []
    for variant, rate in itertools.product(variants, learning_rates):
        ratios = factor_ratios if variant.method == "mpt" else (0.0,)
        for ratio in ratios:
            suffix = f"x{ratio:g}" if variant.method == "mpt" else ""
            found.append(
                dataclasses.replace(
                    variant,
                    name=f"{variant.name}@{rate:g}{suffix}",
                    learning_rate=rate,
                    factor_learning_rate=rate * ratio,
                )
            )
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One member to be: what, on which examples."""

    task: str
    k: int | None
    seed: int
    variant: Variant

    @property
    def name(self) -> str:
        shots = "full" if self.k is None else f"k{self.k}"
        return f"{self.task}/{shots}/seed{self.seed}/{self.variant.name}"


def run(
    model_dir: str,
    mixture_or_task_name: str,
    data: Data,
    training: Training,
    prompt_length: int,
    variants: tuple[Variant, ...],
    distilled: str | None = None,
    teachers: str | None = None,
    shots: tuple[int | None, ...] = (None,),
    seeds: tuple[int, ...] = (0,),
    per_class: Sequence[str] = (),
    rank: int = 1,
    backbone: BackboneSource = BackboneSource(),
    initialiser: Initialiser = sampled_vocabulary,
    token_loss: TokenLoss = TokenLoss(),
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
    config_text: Callable[[], str] = str,
) -> None:
    """Adapts to the target tasks.

    Args:
        model_dir: the run directory; gets `prompts/<task>/<k>/<seed>/<variant>.safetensors`.
        mixture_or_task_name: the target tasks.
        data: lengths, token stores, split rules.
        training: steps, rows a member and so on.
        prompt_length: P.
        variants: the methods to compare.
        distilled: a run of distill; needed by the starts "shared" and "distilled".
        teachers: a run of teach; needed by the start "best_source".
        shots: few-shot sizes k; None is all examples.
        seeds: of the draw of the k examples, or of the order of all examples, and of starts from
            scratch. Seed s starts from the distilled run's seed s (modulo how many there are).
        per_class: tasks whose k counts examples of each class; of the others it counts all.
        rank: R of "mpt"'s factors, the distilled run's.
        backbone: the frozen model.
        initialiser: where prompts from scratch start.
        token_loss: label smoothing and the like.
        task_modules: Python files or modules that register tasks.
        dry_run: check and describe, train nothing.
        config_text: gives the operative configuration.
    """
    with Session("adapt", model_dir, backbone, data, task_modules, dry_run, config_text) as session:
        frozen = session.backbone
        tasks = data.tasks_of(mixture_or_task_name, frozen.vocabulary)
        if len({variant.name for variant in variants}) < len(variants) or not variants:
            raise UserError(f"variants need different names: {[v.name for v in variants]}.")
        plans = [
            _Plan(task, k, seed, variant)
            for variant, task, k, seed in itertools.product(variants, tasks, shots, seeds)
        ]
        # Members lie in the bank method by method.
        plans.sort(key=lambda plan: plan.variant.method != "prompt_tuning")
        examples = _examples(plans, data, per_class)
        bank, members = _bank_and_members(plans, examples, data, prompt_length, rank, frozen)
        pending = session.not_made_yet(distilled) or session.not_made_yet(teachers)
        sources = None if pending else _Sources(variants, distilled, teachers, frozen)
        if session.only_checks(bank, members, training) or sources is None:
            return
        params, chosen = _start(
            plans, bank, examples, sources, frozen, initialiser, training, data.feature_lengths
        )
        table = [
            row
            for method in bank.methods
            for row in _table(
                method, [p for p in plans if p.variant.method == method.name], training
            )
        ]
        trained = train_fleet(
            "adapt", session.directory, frozen, bank, members, params,
            TaskObjective(frozen.network, bank, token_loss), table, training,
            data.feature_lengths,
        )  # fmt: skip
        prompts.save_fleet(session.directory, frozen, bank, members, trained)
        abouts = [About(plan.variant.name, plan.k, plan.seed) for plan in plans]
        draws = [
            draw_record(subset, task, k, seed, task in per_class)
            for (task, k, seed), subset in examples.items()
            if k is not None
        ]
        session.finish(trained, members, bank, abouts, training, best_sources=chosen, draws=draws)


def _examples(plans: Sequence[_Plan], data: Data, per_class: Sequence[str]) -> dict[Any, Any]:
    """Training examples by (task, k, seed): one object for all variants, so they share memory."""
    found: dict[Any, Any] = {}
    for plan in plans:
        key = (plan.task, plan.k, plan.seed)
        if key not in found:
            train = data.open(plan.task, "train")
            found[key] = train if plan.k is None else few_shot_subset(
                train, plan.task, plan.k, plan.seed, plan.task in per_class
            )  # fmt: skip
    return found


def _bank_and_members(
    plans: Sequence[_Plan],
    examples: Mapping[Any, Any],
    data: Data,
    length: int,
    rank: int,
    backbone: Backbone,
) -> tuple[Bank, list[Member]]:
    counts = {
        name: sum(plan.variant.method == name for plan in plans)
        for name in ("prompt_tuning", "mpt")
    }
    methods = methods_of(counts, length, backbone.config.emb_dim, rank)
    validation = {task: data.open(task, "validation") for task in {plan.task for plan in plans}}
    number = {method.name: i for i, method in enumerate(methods)}
    next_index = dict.fromkeys(number, 0)
    members = []
    for plan in plans:
        method = plan.variant.method
        members.append(
            Member(
                plan.name, number[method], next_index[method], (plan.task,),
                (examples[plan.task, plan.k, plan.seed],), (validation[plan.task],),
                # Few-shot sets differ by their draw; of all examples a seed is another order.
                order=plan.seed if plan.k is None else 0,
            )
        )  # fmt: skip
        next_index[method] += 1
    return Bank(tuple(methods), backbone.config.vocab_size), members


def methods_of(
    members: Mapping[str, int], length: int, width: int, rank: int, tasks: int = 1
) -> list[Method]:
    """The methods of a bank with so many members of each: where the names of `Variant.method` lead."""
    methods: list[Method] = []
    if count := members.get("prompt_tuning", 0):
        methods.append(PromptTuning(members=count, tasks=tasks, length=length, width=width))
    if count := members.get("mpt", 0):
        methods.append(MPT(members=count, tasks=tasks, length=length, width=width, rank=rank))
    return methods


class _Sources:
    """What the variants start from, read and checked before anything is trained."""

    def __init__(
        self,
        variants: Sequence[Variant],
        distilled: str | None,
        teachers: str | None,
        backbone: Backbone,
    ):
        self.distilled: dict[str, list[PromptFile]] = {}
        self.teachers: dict[str, np.ndarray] = {}
        wanted = {v.source for v in variants if v.start in ("shared", "distilled")}
        if wanted:
            files = prompts.load_run(_needed(distilled, "distilled", variants), backbone)
            # One file (or adapter) that is given by its own path is meant whatever it is called.
            alone = len(files) == len(wanted) == 1 and not (Path(str(distilled)) / RECORD).exists()
            for name, file in files.items():
                if "shared" in file.arrays:
                    variant = next(iter(wanted)) if alone else name.partition("/")[0]
                    self.distilled.setdefault(variant, []).append(file)
            for name in wanted - set(self.distilled):
                raise unknown_name(f"distilled variant in {distilled}", name, self.distilled)
        if any(variant.start == "best_source" for variant in variants):
            files = prompts.load_run(_needed(teachers, "teachers", variants), backbone)
            self.teachers = {task: prompt for (_, task), prompt in prompts.finished(files).items()}

    def of_seed(self, name: str, seed: int) -> Any:
        files = self.distilled[name]
        return files[seed % len(files)].arrays


def _needed(path: str | None, argument: str, variants: Sequence[Variant]) -> str:
    if path is None:
        raise UserError(
            f"adapt.run.{argument} is not given, but the variants {[v.name for v in variants]} start "
            "from such a run. Give its directory, or leave those variants out."
        )
    return path


def _start(
    plans: Sequence[_Plan],
    bank: Bank,
    examples: Mapping[Any, Any],
    sources: _Sources,
    backbone: Backbone,
    initialiser: Initialiser,
    training: Training,
    feature_lengths: Mapping[str, int],
) -> tuple[Any, dict[str, str]]:
    """The bank's parameters at step 0, and which source prompt each few-shot set chose."""
    embeddings = jnp.asarray(backbone.embeddings)
    best = _best_sources(plans, examples, sources, backbone, feature_lengths)
    starts: dict[str, list[Any]] = {method.name: [] for method in bank.methods}
    methods = {method.name: method for method in bank.methods}
    for plan in plans:
        variant, method = plan.variant, methods[plan.variant.method]
        m = len(starts[method.name])
        rng = jax.random.fold_in(jax.random.key(training.seed), plan.seed)
        if variant.start == "vocabulary":
            start = method.init_member(m, rng, initialiser, embeddings)
        elif variant.start == "distilled":
            start = cast(MPT, method).start_from_average(
                m, sources.of_seed(variant.source, plan.seed)
            )
        else:
            if variant.start == "shared":
                prompt = sources.of_seed(variant.source, plan.seed)["shared"]
            else:
                prompt = sources.teachers[best[plan.task, plan.k, plan.seed]]
            start = method.start(m, rng, prompt)
        starts[method.name].append(start)
    named = {f"{task}/k{k}/seed{seed}": source for (task, k, seed), source in best.items()}
    return {name: stack_members(members) for name, members in starts.items()}, named


def _best_sources(
    plans: Sequence[_Plan],
    examples: Mapping[Any, Any],
    sources: _Sources,
    backbone: Backbone,
    feature_lengths: Mapping[str, int],
    most: int = 64,
) -> dict[Any, str]:
    """The teacher with the lowest loss on (at most `most` of) each training set."""
    wanted = {
        (plan.task, plan.k, plan.seed) for plan in plans if plan.variant.start == "best_source"
    }
    if not wanted:
        return {}
    bank, params, ids = prompts.plain_bank(sources.teachers, backbone.config.vocab_size)
    predictor = Predictor(backbone, bank, batch_size=256, feature_lengths=feature_lengths)
    pairs = list(itertools.product(sorted(wanted, key=str), sources.teachers))
    jobs = [Job(key[0], ids[teacher], limit(examples[key], most)) for key, teacher in pairs]
    losses = predictor.losses(params, jobs)
    by_key: dict[Any, dict[str, float]] = {}
    for (key, teacher), values in zip(pairs, losses, strict=True):
        by_key.setdefault(key, {})[teacher] = float(values.mean())
    return {key: best_source(values, higher_is_better=False) for key, values in by_key.items()}


def _table(method: Method, plans: Sequence[_Plan], training: Training) -> list[tuple[str, Any]]:
    rates = {
        "prompt": np.array([plan.variant.learning_rate for plan in plans], np.float32),
        "shared": np.array([plan.variant.learning_rate for plan in plans], np.float32),
        "factors": np.array([plan.variant.factor_learning_rate for plan in plans], np.float32),
    }
    return [
        (f"{method.name}/{pattern.strip('^$')}", training.group(rates[role]))
        for pattern, role in method.default_groups()
    ]
