"""Stage 1b: the teachers distilled into one shared prompt and task factors.

    mpt distill --model_dir=runs/distill --gin_file=models/embedded.gin --gin_file=runs/distill.gin \\
        --gin.TEACHER_DIR="'runs/teach'" --gin.MIXTURE_OR_TASK_NAME="'embedded_sources'" \\
        --gin.TRAIN_STEPS=100

What must and what can be given stands at the top of gin/runs/distill.gin. Each variant of the
training is one member of a fleet: MPT itself, MPT without distillation, one prompt for all tasks; or settings
of a sweep, which may differ in rank and in their source tasks. They see the same batches and are trained in
one program.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.initialisers import sampled_vocabulary
from mpt_jax.methods.method import Method, stack_members
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_method import Initialiser
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models.t5 import Transformer
from mpt_jax.partitioning import place, replicated
from mpt_jax.stages import prompts
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.data import Data
from mpt_jax.stages.design import Design, parameter_shapes_of
from mpt_jax.stages.fleet import Member, Program, train_fleet
from mpt_jax.stages.session import About, Session
from mpt_jax.stages.teacher_cache import TeacherCache
from mpt_jax.stages.training import Training
from mpt_jax.training.distillation import TEACHER_TOKENS, DistillationObjective, Layers
from mpt_jax.training.objectives import TokenLoss
from mpt_jax.training.optimizers import Group, table_for

Chosen = tuple["Variant", int]  # and the seed


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to learn the shared prompt.

    Attributes:
        name: in file names and tables.
        weight: lambda, of the teachers' part in the loss; 0 is no distillation.
        logits: weight of the logits' divergence inside it.
        hidden: weight of the hidden states' difference inside it.
        temperature: of the divergence.
        factors: False keeps the task factors at ones: one plain prompt for all tasks (joint
            multitask prompt tuning).
        learning_rate: of the shared prompt.
        factor_learning_rate: of the task factors.
        start: "vocabulary", or "teachers" for the mean of the teacher prompts.
        sources: of the run's source tasks those that it learns from; none for all.
        rank: R of its task factors; None for the run's.
        layers: hidden states that it compares; None for the run's.
    """

    name: str
    learning_rate: float
    factor_learning_rate: float
    weight: float = 0.9
    logits: float = 1.0
    hidden: float = 1.0
    temperature: float = 1.0
    factors: bool = True
    start: str = "vocabulary"
    sources: tuple[str, ...] = ()
    rank: int | None = None
    layers: Layers | None = None

    def __post_init__(self):
        if self.start not in ("vocabulary", "teachers"):
            raise UserError(
                f"variant {self.name}: start is {self.start!r}, expected 'vocabulary' or 'teachers'."
            )


