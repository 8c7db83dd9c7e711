"""Describes prompts, a checkpoint folder or a run directory.

    mpt show runs/adapt
    mpt show runs/adapt/prompts/inflect_past/k16/seed0/mpt.safetensors
    mpt show adapters/mnli --gin_file=models/embedded.gin --gin_file=runs/show.gin

Prompts may be a prompt file, a PEFT adapter folder, a .npy array or a .pt file. With a backbone, as in the
last line, their scale is compared with its embeddings', and each slot's nearest tokens are named.
"""

import argparse
import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mpt_jax import fetched
from mpt_jax.errors import UserError
from mpt_jax.methods.prompt_sources import is_foreign, load_prompts
from mpt_jax.places import join
from mpt_jax.run_directory import RECORD, RunDirectory
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.stages.prompt_description import describe
from mpt_jax.terminal import Output
from mpt_jax.training import checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="prompts, a run directory or its checkpoints/")


def run(path: str, backbone: BackboneSource | None = None, nearest: int = 3) -> None:
    """Prints what is at `path`.

    Args:
        path: prompts in any known form, a run directory, or a folder of checkpoints.
        backbone: the model of the prompts, to compare them with its embeddings.
        nearest: vocabulary tokens shown for each slot.

    Raises:
        UserError: nothing is there, or nothing that is known; prompts of another backbone.
    """
    place, console = fetched.prompts(path), Output()
    if place.is_file() or is_foreign(place):
        frozen = None if backbone is None else backbone.open()
        prompts = load_prompts(
            place,
            expect_backbone=None if frozen is None else frozen.fingerprint,
            expect_width=None if frozen is None else frozen.config.emb_dim,
        )
        describe(place, prompts, console, frozen, nearest)
    elif (place / RECORD).is_file():
        _show_run(place, path, console)
    elif folders := checkpoints.folders(place):
        for folder in folders:
            _show_checkpoints(folder, place, console)
    else:
        raise UserError(
            f"{path} is neither a prompt file or another program's, nor a run directory (it has no "
            f"{RECORD}), nor a folder of checkpoints."
        )


def _show_run(path: Path, name: str, console: Console) -> None:
    run_directory = RunDirectory(path)
    record = run_directory.record()
    state = "complete" if record.get("complete") else "not finished (the same command goes on)"
    console.print(f"[bold]{name}[/]: a run of {record['stage']}, {state}")
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
    for folder in checkpoints.folders(run_directory.checkpoints):
        _show_checkpoints(folder, run_directory.checkpoints, console)
    for extra in (run_directory.config, run_directory.report):
        if extra.is_file():
            console.print(f"{extra.name}: {join(name, extra.name)}")


def _show_checkpoints(path: Path, root: Path, console: Console) -> None:
    program = "" if path == root else f"{path.relative_to(root).as_posix()}: "
    for step in checkpoints.steps(path):
        record = checkpoints.read_record(path, step)
        when = datetime.datetime.fromtimestamp(checkpoints.written_at(path, step))
        console.print(
            f"{program}checkpoint of step {step} ({when:%Y-%m-%d %H:%M}): {len(record['shapes'])} arrays, "
            f"backbone {record['backbone']}"
        )
