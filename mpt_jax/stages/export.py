"""Writes prompts in a form that other programs read, or shared prompt and task factors apart.

mpt export runs/distill --name=mpt/seed0 --format=peft --output=adapter
mpt export past.safetensors --format=npy --output=past.npy
mpt export runs/distill --name=mpt/seed0 --format=factors --output=prompts
mpt export runs/lora --name=mnli/full/seed0/lora --format=hf --backbone=models/t5-base --output=model
"""

import argparse
from collections.abc import Sequence

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.formats.registry import WRITERS
from mpt_jax.methods.prompt_sources import load_prompts
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.stages.prompts import choose_file
from mpt_jax.terminal import Output
from mpt_jax.working_copy import new_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="a prompt file, a run directory, or another program's prompts"
    )
    listed = "; ".join(f"{name}: {writer.what}" for name, writer in WRITERS.items())
    parser.add_argument("--format", required=True, choices=WRITERS, help=listed)
    parser.add_argument("--output", required=True, help="a new file or folder")
    parser.add_argument(
        "--task",
        action="append",
        dest="tasks",
        metavar="NAME",
        help="only this task; repeat for more, in the order wanted; all by default",
    )
    parser.add_argument("--name", help="which prompt file of a run, as `mpt show` lists them")
    parser.add_argument("--backbone", help="for hf: the model that was trained on, or embedded")
    parser.add_argument("--base_model", help="for peft: the model's name or path, for its config")


def run(
    source: str,
    output: str,
    format: str,
    tasks: Sequence[str] = (),
    name: str | None = None,
    base_model: str | None = None,
    backbone: str | None = None,
) -> None:
    """Writes `output` whole or not at all.

    Args:
        source: a prompt file, a run directory, or another program's prompts.
        output: a new file or folder.
        format: a key of `mpt_jax.methods.formats.registry.WRITERS`.
        tasks: those to write, in order; all of the file if empty.
        name: of the prompt file, where `source` holds several.
        base_model: what a PEFT adapter is to call its model.
        backbone: the folder of the model that was trained on; "embedded" is the one that is shipped.

    Raises:
        UserError: no such source, task or format, a form that cannot hold these prompts, or `output`
            exists.
    """
    if format not in WRITERS:
        raise unknown_name("format", format, WRITERS)
    writer = WRITERS[format]
    folder = None if backbone is None else str(BackboneSource(backbone).folder)
    options = {"base_model": base_model, "backbone": folder}
    given = {key: value for key, value in options.items() if value is not None}
    for key in given.keys() - set(writer.options):
        raise UserError(f"--{key} does not go with --format={format}.")
    prompts = load_prompts(choose_file(source, name))
    if tasks:
        prompts = prompts.take(tasks)
    if not prompts.metadata.task_names:
        raise UserError(f"{source} holds a shared prompt without tasks; there is none to export.")
    console = Output(soft_wrap=True)
    with new_output(output) as place:
        lines = writer.write(prompts, place, **given)
    for line in (*prompts.notes, *lines):
        console.print(line.replace(str(place), output), markup=False)
