"""Adds the task factors of one prompt file to another that has the same shared prompt.

    mpt add-task all.safetensors --source=new.safetensors              (all.safetensors grows)
    mpt add-task all.safetensors --source=new.safetensors --output=more.safetensors
    mpt add-task prompts --source=new.safetensors                      (prompts/ gets a small file)

The folder of the last form is one that `mpt export --format=factors` wrote.
"""

import argparse
import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mpt_jax import fetched
from mpt_jax.bucket_lock import bucket_lock
from mpt_jax.errors import UserError
from mpt_jax.file_lock import file_lock
from mpt_jax.methods.formats import factors
from mpt_jax.methods.prompt_file import PromptFile, load_prompt_file, save_prompt_file
from mpt_jax.methods.references import digest
from mpt_jax.places import Bucket, is_address
from mpt_jax.terminal import Output
from mpt_jax.whole_files import file_names
from mpt_jax.working_copy import new_output, refuse_existing_output, shown, working_copy


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
    if output is not None:
        refuse_existing_output(output)
    added = load_prompt_file(fetched.prompts(source))
    added = added.take(tasks) if tasks else added
    reading = contextlib.nullcontext(path) if output else _to_change(path)
    with reading as changed:
        place = fetched.prompts(changed)
        target = load_prompt_file(place / factors.FILE if place.is_dir() else place)
        _check(target, added, path, source)
        if not place.is_dir():
            names = _write_all(target, added, place, output)
            said = [f"{path if output is None else output} holds {', '.join(names)}"]
        elif output is None:
            said = _write_each(added, place)
        else:
            raise UserError(
                f"{path} is a folder, which gets a file for each task; leave out --output."
            )
    Output(soft_wrap=True).print("\n".join(said), markup=False)


@contextlib.contextmanager
def _to_change(path: str) -> Iterator[Path]:
    """A file or folder of this machine that stands for `path` in a `with` block.

    One process at a time changes it, others wait. At an address what changes is uploaded at the end, and
    the lock is of the folder.
    """
    if not is_address(path):
        with _lock(Path(path)):
            yield Path(path)
        return
    bucket = Bucket(path)
    found = bucket.objects()
    if not found:
        raise UserError(f"prompts {path}: nothing is there")
    folder, _, name = (
        bucket.address.rpartition("/") if set(found) == {""} else (bucket.address, "", "")
    )
    needed = functools.partial(Bucket.some, names=[n for n in (name, factors.FILE) if n])
    with (
        bucket_lock(Bucket(folder)) as check,
        working_copy(folder, before_push=check, listing=needed) as copy,
    ):
        yield copy.path / name


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Holds a folder, or a file in one; what is not there needs no lock, and is refused when it is read."""
    hidden = place / ".lock" if place.is_dir() else place.with_name(f".{place.name}.lock")
    with contextlib.ExitStack() as stack:
        if place.exists():
            try:
                stack.enter_context(file_lock(hidden, patient=True))
            except OSError as error:
                raise UserError(
                    f"{place} cannot be locked for a change ({hidden}: {error.strerror}); "
                    "mend that, or copy it to where you may write."
                ) from error
        yield


def _write_each(added: PromptFile, folder: Path) -> list[str]:
    """A small file for each task, beside the shared one. Returns what was written, in words."""
    names = file_names(added.metadata.task_names)
    files = {task: folder / f"{name}.safetensors" for task, name in names.items()}
    for file in files.values():
        refuse_existing_output(shown(file))
    for task, file in files.items():
        factors.add(folder, added.take([task]), file)
    return [f"{task}: {shown(file)}" for task, file in files.items()]


def _write_all(
    target: PromptFile, added: PromptFile, place: Path, output: str | None
) -> tuple[str, ...]:
    """One file with the tasks of both, in the place of the first if no other is named. Returns them."""
    arrays = {
        name: array if name == factors.SHARED else np.concatenate([array, added.arrays[name]])
        for name, array in target.arrays.items()
    }
    about = target.metadata
    scores = dict.fromkeys(added.metadata.task_names, added.metadata.scores)
    names = (*about.task_names, *added.metadata.task_names)
    arguments = {**about.arguments(), "task_names": names, "scores": {**about.scores, **scores}}
    with new_output(place if output is None else output) as result:
        save_prompt_file(
            result,
            arrays,
            **arguments,
            references={n: place.parent / other.file for n, other in about.references.items()},
            overwrite=output is None,
        )
    return names


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
