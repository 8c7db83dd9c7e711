"""Describes a prompt file, a checkpoint folder or a run directory.

mpt show runs/adapt
mpt show runs/adapt/prompts/inflect_past/k16/seed0/mpt.safetensors
"""

import argparse
import datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mpt_jax.errors import UserError
from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.methods.similarity import cosine_of_mean_slots, rms
from mpt_jax.run_directory import RECORD, RunDirectory
from mpt_jax.training import checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="a prompt file, a run directory or its checkpoints/")


def run(path: str) -> None:
    """Prints what is at `path`.

    Raises:
        UserError: nothing is, or nothing that mpt_jax wrote.
    """
    place, console = Path(path), Console(highlight=False)
    if place.is_file():
        _show_prompts(place, console)
    elif (place / RECORD).is_file():
        _show_run(place, console)
    elif checkpoints.steps(place):
        _show_checkpoints(place, console)
    else:
        raise UserError(
            f"{path} is neither a prompt file, nor a run directory (it has no {RECORD}), nor a folder "
            "of checkpoints."
        )


def _show_prompts(path: Path, console: Console) -> None:
    file = load_prompt_file(path)
    about = file.metadata
    rank = "" if about.rank is None else f", R = {about.rank}"
    console.print(f"[bold]{path}[/]: {path.stat().st_size:,} bytes")
    console.print(f"method {about.kind}, P = {about.length}, D = {about.width}{rank}")
    console.print(f"backbone {about.backbone_name} (fingerprint {about.backbone_fingerprint})")
    console.print(
        f"step {about.step}, scores {about.scores}, written by mpt_jax {about.tool_version}"
    )
    for name, array in file.arrays.items():
        console.print(f"  {name} {list(array.shape)}, root mean square {rms(array):.3f}")
    names = list(about.task_names)
    table = Table(
        "task", "rms of its prompt", *(names if 1 < len(names) <= 12 else ()), title="cosines"
    )
    finished = [file.prompt(task) for task in names]
    cosines = np.asarray(cosine_of_mean_slots(finished))
    for row, (task, prompt) in enumerate(zip(names, finished, strict=True)):
        shown = [f"{value:.2f}" for value in cosines[row]] if 1 < len(names) <= 12 else []
        table.add_row(task, f"{rms(prompt):.3f}", *shown)
    console.print(table)


def _show_run(path: Path, console: Console) -> None:
    run_directory = RunDirectory(path)
    record = run_directory.record()
    state = "complete" if record.get("complete") else "not finished (the same command goes on)"
    console.print(f"[bold]{path}[/]: a run of {record['stage']}, {state}")
    members = record.get("members", [])
    if members:
        table = Table(
            "prompt file", "tasks", "method", "k", "seed", "best step", "numbers a member"
        )
        for member in members:
            table.add_row(
                member["name"], str(len(member["tasks"])), member["method"],
                "all" if member["k"] is None else str(member["k"]), str(member["seed"]),
                f"{member['best_step']} of {member['steps']}", f"{member['parameters']:,}",
            )  # fmt: skip
        console.print(table)
    if run_directory.checkpoints.is_dir():
        _show_checkpoints(run_directory.checkpoints, console)
    for extra in (run_directory.config, run_directory.report):
        if extra.is_file():
            console.print(f"{extra.name}: {extra}")


def _show_checkpoints(path: Path, console: Console) -> None:
    for step in checkpoints.steps(path):
        record = checkpoints.read_record(path, step)
        when = datetime.datetime.fromtimestamp((path / str(step)).stat().st_mtime)
        console.print(
            f"checkpoint of step {step} ({when:%Y-%m-%d %H:%M}): {len(record['shapes'])} arrays, "
            f"backbone {record['backbone']}"
        )