def run(
    model_dir: str,
    teachers: str,
    mixture_or_task_name: str,
    data: Data,
    training: Training,
    prompt_length: int,
    variants: tuple[Variant, ...],
    rank: int = 1,
    num_seeds: int = 1,
    layers: Layers = "last",
    teacher_cache: str | None = None,
    backbone: BackboneSource = BackboneSource(),
    initialiser: Initialiser = sampled_vocabulary,
    token_loss: TokenLoss = TokenLoss(),
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
    config_text: Callable[[], str] = str,
) -> list[str]:
    """Distils the teachers.

    Args:
        model_dir: the run directory; gets `prompts/<variant>/seed<n>.safetensors`.
        teachers: a run of teach, or a folder of prompt files, with a prompt for every source task.
        mixture_or_task_name: the source tasks.
        data: lengths, token stores, split rules.
        training: steps, rows and so on; rows are divided among the tasks by its sampler.
        prompt_length: P, the teachers' length.
        variants: what is trained side by side.
        rank: R of the task factors; the paper has 1.
        num_seeds: each variant is trained from so many starts.
        layers: hidden states compared: "last" or "all".
        teacher_cache: a folder, here or at an address, where the teachers' states of all training
            examples are kept, so that the steps run no teacher; None runs the teachers in every step.
        backbone: the frozen model.
        initialiser: where shared prompts start that do not start from the teachers.
        token_loss: label smoothing and the like.
        task_modules: Python files or modules that register tasks.
        dry_run: check and describe, train nothing.
        config_text: gives the operative configuration.

    Returns:
        What is to be said of its teacher cache, as lines for people.
    """
    with Session(
        "distill", model_dir, backbone, data, task_modules, dry_run, config_text
    ) as session:
        frozen = session.backbone
        tasks = data.tasks_of(mixture_or_task_name, frozen.vocabulary)
        train = {task: data.open(task, "train") for task in tasks}
        validation = {task: data.open(task, "validation") for task in tasks}
        groups = _groups(variants, num_seeds, tasks, rank)
        (design,) = designs(
            frozen.network, tasks, training, frozen.mesh, prompt_length, variants, rank, num_seeds,
            layers, teacher_cache, token_loss,
        )  # fmt: skip
        assert isinstance(design.objective, DistillationObjective)
        members = tuple(
            Member(
                f"{variant.name}/seed{seed}", number, m, own,
                tuple(train[task] for task in own), tuple(validation[task] for task in own),
            )
            for number, group in enumerate(groups.values())
            for m, (variant, seed) in enumerate(group)
            for own in [_sources(variant, tasks)]
        )  # fmt: skip
        program = Program(design.bank, members)
        pending = session.not_made_yet(teachers)
        teacher_prompts = {} if pending else _teachers(teachers, tasks, prompt_length, frozen)
        learned = {task: train[task] for task in tasks if any(task in m.tasks for m in members)}
        cache, notes = None, []
        if teacher_cache is not None:
            cache = TeacherCache(
                teacher_cache, design.recorded, frozen, prompt_length, learned, teacher_prompts
            )
            notes.append(cache.described(training.steps * training.rows_per_member * len(members)))
        if session.only_checks([program], training, notes):
            return notes
        params = {
            method.name: _start(
                method, group, tasks, teacher_prompts, frozen, initialiser, training
            )
            for method, group in zip(design.bank.methods, groups.values(), strict=True)
        }
        _, teacher_params, _ = prompts.plain_bank(teacher_prompts, frozen.config.vocab_size)
        objective = dataclasses.replace(
            design.objective, teacher_params=place(teacher_params, replicated(frozen.mesh))
        )
        trained = train_fleet(
            "distill", session.directory, frozen, program, params,
            dataclasses.replace(design, objective=objective), training, data.feature_lengths,
            cache.filled(objective, training.eval_batch_size) if cache else {},
        )  # fmt: skip
        prompts.save_fleet(session.directory, frozen, program, trained)
        abouts = [
            About(variant.name, seed=seed) for group in groups.values() for variant, seed in group
        ]
        session.finish([trained], [program], abouts, training)
        return notes


def designs(
    network: Transformer,
    tasks: Sequence[str],
    training: Training,
    mesh: Mesh,
    prompt_length: int,
    variants: Sequence[Variant],
    rank: int = 1,
    num_seeds: int = 1,
    layers: Layers = "last",
    teacher_cache: str | None = None,
    token_loss: TokenLoss = TokenLoss(),
) -> list[Design]:
    """The one step of this stage: variants x seeds. It holds the teachers' shapes in their place.

    With a cache, wherever it is, the step reads the teachers' states out of its batches.
    """
    groups, config = _groups(variants, num_seeds, tasks, rank), network.config
    methods = tuple(
        MPT(
            name=f"mpt_{number}" if number > 1 else "mpt", members=len(group), tasks=own_tasks,
            length=prompt_length, width=config.emb_dim, rank=own_rank,
        )
        for number, ((own_rank, own_tasks), group) in enumerate(groups.items(), start=1)
    )  # fmt: skip
    bank = Bank(methods, config.vocab_size, training.mesh_of_members(mesh))
    teacher = PromptTuning(members=len(tasks), tasks=1, length=prompt_length, width=config.emb_dim)
    teacher_bank = Bank((teacher,), config.vocab_size)
    chosen = [one for group in groups.values() for one in group]
    objective = DistillationObjective(
        network, bank, teacher_bank, parameter_shapes_of(teacher_bank), token_loss,
        weight=_column(chosen, "weight"), logits=_column(chosen, "logits"),
        hidden=_column(chosen, "hidden"), temperature=_column(chosen, "temperature"),
        layers=_layers(chosen, layers),
    )  # fmt: skip
    table = [
        row
        for method, group in zip(methods, groups.values(), strict=True)
        for row in table_for([method], _rates(group, training))
    ]
    if teacher_cache is not None:
        return [Design(bank, objective, table, recorded=objective.recorded_fields)]
    learned = [_sources(variant, tasks) for variant, _ in chosen]
    extend = _with_teachers(learned, tasks, prompt_length, config.vocab_size)
    return [Design(bank, objective, table, extend)]


