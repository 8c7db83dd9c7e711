"""All stages in sequence, each in its own folder of one directory.

    mpt quickstart
    mpt run --model_dir=runs/all --gin_file=models/embedded.gin --gin_file=runs/mpt.gin \\
        --gin.MIXTURE_OR_TASK_NAME="'embedded_sources'" \\
        --gin.TARGET_MIXTURE_OR_TASK_NAME="'embedded_targets'" \\
        --gin.TEACH_STEPS=100 --gin.DISTILL_STEPS=100 --gin.ADAPT_STEPS=20

`mpt quickstart` is `mpt run --gin_file=quickstart.gin`: it needs no flags, and without --model_dir it
writes to a fresh directory below mpt_runs/. MODEL_DIR/teach, distill, adapt and evaluate are ordinary run
directories; MODEL_DIR itself gets report.md, results.json and plots/. Stages that are complete are not run
again, so the same command goes on where it was stopped. Several processes may run it together, as they may
run each stage.
"""

import contextlib
import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mpt_jax.errors import UserError
from mpt_jax.places import is_address, join, read_text
from mpt_jax.run_directory import RECORD, fresh_path
from mpt_jax.terminal import Output

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
    if model_dir is None and jax.process_count() > 1:
        raise UserError("several processes need one place to write to: give --model_dir=DIR")
    root = str(fresh_path("run")) if model_dir is None else model_dir
    if not is_address(root) and Path(root).is_file():
        raise UserError(f"MODEL_DIR {root} is a file; give a directory")
    console = Output(quiet=jax.process_index() > 0)
    console.print(f"everything goes to {root}" if not dry_run else f"dry run of {root}")
    folder = {name: join(root, name) for name in ("teach", "distill", "adapt", "evaluate")}
    stages: dict[str, Callable[..., Any]] = {
        "teach": teach,
        "distill": lambda **common: distill(teachers=folder["teach"], **common),
        "adapt": lambda **common: adapt(
            teachers=folder["teach"], distilled=folder["distill"], **common
        ),
        "evaluate": lambda **common: evaluate(
            sources=(folder["teach"], folder["distill"], folder["adapt"]),
            report_dir=root,
            **common,
        ),
    }
    began = time.monotonic()
    common = {"task_modules": task_modules, "config_text": config_text}
    missing = _missing(folder)
    if not dry_run:
        # What adapt cannot do is said now, not when the stages before it have trained.
        with contextlib.redirect_stdout(io.StringIO()):
            for name in [name for name in missing[1:] if name != "evaluate"]:
                stages[name](model_dir=folder[name], dry_run=True, **common)
    for name, stage in stages.items():
        if name in missing:
            stage(model_dir=folder[name], dry_run=dry_run, **common)
        else:
            console.print(f"{name} is complete already")
    if not dry_run:
        console.print(f"all stages took {(time.monotonic() - began) / 60:.1f} minutes")


def _missing(folder: Mapping[str, str]) -> list[str]:
    """The stages that are not complete; as the first of several processes sees them.

    A shared file system may show the others what was there a moment ago.
    """
    complete = np.array([_complete(place) for place in folder.values()])
    seen_by_first = multihost_utils.broadcast_one_to_all(complete)
    return [name for name, done in zip(folder, seen_by_first, strict=True) if not done]


def _complete(folder: str) -> bool:
    try:
        return bool(json.loads(read_text(join(folder, RECORD))).get("complete"))
    except (OSError, ValueError):
        return False
