"""Stage 2: target tasks, from the shared prompt or from what it is compared with.

    mpt adapt --model_dir=runs/adapt --gin_file=models/embedded.gin --gin_file=runs/adapt.gin \\
        --gin.SOURCE_DIR="'runs/distill'" --gin.TEACHER_DIR="'runs/teach'" \\
        --gin.MIXTURE_OR_TASK_NAME="'embedded_targets'" --gin.TRAIN_STEPS=60

What must and what can be given stands at the top of gin/runs/adapt.gin. Every (target task, k, seed,
variant) is one member of a fleet; all are trained in one program, on the same few-shot draws. The loss is the
task's alone (Wang et al. 2023, section 3.2).
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mpt_jax.data.few_shot import draw_record, few_shot_subset
from mpt_jax.methods.bank import AnyBank, Bank
from mpt_jax.methods.initialisers import sampled_vocabulary
from mpt_jax.methods.method import Method, stack_members
from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.prompt_method import Initialiser, PromptMethod
from mpt_jax.models.t5 import Transformer
from mpt_jax.stages import prompts
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.data import Data
from mpt_jax.stages.design import Design
from mpt_jax.stages.fleet import Member, Program, train_fleet
from mpt_jax.stages.session import About, Session
from mpt_jax.stages.source_choices import (
    SIMILAR,
    WEIGHTED,
    Choice,
    Key,
    TrainingSet,
    choices,
    set_name,
    trained_on_targets,
)
from mpt_jax.stages.starts import FROM_TEACHERS, STARTS, Sources, point_of
from mpt_jax.stages.training import Training
from mpt_jax.stages.variants import Variant as Variant  # gin files say adapt.Variant
from mpt_jax.stages.variants import build_method, chosen_variants
from mpt_jax.stages.variants import rate_grid as rate_grid
from mpt_jax.training.objectives import TaskObjective, TokenLoss
from mpt_jax.training.optimizers import table_for


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One member to be: what, on which examples.

    Attributes:
        target: a task, or for multi-target variants the mixture of all ("8_tasks" where they are named
            one by one); in the member's name.
        tasks: that it learns.
    """

    target: str
    tasks: tuple[str, ...]
    k: int | None
    seed: int
    variant: Variant

    @property
    def name(self) -> str:
        return f"{set_name(_set_of(self))}/{self.variant.name}"

    @property
    def group(self) -> tuple[bool, str, str, int]:
        """Members of one group are members of one method."""
        options = json.dumps(dict(self.variant.options), sort_keys=True, default=repr)
        return self.variant.changes_network, self.variant.method, options, len(self.tasks)


def _plans(
    variants: Sequence[Variant], given: str | Sequence[str], tasks: Sequence[str],
    shots: Sequence[int | None], seeds: Sequence[int],
) -> list[_Plan]:  # fmt: skip
    """All members, those of one group behind one another, prompts first."""
    mixture = given if isinstance(given, str) else f"{len(tasks)}_tasks"
    plans = [
        _Plan(target, learned, k, seed, variant)
        for variant in variants
        for target, learned in (
            [(mixture, tuple(tasks))] if variant.multi_target else [(t, (t,)) for t in tasks]
        )
        for k, seed in itertools.product(shots, seeds)
    ]
    first = {group: i for i, group in reversed(list(enumerate(plan.group for plan in plans)))}
    return sorted(plans, key=lambda plan: (plan.variant.changes_network, first[plan.group]))