def _teachers(
    source: str, tasks: tuple[str, ...], length: int, backbone: Backbone
) -> dict[str, np.ndarray]:
    """Each task's teacher prompt, in the tasks' order."""
    found = {
        task: prompt
        for (_, task), prompt in prompts.finished(prompts.load_run(source, backbone)).items()
    }
    for task in tasks:
        if task not in found:
            raise unknown_name(f"teacher prompt in {source} for task", task, found)
        if len(found[task]) != length:
            raise UserError(
                f"The teacher prompt of {task} in {source} has {len(found[task])} slots, but "
                f"PROMPT_LENGTH is {length}. Hidden states are compared slot by slot: set "
                "PROMPT_LENGTH to the teachers' length."
            )
    return {task: found[task] for task in tasks}


def _groups(
    variants: Sequence[Variant], num_seeds: int, tasks: Sequence[str], rank: int
) -> dict[tuple[int, int], list[Chosen]]:
    """(rank, number of tasks) -> members, for members of one shape are members of one method.

    Raises:
        UserError: no variants, two of one name, or sources that are not among the tasks.
    """
    if len({variant.name for variant in variants}) < len(variants) or not variants:
        raise UserError(f"variants need different names: {[v.name for v in variants]}.")
    groups: dict[tuple[int, int], list[Chosen]] = {}
    for variant in variants:
        shape = variant.rank or rank, len(_sources(variant, tasks))
        groups.setdefault(shape, []).extend((variant, seed) for seed in range(num_seeds))
    return groups


def _sources(variant: Variant, tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks that a variant learns from, in the order of all."""
    for task in variant.sources:
        if task not in tasks:
            raise unknown_name(f"source task of variant {variant.name}", task, tasks)
    return tuple(task for task in tasks if task in variant.sources or not variant.sources)


def _column(chosen: Sequence[Chosen], field: str) -> np.ndarray:
    return np.array([getattr(variant, field) for variant, _ in chosen], np.float32)


def _layers(chosen: Sequence[Chosen], of_the_run: Layers) -> Layers | tuple[Layers, ...]:
    """One word where all members compare the same hidden states."""
    layers = tuple(variant.layers or of_the_run for variant, _ in chosen)
    return layers[0] if len(set(layers)) == 1 else layers


def _rates(group: Sequence[Chosen], training: Training) -> dict[str, Group]:
    """The optimizer's groups by role."""
    factors = _column(group, "factor_learning_rate") * _column(group, "factors")
    return {
        "shared": training.group(_column(group, "learning_rate")),
        "factors": training.group(factors),
    }


def _start(
    method: Method,
    group: Sequence[Chosen],
    tasks: Sequence[str],
    teacher_prompts: Mapping[str, np.ndarray],
    backbone: Backbone,
    initialiser: Initialiser,
    training: Training,
) -> Any:
    """Members of one seed start from one prompt, whatever their variant."""
    assert isinstance(method, MPT)
    embeddings = jnp.asarray(backbone.embeddings)
    starts = []
    for m, (variant, seed) in enumerate(group):
        rng = jax.random.fold_in(jax.random.key(training.seed), seed)
        if variant.start == "teachers":
            taught = [teacher_prompts[task] for task in _sources(variant, tasks)]
            starts.append(method.start(m, rng, np.stack(taught)))
        else:
            starts.append(method.init_member(m, rng, initialiser, embeddings))
    return stack_members(starts)


def _with_teachers(
    learned: Sequence[Sequence[str]], tasks: Sequence[str], length: int, vocab_size: int
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Adds the encoder's tokens with the teacher's virtual ids in place of the student's.

    The students' prompts lie member by member and task by task, the teachers' task by task: all members
    share the teachers.

    Args:
        learned: the tasks of each member.
    """
    places = [tasks.index(task) for own in learned for task in own]
    slots = np.add.outer(
        np.array(places, np.int32) * np.int32(length), np.arange(length, dtype=np.int32)
    )
    slots = slots.ravel()

    def extend(batch: Mapping[str, Any]) -> dict[str, Any]:
        tokens = batch["encoder_input_tokens"]
        virtual = tokens >= vocab_size
        teacher = np.where(virtual, slots[np.where(virtual, tokens - vocab_size, 0)], 0)
        return {**batch, TEACHER_TOKENS: np.where(virtual, teacher + vocab_size, tokens)}

    return extend
