"""Multiplies shared prompt and task factors out: plain prompts, one for each task, in one file.

mpt merge runs/distill/prompts/mpt/seed0.safetensors --output=plain.safetensors
"""

import argparse
from collections.abc import Sequence

import numpy as np

from mpt_jax.errors import UserError
from mpt_jax.methods.prompt_file import save_prompt_file
from mpt_jax.methods.prompt_sources import load_prompts
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.stages.prompts import choose_file
from mpt_jax.terminal import Output
from mpt_jax.working_copy import new_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a prompt file, or a run directory")
    parser.add_argument("--output", required=True, help="a new file that ends in .safetensors")
    parser.add_argument(
        "--task",
        action="append",
        dest="tasks",
        metavar="NAME",
        help="only this task; repeat for more",
    )
    parser.add_argument("--name", help="which prompt file of a run, as `mpt show` lists them")


def run(source: str, output: str, tasks: Sequence[str] = (), name: str | None = None) -> None:
    """Writes a prompt file of the kind `prompt_tuning`.

    Args:
        source: a prompt file, or a run directory.
        output: of the new file.
        tasks: those to write, in order; all of the file if empty.
        name: of the prompt file, where `source` holds several.

    Raises:
        UserError: no such source or task, or `output` exists.
    """
    prompts = load_prompts(choose_file(source, name))
    names = tuple(tasks) or prompts.metadata.task_names
    if not names:
        raise UserError(f"{source} holds a shared prompt without tasks; there is none to merge.")
    stacked = np.stack([prompts.prompt(task) for task in names])
    arguments = {**prompts.metadata.arguments(), "kind": PromptTuning.kind, "task_names": names}
    with new_output(output) as place:
        save_prompt_file(place, {"prompt": stacked}, **arguments)
    Output(soft_wrap=True).print(
        f"{output}: {len(names)} plain prompts of {stacked.shape[1]} x {stacked.shape[2]}: "
        f"{', '.join(names)}",
        markup=False,
    )
