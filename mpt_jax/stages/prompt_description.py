"""What `mpt show` prints of prompts: where they are from, norms, cosines, nearest vocabulary tokens."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mpt_jax.methods.prompt_file import FLOAT32, PromptFile
from mpt_jax.methods.similarity import (
    cosine_of_mean_slots,
    cosine_of_slots,
    nearest_tokens,
    rms,
    scale_ratio,
)
from mpt_jax.stages.backbone import Backbone

MOST_COLUMNS = 12


def describe(
    path: Path, prompts: PromptFile, console: Console, backbone: Backbone | None, nearest: int
) -> None:
    """Prints all that is known of the prompts at `path`.

    Args:
        backbone: for the scale against its embeddings and the nearest tokens; None leaves them out.
        nearest: how many vocabulary tokens to show for each slot.
    """
    _print_origin(path, prompts, console)
    names = list(prompts.metadata.task_names)
    if not prompts.is_matrix:
        console.print(f"tasks: {', '.join(names)}", markup=False)
        return
    finished = [prompts.prompt(task) for task in names]
    embeddings = None if backbone is None else backbone.embeddings
    factors = (
        [name for name, array in prompts.arrays.items() if array.ndim == 3]
        if prompts.metadata.rank is not None
        else []
    )
    title = "rms of all numbers, norms of slots" + (" and factors" if factors else "")
    columns = ["task", "rms", "slots: mean", "least", "most", *factors]
    if embeddings is not None:
        title += "; ratio: rms over the embeddings'"
        columns.append("ratio")
    table = Table(*columns, title=title)
    for k, (task, prompt) in enumerate(zip(names, finished, strict=True)):
        slots = np.linalg.norm(prompt, axis=1)
        values = [rms(prompt), slots.mean(), slots.min(), slots.max()]
        values += [float(np.linalg.norm(prompts.arrays[name][k])) for name in factors]
        values += [] if embeddings is None else [scale_ratio(prompt, embeddings)]
        table.add_row(escape(task), *(f"{value:.3f}" for value in values))
    if names:
        console.print(table)
    if 1 < len(names) <= MOST_COLUMNS:
        _print_cosines("cosines of whole prompts", names, cosine_of_slots(finished), console)
        _print_cosines("cosines of mean slots", names, cosine_of_mean_slots(finished), console)
    if backbone is not None and embeddings is not None:
        for task, prompt in zip(names, finished, strict=True):
            _print_nearest(task, prompt, embeddings, backbone, nearest, console)


def _print_origin(path: Path, prompts: PromptFile, console: Console) -> None:
    about = prompts.metadata
    rank = "" if about.rank is None else f", R = {about.rank}"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    console.print(f"[bold]{escape(str(path))}[/]: {size:,} bytes")
    for note in prompts.notes:
        console.print(f"note: {note}", markup=False)
    sizes = f", P = {about.length}, D = {about.width}{rank}" if about.length else ""
    settings = f", {dict(about.settings)}" if about.settings else ""
    console.print(f"method {about.kind}{sizes}{settings}", markup=False)
    fingerprint, writer = about.backbone_fingerprint, f"mpt_jax {about.tool_version}"
    if fingerprint is None:
        fingerprint, writer = "not told by the file", "another program"
    rounded = "" if about.backbone_precision == FLOAT32 else f", in {about.backbone_precision}"
    console.print(
        f"backbone {about.backbone_name} (fingerprint {fingerprint}{rounded})", markup=False
    )
    console.print(
        f"step {about.step}, scores {dict(about.scores)}, written by {writer}", markup=False
    )
    for name, array in prompts.arrays.items():
        place = f", taken from {about.references[name].file}" if name in about.references else ""
        console.print(
            f"  {name} {list(array.shape)}, root mean square {rms(array) if array.size else 0:.3f}, "
            f"norm {np.linalg.norm(array):.3f}{place}",
            markup=False,
        )


def _print_cosines(title: str, names: list[str], cosines: np.ndarray, console: Console) -> None:
    # Numbered columns: names of that many tasks would leave no room for the cosines.
    numbers = [str(k) for k in range(1, len(names) + 1)]
    table = Table("", "task", *numbers, title=title, box=None, padding=(0, 1, 0, 0))
    for number, task, row in zip(numbers, names, np.asarray(cosines), strict=True):
        table.add_row(number, escape(task), *(f"{value:.2f}" for value in row))
    for column in table.columns[2:]:
        column.no_wrap, column.justify, column.min_width = True, "right", 4
    console.print(table)


def _print_nearest(
    task: str, prompt: np.ndarray, embeddings: np.ndarray, backbone: Backbone, count: int,
    console: Console,
) -> None:  # fmt: skip
    table = Table("slot", "id, token, cosine", title=f"nearest tokens: {escape(task)}")
    ids, cosines = nearest_tokens(prompt, embeddings, count)
    for slot, (row, values) in enumerate(zip(ids, cosines, strict=True)):
        shown = [
            f"{token} {backbone.vocabulary.decode([int(token)])!r} {value:.2f}"
            for token, value in zip(row, values, strict=True)
        ]
        table.add_row(str(slot), escape(", ".join(shown)))
    console.print(table)
