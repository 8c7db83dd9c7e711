"""Stage 1b: the teachers distilled into one shared prompt and task factors.

    mpt distill --model_dir=runs/distill --gin_file=runs/distill.gin --gin.TEACHER_DIR="'runs/teach'"

Each variant of the training is one member of a fleet: MPT itself, MPT without distillation, one
prompt for all tasks. They see the same batches and are trained in one program.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.initialisers import sampled_vocabulary
from mpt_jax.methods.method import stack_members
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
from mpt_jax.stages.training import Training
from mpt_jax.training.distillation import TEACHER_TOKENS, DistillationObjective
from mpt_jax.training.objectives import TokenLoss


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
    layers: Literal["last", "all"] = "last",
    backbone: BackboneSource = BackboneSource(),
    initialiser: Initialiser = sampled_vocabulary,
    token_loss: TokenLoss = TokenLoss(),
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
    config_text: Callable[[], str] = str,
) -> None:
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
        backbone: the frozen model.
        initialiser: where shared prompts start that do not start from the teachers.
        token_loss: label smoothing and the like.
        task_modules: Python files or modules that register tasks.
        dry_run: check and describe, train nothing.
        config_text: gives the operative configuration.
    """
    with Session(
        "distill", model_dir, backbone, data, task_modules, dry_run, config_text
    ) as session:
        frozen = session.backbone
        tasks = data.tasks_of(mixture_or_task_name, frozen.vocabulary)
        train = tuple(data.open(task, "train") for task in tasks)
        validation = tuple(data.open(task, "validation") for task in tasks)
        chosen = _chosen(variants, num_seeds)
        members = tuple(
            Member(f"{variant.name}/seed{seed}", 0, m, tasks, train, validation)
            for m, (variant, seed) in enumerate(chosen)
        )
        (design,) = designs(
            frozen.network, tasks, training, frozen.mesh, prompt_length, variants, rank, num_seeds,
            layers, token_loss,
        )  # fmt: skip
        program = Program(design.bank, members)
        pending = session.not_made_yet(teachers)
        teacher_prompts = {} if pending else _teachers(teachers, tasks, prompt_length, frozen)
        if session.only_checks([program], training):
            return
        (method,) = design.bank.methods
        assert isinstance(method, MPT) and isinstance(design.objective, DistillationObjective)
        params = {
            method.name: _start(method, chosen, teacher_prompts, frozen, initialiser, training)
        }
        _, teacher_params, _ = prompts.plain_bank(teacher_prompts, frozen.config.vocab_size)
        objective = dataclasses.replace(
            design.objective, teacher_params=place(teacher_params, replicated(frozen.mesh))
        )
        trained = train_fleet(
            "distill", session.directory, frozen, program, params,
            dataclasses.replace(design, objective=objective), training, data.feature_lengths,
        )  # fmt: skip
        prompts.save_fleet(session.directory, frozen, program, trained)
        abouts = [About(variant.name, seed=seed) for variant, seed in chosen]
        session.finish([trained], [program], abouts, training)


def designs(
    network: Transformer,
    tasks: Sequence[str],
    training: Training,
    mesh: Mesh,
    prompt_length: int,
    variants: Sequence[Variant],
    rank: int = 1,
    num_seeds: int = 1,
    layers: Literal["last", "all"] = "last",
    token_loss: TokenLoss = TokenLoss(),
) -> list[Design]:
    """The one step of this stage: variants x seeds. It holds the teachers' shapes in their place."""
    chosen, config = _chosen(variants, num_seeds), network.config
    method = MPT(
        members=len(chosen), tasks=len(tasks), length=prompt_length, width=config.emb_dim, rank=rank
    )
    bank = Bank((method,), config.vocab_size, training.mesh_of_members(mesh))
    teacher = PromptTuning(members=len(tasks), tasks=1, length=prompt_length, width=config.emb_dim)
    teacher_bank = Bank((teacher,), config.vocab_size)
    objective = DistillationObjective(
        network, bank, teacher_bank, parameter_shapes_of(teacher_bank), token_loss,
        weight=_column(chosen, "weight"), logits=_column(chosen, "logits"),
        hidden=_column(chosen, "hidden"), temperature=_column(chosen, "temperature"),
        layers=layers,
    )  # fmt: skip
    factor_rates = _column(chosen, "factor_learning_rate") * _column(chosen, "factors")
    table = [
        (".*/shared", training.group(_column(chosen, "learning_rate"))),
        (".*/[uv]", training.group(factor_rates)),
    ]
    return [Design(bank, objective, table, _with_teachers(method, config.vocab_size))]


def _chosen(variants: Sequence[Variant], num_seeds: int) -> list[tuple[Variant, int]]:
    """The members: (variant, seed)."""
    if len({variant.name for variant in variants}) < len(variants) or not variants:
        raise UserError(f"variants need different names: {[v.name for v in variants]}.")
    return [(variant, seed) for variant in variants for seed in range(num_seeds)]


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


def _column(chosen: list[tuple[Variant, int]], field: str) -> np.ndarray:
    return np.array([getattr(variant, field) for variant, _ in chosen], np.float32)


def _start(
    method: MPT,
    chosen: list[tuple[Variant, int]],
    teacher_prompts: Mapping[str, np.ndarray],
    backbone: Backbone,
    initialiser: Initialiser,
    training: Training,
) -> Any:
    """Members of one seed start from one prompt, whatever their variant."""
    embeddings = jnp.asarray(backbone.embeddings)
    starts = []
    for m, (variant, seed) in enumerate(chosen):
        rng = jax.random.fold_in(jax.random.key(training.seed), seed)
        if variant.start == "teachers":
            starts.append(method.start(m, rng, np.stack(list(teacher_prompts.values()))))
        else:
            starts.append(method.init_member(m, rng, initialiser, embeddings))
    return stack_members(starts)


def _with_teachers(method: MPT, vocab_size: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Adds the encoder's tokens with the teacher's virtual ids in place of the student's.

    Student slot (m * K + k) * P + i becomes teacher slot k * P + i: all members share the teachers.
    """
    slots = np.arange(method.rows, dtype=np.int32) % np.int32(method.tasks * method.length)

    def extend(batch: Mapping[str, Any]) -> dict[str, Any]:
        tokens = batch["encoder_input_tokens"]
        virtual = tokens >= vocab_size
        teacher = np.where(virtual, slots[np.where(virtual, tokens - vocab_size, 0)], 0)
        return {**batch, TEACHER_TOKENS: np.where(virtual, teacher + vocab_size, tokens)}

    return extend
