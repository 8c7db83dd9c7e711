"""Makes a prompt file of another program's prompts: PEFT adapters, .npy arrays, ATTEMPT's .pt files.

    mpt import adapters/mnli --output=mnli.safetensors --gin.INITIAL_CHECKPOINT_PATH="'models/t5-base'"

PEFT's LoRA adapters are read too. Such files do not say which backbone they belong to. The prompt file is
stamped with the fingerprint of the one given: its user vouches for it. Only the width can be checked.
"""

import argparse

from mpt_jax.errors import UserError
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.prompt_file import PromptFileError, save_prompt_file
from mpt_jax.methods.prompt_sources import load_prompts
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.terminal import Output
from mpt_jax.working_copy import new_output, refuse_existing_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="an adapter folder, an array, or a run of prompt-tuning")
    parser.add_argument("--output", required=True, help="a new file that ends in .safetensors")
    parser.add_argument(
        "--task_name",
        action="append",
        dest="task_names",
        metavar="NAME",
        help="what a task is to be called; repeat for each task of the file, in their order",
    )


def run(
    path: str, output: str, backbone: BackboneSource, task_names: tuple[str, ...] | list[str] = ()
) -> None:
    """Reads the prompts at `path`, and writes them with the backbone's fingerprint.

    Args:
        path: what :func:`mpt_jax.methods.prompt_sources.load_prompts` reads, but no prompt file.
        output: of the prompt file.
        backbone: the model that the prompts were trained on.
        task_names: one for each task; by default what the file says, or its name.

    Raises:
        UserError: prompts of another width, updates of other layers, names of another number, or
            `output` exists.
    """
    refuse_existing_output(output)
    prompts = load_prompts(path)
    if prompts.metadata.backbone_fingerprint is not None:
        raise UserError(f"{path} is a prompt file of mpt_jax already; it can be used as it is.")
    about = prompts.metadata
    names = tuple(task_names) or about.task_names
    if len(names) != len(about.task_names):
        raise UserError(
            f"{path} holds {len(about.task_names)} task(s), but {len(names)} name(s) were given: "
            f"{list(names)}. Give --task_name once for each."
        )
    frozen = backbone.open()
    if about.width not in (0, frozen.config.emb_dim):
        raise PromptFileError(
            f"{path} holds prompts of width {about.width}, but the backbone {frozen.name} has width "
            f"{frozen.config.emb_dim}. Set INITIAL_CHECKPOINT_PATH to the model that they were trained on."
        )
    method = prompts.method(config=frozen.config)
    if isinstance(method, NetworkMethod):
        method.check_shapes(prompts.arrays, path)
    arguments = {
        **about.arguments(),
        "task_names": names,
        "backbone_fingerprint": frozen.fingerprint,
        "backbone_name": frozen.name,
        "vocabulary_fingerprint": frozen.vocabulary.fingerprint(),
    }
    sizes = f", P = {about.length}, D = {about.width}" if about.length else ""
    with new_output(output) as place:
        save_prompt_file(place, prompts.arrays, **arguments)
    console = Output(soft_wrap=True)
    for note in prompts.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"{output}: {about.kind}{sizes}, tasks {', '.join(names)}; "
        f"marked as trained on {frozen.name} ({frozen.fingerprint}) on your word (the file calls its "
        f"backbone {about.backbone_name})",
        markup=False,
    )
