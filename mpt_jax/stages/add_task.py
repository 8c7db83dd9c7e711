"""Adds the task factors of one prompt file to another that has the same shared prompt.

    mpt add-task all.safetensors --source=new.safetensors              (all.safetensors grows)
    mpt add-task all.safetensors --source=new.safetensors --output=more.safetensors
    mpt add-task prompts --source=new.safetensors                      (prompts/ gets a small file)

The folder of the last form is one that `mpt export --format=factors` wrote.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from mpt_jax import fetched
from mpt_jax.errors import UserError
from mpt_jax.methods.formats import factors
from mpt_jax.methods.prompt_file import PromptFile, load_prompt_file, save_prompt_file
from mpt_jax.methods.references import digest
from mpt_jax.places import is_address
from mpt_jax.whole_files import file_names, refuse_existing
from mpt_jax.working_copy import new_output, refuse_existing_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="the prompt file to add to, or a folder of --format=factors")
    parser.add_argument("--source", required=True, help="a prompt file with the same shared prompt")
    parser.add_argument(
        "--task",
        action="append",
        dest="tasks",
        metavar="NAME",
        help="only this task of the source; repeat for more",
    )
    parser.add_argument("--output", help="a new file, instead of one that grows")


def run(path: str, source: str, tasks: Sequence[str] = (), output: str | None = None) -> None:
    """Adds tasks; what was there stays as it was, bit for bit.

    Args:
        path: an MPT prompt file, or a folder with a shared file and small ones.
        source: an MPT prompt file.
        tasks: of the source; all if empty.
        output: a new file for the result; None puts it in the place of `path`.

    Raises:
        UserError: prompts without factors, another shared prompt, rank or backbone, or a task that is
            there already.
    """
    if is_address(path) and output is None:
        raise UserError(
            f"{path} is an address, where nothing is changed in its place; name a new file with --output."
        )
    place = fetched.prompts(path)
    target = load_prompt_file(place / factors.FILE if place.is_dir() else place)
    added = load_prompt_file(fetched.prompts(source))
    added = added.take(tasks) if tasks else added
    _check(target, added, path, source)
    console = Console(highlight=False, soft_wrap=True)
    if place.is_dir():
        if output is not None:
            raise UserError(
                f"{path} is a folder, which gets a file for each task; leave out --output."
            )
        files = {
            task: place / f"{name}.safetensors"
            for task, name in file_names(added.metadata.task_names).items()
        }
        for file in files.values():
            refuse_existing(file)
        for task, file in files.items():
            factors.add(place, added.take([task]), file)
            console.print(f"{task}: {file}", markup=False)
        return
    if output is not None:
        refuse_existing_output(output)
    arrays = {
        name: array if name == factors.SHARED else np.concatenate([array, added.arrays[name]])
        for name, array in target.arrays.items()
    }
    about = target.metadata
    scores = dict.fromkeys(added.metadata.task_names, added.metadata.scores)
    arguments = {
        **about.arguments(),
        "task_names": (*about.task_names, *added.metadata.task_names),
        "scores": {**about.scores, **scores},
    }
    with new_output(path if output is None else output) as result:
        save_prompt_file(
            result,
            arrays,
            **arguments,
            references={n: place.parent / other.file for n, other in about.references.items()},
            overwrite=output is None,
        )
    names = ", ".join(arguments["task_names"])
    console.print(f"{path if output is None else output} holds {names}", markup=False)


def _check(target: PromptFile, added: PromptFile, path: str, source: str) -> None:
    for name, file in ((path, target), (source, added)):
        if factors.SHARED not in file.arrays:
            raise UserError(
                f"{name} holds prompts of the method {file.metadata.kind}, which have no task factors. A "
                "plain prompt is in general no shared prompt times factors; `mpt adapt` learns them."
            )
    here, there = (digest(file.arrays[factors.SHARED]) for file in (target, added))
    if here != there:
        raise UserError(
            f"The shared prompt of {path} (SHA-256 {here[:16]}...) is not that of {source} "
            f"({there[:16]}...), so the factors of one do not fit the other. Adapt with the shared "
            "prompt frozen: a learning rate of 0 for it (adapt.Variant.learning_rate)."
        )
    ours, theirs = target.metadata, added.metadata
    for what in ("rank", "backbone_fingerprint"):
        if getattr(ours, what) != getattr(theirs, what):
            raise UserError(
                f"{path} has the {what} {getattr(ours, what)}, {source} has {getattr(theirs, what)}."
            )
    if again := set(ours.task_names) & set(theirs.task_names):
        raise UserError(f"{path} holds the tasks {sorted(again)} already.")
