"""What `mpt tasks NAME` prints of a task: its data set, sizes and lengths, an example as the model has it."""

from rich.console import Console
from rich.markup import escape

from mpt_jax.data import tasks
from mpt_jax.data.examples import Examples
from mpt_jax.errors import UserError
from mpt_jax.stages.data import Data

ROLES = ("train", "validation", "test")
IDS_SHOWN = 32


def describe_task(name: str, data: Data, console: Console) -> None:
    """Prints a task; its token stores are filled on the way, if they are not there.

    Args:
        name: of a registered task.
        data: says where the stores are, how long texts may be and what serves as which split.
        console: where to print.
    """
    about = tasks.about_task(name)
    if about is not None:
        console.print(f"\n[bold]{about.title}[/], {about.homepage}")
        console.print(f"licence: {escape(about.licence)}", soft_wrap=True)
        console.print(f"read from: {escape(about.origin)}", soft_wrap=True)
        published = ", ".join(f"{split} {size:,}" for split, size in about.sizes.items())
        console.print(f"published: {published}; split rule: {about.split_rule}")
    found, problems = _open(name, data)
    for role, examples in found.items():
        console.print(_sizes(role, examples), soft_wrap=True)
    if found:
        _show_example(next(iter(found.values())), console)
    for role, problem in problems.items():
        console.print(f"{role}: {escape(problem)}", soft_wrap=True)
    if about is not None:
        console.print(f"\n{escape(about.citation)}", soft_wrap=True)


def _open(name: str, data: Data) -> tuple[dict[str, Examples], dict[str, str]]:
    """The examples of each role, and why there are none of the others."""
    found: dict[str, Examples] = {}
    problems: dict[str, str] = {}
    for role in ROLES:
        try:
            found[role] = data.open(name, role)
        except UserError as error:
            problems[role] = str(error)
    return found, problems


def _sizes(role: str, examples: Examples) -> str:
    lengths, manifest = examples.lengths(), examples.manifest
    (inputs, targets), (longest, longest_target) = lengths.mean(axis=0), lengths.max(axis=0)
    return (
        f"{role}: {len(examples):,} examples of split {manifest.split}, on average {inputs:.1f} tokens (at "
        f"most {longest}) in and {targets:.1f} (at most {longest_target}) out; of the split's "
        f"{manifest.count:,} texts {manifest.truncated_inputs:,} are cut at "
        f"{manifest.feature_lengths['inputs']} tokens"
    )


def _show_example(examples: Examples, console: Console) -> None:
    example = examples[0]
    vocabulary = tasks.task_vocabulary(examples.manifest.task)
    console.print(
        "\n[bold]an example as the model has it[/] (in front of it the prompt's virtual ids)"
    )
    for what, ids in (("inputs", example.inputs), ("targets", example.targets)):
        shown = " ".join(map(str, ids[:IDS_SHOWN].tolist()))
        more = f" ... ({len(ids)} ids)" if len(ids) > IDS_SHOWN else ""
        console.print(f"{what}: {escape(vocabulary.decode(ids.tolist()))}", soft_wrap=True)
        console.print(f"  ids {shown}{more}", soft_wrap=True)
