"""Stage 1a: one teacher prompt for each source task, all trained in one program.

    mpt teach --model_dir=runs/teach --gin_file=models/embedded.gin --gin_file=runs/teach.gin \\
        --gin.MIXTURE_OR_TASK_NAME="'embedded_sources'" --gin.TRAIN_STEPS=100

What must and what can be given stands at the top of gin/runs/teach.gin. A teacher is plain prompt tuning on
one task (Wang et al. 2023, section 3.2).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mpt_jax.data.order import name_key
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.initialisers import sampled_vocabulary
from mpt_jax.methods.method import stack_members
from mpt_jax.methods.prompt_method import Initialiser
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models.t5 import Transformer
from mpt_jax.stages import prompts
from mpt_jax.stages.backbone import Backbone, BackboneSource
from mpt_jax.stages.data import Data
from mpt_jax.stages.design import Design
from mpt_jax.stages.fleet import Member, Program, train_fleet
from mpt_jax.stages.session import About, Session
from mpt_jax.stages.training import Training
from mpt_jax.training.objectives import TaskObjective, TokenLoss


def run(
    model_dir: str,
    mixture_or_task_name: str,
    data: Data,
    training: Training,
    prompt_length: int,
    learning_rate: float,
    backbone: BackboneSource = BackboneSource(),
    initialiser: Initialiser = sampled_vocabulary,
    token_loss: TokenLoss = TokenLoss(),
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
    config_text: Callable[[], str] = str,
) -> None:
    """Trains the teachers.

    Args:
        model_dir: the run directory; gets `prompts/<task>.safetensors`.
        mixture_or_task_name: the source tasks.
        data: lengths, token stores, split rules.
        training: steps, batch rows and so on.
        prompt_length: P.
        learning_rate: of the prompts.
        backbone: the frozen model.
        initialiser: where prompts start from.
        token_loss: label smoothing and the like.
        task_modules: Python files or modules that register tasks.
        dry_run: check and describe, train nothing.
        config_text: gives the operative configuration.
    """
    with Session("teach", model_dir, backbone, data, task_modules, dry_run, config_text) as session:
        frozen = session.backbone
        tasks = data.tasks_of(mixture_or_task_name, frozen.vocabulary)
        (design,) = designs(
            frozen.network, tasks, training, frozen.mesh, prompt_length, learning_rate, token_loss
        )
        members = tuple(
            Member(task, 0, m, (task,), (data.open(task, "train"),),
                   (data.open(task, "validation"),))
            for m, task in enumerate(tasks)
        )  # fmt: skip
        program = Program(design.bank, members)
        if session.only_checks([program], training):
            return
        (method,) = design.bank.methods
        assert isinstance(method, PromptTuning)
        params = {method.name: _start(method, tasks, frozen, initialiser, training)}
        trained = train_fleet(
            "teach", session.directory, frozen, program, params, design, training,
            data.feature_lengths,
        )  # fmt: skip
        prompts.save_fleet(session.directory, frozen, program, trained)
        session.finish([trained], [program], [About("prompt_tuning")] * len(members), training)


def designs(
    network: Transformer,
    tasks: Sequence[str],
    training: Training,
    mesh: Mesh,
    prompt_length: int,
    learning_rate: float,
    token_loss: TokenLoss = TokenLoss(),
) -> list[Design]:
    """The one step of this stage: a teacher for each task."""
    config = network.config
    method = PromptTuning(members=len(tasks), tasks=1, length=prompt_length, width=config.emb_dim)
    bank = Bank((method,), config.vocab_size, training.mesh_of_members(mesh))
    table = [(".*", training.group(learning_rate))]
    return [Design(bank, TaskObjective(network, bank, token_loss), table)]


def _start(
    method: PromptTuning,
    tasks: Sequence[str],
    backbone: Backbone,
    initialiser: Initialiser,
    training: Training,
) -> dict[str, jax.Array]:
    """Drawn by the task's name, so that a teacher starts alone as it does beside others."""
    embeddings = jnp.asarray(backbone.embeddings)
    key = jax.random.key(training.seed)
    return stack_members(
        [
            method.init_member(
                m, jax.random.fold_in(key, name_key(task) % 2**32), initialiser, embeddings
            )
            for m, task in enumerate(tasks)
        ]
    )
