"""All stages in sequence, each in its own folder of one directory.

    mpt run --model_dir=runs/all --gin_file=runs/mpt.gin

MODEL_DIR/teach, distill, adapt and evaluate are ordinary run directories; MODEL_DIR itself gets
report.md, results.json and plots/. Stages that are complete are
not run again, so the same command goes on where it was stopped.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from mpt_jax.errors import UserError
from mpt_jax.run_directory import RECORD, fresh_path

Stage = Callable[..., Any]


def run(
    teach: Stage,
    distill: Stage,
    adapt: Stage,
    evaluate: Stage,
    model_dir: str | None = None,
    task_modules: tuple[str, ...] = (),
    dry_run: bool = False,
    config_text: Callable[[], str] = str,
) -> None:
    """Runs what is not complete yet.

    Args:
        teach, distill, adapt, evaluate: the stages' `run` with all arguments bound but those below
            and their sources, e.g. `@teach.run` in gin.
        model_dir: the directory of all; a fresh one below mpt_runs/ if None.
        task_modules: Python files or modules that register tasks.
        dry_run: check and describe each stage, train nothing.
        config_text: gives the operative configuration.
    """
    root = fresh_path("run") if model_dir is None else Path(model_dir)
    if root.exists() and not root.is_dir():
        raise UserError(f"MODEL_DIR {root} is a file; give a directory")
    console = Console(highlight=False)
    console.print(f"everything goes to {root}" if not dry_run else f"dry run of {root}")
    folder = {name: str(root / name) for name in ("teach", "distill", "adapt", "evaluate")}
    stages: dict[str, Callable[..., Any]] = {
        "teach": teach,
        "distill": lambda **common: distill(teachers=folder["teach"], **common),
        "adapt": lambda **common: adapt(
            teachers=folder["teach"], distilled=folder["distill"], **common
        ),
        "evaluate": lambda **common: evaluate(
            sources=(folder["teach"], folder["distill"], folder["adapt"]),
            report_dir=str(root),
            **common,
        ),
    }
    began = time.monotonic()
    for name, stage in stages.items():
        if _complete(Path(folder[name])):
            console.print(f"{name} is complete already")
            continue
        stage(
            model_dir=folder[name],
            task_modules=task_modules,
            dry_run=dry_run,
            config_text=config_text,
        )
    if not dry_run:
        console.print(f"all stages took {(time.monotonic() - began) / 60:.1f} minutes")


def _complete(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / RECORD).read_text()).get("complete"))
    except (OSError, ValueError):
        return False