def run(
    model_dir: str,
    mixture_or_task_name: str | Sequence[str],
    data: Data,
    training: Training,
    prompt_length: int,
    variants: tuple[Variant, ...],
    methods: str | Sequence[str] | None = None,
    distilled: str | None = None,
    teachers: str | None = None,
    target_prompts: str | None = None,
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
        mixture_or_task_name: the target tasks: one, a mixture, or several names.
        data: lengths, token stores, split rules.
        training: steps, rows a member and so on.
        prompt_length: P.
        variants: methods to compare.
        methods: names of the variants that are trained, or one name; all if None.
        distilled: a run of distill; needed by the starts "shared" and "distilled".
        teachers: a run of teach; needed by the starts "best_source", "sources", "similar_source" and
            "weighted_sources".
        target_prompts: a finished run of adapt with the variant "prompt_tuning" on the same tasks, shots
            and seeds; needed by the start "similar_source", used by "weighted_sources".
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
    variants = chosen_variants(variants, methods)
    for variant in variants:
        variant.check_precision(backbone.weights)
    with Session("adapt", model_dir, backbone, data, task_modules, dry_run, config_text) as session:
        frozen = session.backbone
        tasks = data.tasks_of(mixture_or_task_name, frozen.vocabulary)
        plans = _plans(variants, mixture_or_task_name, tasks, shots, seeds)
        examples = _examples(plans, data, per_class)
        validation = {task: data.open(task, "validation") for task in tasks}
        made = _designs(
            plans, frozen.network, training, frozen.mesh, prompt_length, rank, token_loss
        )
        programs = [
            (design, _program(design, own, examples, validation), own) for design, own in made
        ]
        pending = any(
            [session.not_made_yet(source) for source in (distilled, teachers, target_prompts)]
        )
        sources = None if pending else Sources(variants, distilled, teachers, frozen)
        targets = {} if pending else _target_prompts(plans, target_prompts, frozen)
        if (
            session.only_checks([program for _, program, _ in programs], training)
            or sources is None
        ):
            return
        sets = _source_sets(plans, examples)
        chosen = choices(sets, sources.teachers, targets, frozen, data.feature_lengths)
        embeddings = frozen.embeddings
        trained = []
        for design, program, own in programs:
            points = [
                point_of(
                    plan.variant, plan.seed, chosen.get(_set_of(plan), Choice()), sources, frozen, embeddings,
                    initialiser, training.seed,
                )
                for plan in own
            ]  # fmt: skip
            trained.append(
                train_fleet(
                    f"adapt {program.name}".strip(), session.directory, frozen, program,
                    _start(program, own, points), design, training, data.feature_lengths,
                )
            )  # fmt: skip
            prompts.save_fleet(session.directory, frozen, program, trained[-1])
        abouts = [
            About(plan.variant.name, plan.k, plan.seed) for _, _, own in programs for plan in own
        ]
        draws = [
            draw_record(subset, task, k, seed, task in per_class)
            for (task, k, seed), subset in examples.items()
            if k is not None
        ]
        named = {set_name(key): choice for key, choice in chosen.items()}
        session.finish(
            trained, [program for _, program, _ in programs], abouts, training,
            best_sources={name: one.best for name, one in named.items() if one.best},
            similar_sources={name: one.similar for name, one in named.items() if one.similar},
            source_weights={name: dict(one.weights) for name, one in named.items() if one.weights},
            draws=draws,
        )  # fmt: skip


def _examples(plans: Sequence[_Plan], data: Data, per_class: Sequence[str]) -> dict[Any, Any]:
    """Training examples by (task, k, seed): one object for all variants, so they share memory."""
    found: dict[Any, Any] = {}
    for plan in plans:
        for task in plan.tasks:
            key = (task, plan.k, plan.seed)
            if key not in found:
                train = data.open(task, "train")
                found[key] = train if plan.k is None else few_shot_subset(
                    train, task, plan.k, plan.seed, task in per_class
                )  # fmt: skip
    return found


def designs(
    network: Transformer,
    tasks: Sequence[str],
    training: Training,
    mesh: Mesh,
    prompt_length: int,
    variants: tuple[Variant, ...],
    methods: str | Sequence[str] | None = None,
    shots: tuple[int | None, ...] = (None,),
    seeds: tuple[int, ...] = (0,),
    rank: int = 1,
    token_loss: TokenLoss = TokenLoss(),
) -> list[Design]:
    """The steps of this stage: one for all prompts, and one for each method that changes the network."""
    plans = _plans(chosen_variants(variants, methods), "all", tasks, shots, seeds)
    made = _designs(plans, network, training, mesh, prompt_length, rank, token_loss)
    return [design for design, _ in made]


def _designs(
    plans: Sequence[_Plan], network: Transformer, training: Training, mesh: Mesh,
    length: int, rank: int, token_loss: TokenLoss,
) -> list[tuple[Design, list[_Plan]]]:  # fmt: skip
    """One step for all prompts, and one for each method that changes the network; whose each is."""
    groups = [list(found) for _, found in itertools.groupby(plans, lambda plan: plan.group)]
    names: dict[str, int] = {}
    methods: list[Method] = []
    for group in groups:
        variant = group[0].variant
        number = names[variant.method] = names.get(variant.method, 0) + 1
        name = variant.method if number == 1 else f"{variant.method}_{number}"
        methods.append(
            build_method(
                variant, len(group), len(group[0].tasks), length, rank, network.config, name
            )
        )
    prompted = {i: m for i, m in enumerate(methods) if isinstance(m, PromptMethod)}
    banks: list[tuple[Any, list[int], str]] = []
    if prompted:
        # Prompts have the run's own folders: most runs hold nothing else.
        members_over = training.mesh_of_members(mesh)
        bank = Bank(tuple(prompted.values()), network.config.vocab_size, members_over)
        banks.append((bank, list(prompted), ""))
    for i, method in enumerate(methods):
        if isinstance(method, NetworkMethod):
            banks.append((NetworkBank(method, mesh), [i], method.name))
    made = []
    for bank, own, name in banks:
        table = _table(bank, [groups[i] for i in own], training)
        design = Design(bank, TaskObjective(network, bank, token_loss), table, name=name)
        made.append((design, [plan for i in own for plan in groups[i]]))
    return made


def _program(
    design: Design,
    plans: Sequence[_Plan],
    examples: Mapping[Any, Any],
    validation: Mapping[str, Any],
) -> Program:
    """The members with their examples; `plans` are in the order of the bank's members."""
    places = [(i, m) for i, method in enumerate(design.bank.methods) for m in range(method.members)]
    members = [
        Member(
            plan.name, method, m, plan.tasks,
            tuple(examples[task, plan.k, plan.seed] for task in plan.tasks),
            tuple(validation[task] for task in plan.tasks),
            # Few-shot sets differ by their draw; of all examples a seed is another order.
            order=plan.seed if plan.k is None else 0,
        )
        for (method, m), plan in zip(places, plans, strict=True)
    ]  # fmt: skip
    return Program(design.bank, tuple(members), design.name)


def _set_of(plan: _Plan) -> Key:
    return plan.target, plan.k, plan.seed


def _source_sets(plans: Sequence[_Plan], examples: Mapping[Key, Any]) -> dict[Key, TrainingSet]:
    """The training sets whose variants choose among the teachers."""
    sets: dict[Key, TrainingSet] = {}
    for plan in plans:
        if plan.variant.start in FROM_TEACHERS:
            found = {task: examples[task, plan.k, plan.seed] for task in plan.tasks}
            others = sets[_set_of(plan)].starts if _set_of(plan) in sets else frozenset()
            sets[_set_of(plan)] = TrainingSet(found, others | {plan.variant.start})
    return sets


def _target_prompts(
    plans: Sequence[_Plan], path: str | None, backbone: Backbone
) -> dict[Key, np.ndarray]:
    """The prompts trained on the targets before, of the tasks whose teachers are chosen by similarity."""
    asking = [plan for plan in plans if plan.variant.start in (SIMILAR, WEIGHTED)]
    keys = [(task, plan.k, plan.seed) for plan in asking for task in plan.tasks]
    needed_by = [plan.variant.name for plan in asking if plan.variant.start == SIMILAR]
    return trained_on_targets(
        path, list(dict.fromkeys(keys)), list(dict.fromkeys(needed_by)), backbone
    )


def _start(program: Program, plans: Sequence[_Plan], points: Sequence[Any]) -> Any:
    """The bank's parameters at step 0."""
    starts: dict[str, list[Any]] = {method.name: [] for method in program.bank.methods}
    for member, plan, point in zip(program.members, plans, points, strict=True):
        method = program.bank.methods[member.method]
        starts[method.name].append(STARTS[plan.variant.start](method, member.index, point))
    return {name: stack_members(members) for name, members in starts.items()}


def _table(
    bank: AnyBank, groups: Sequence[Sequence[_Plan]], training: Training
) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for method, plans in zip(bank.methods, groups, strict=True):
        own = [plan.variant for plan in plans]
        main = training.group(np.array([v.learning_rate for v in own], np.float32))
        factors = training.group(np.array([v.factor_learning_rate for v in own], np.float32))
        roles = dict.fromkeys(("prompt", "shared", "weights"), main)
        rows += table_for([method], roles | {"factors": factors, "frozen": training.group(None)})
    return rows
