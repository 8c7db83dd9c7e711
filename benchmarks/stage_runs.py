"""Runs of `mpt teach` on random texts, each in a process of its own, on the benchmarks' model."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import problem
from turns import ENVIRONMENT, HERE, Turn

TASKS = HERE / "random_tasks.py"


def task_settings(size: problem.Size, tasks: int, examples: int) -> str:
    """The value of MPT_BENCHMARK."""
    lengths = {"inputs": size.inputs, "targets": size.targets}
    return json.dumps({"tasks": tasks, "examples": examples, **lengths})


def command(
    folder: str | Path, size: problem.Size, directory: Path, name: str, rows: int, steps: int
) -> list[str]:
    """The command line of one run.

    Args:
        folder: of the problem.
        directory: for the run directory, `name`, and the token stores.
        name: of the task or mixture.
        rows: of each task in a step.
    """
    lengths = {"inputs": size.inputs, "targets": size.targets}
    macros = {
        "INITIAL_CHECKPOINT_PATH": str(Path(folder) / "model"), "MIXTURE_OR_TASK_NAME": name,
        "TASK_FEATURE_LENGTHS": lengths, "PROMPT_LENGTH": size.prompt, "TRAIN_STEPS": steps,
        "BATCH_SIZE": rows, "EVAL_PERIOD": 0, "CHECKPOINT_PERIOD": 0,
        "STORE_DIR": str(directory / "stores"),
    }  # fmt: skip
    return [
        sys.executable, "-m", "mpt_jax", "teach", "--gin_file=runs/teach.gin",
        f"--task_module={TASKS}", f"--model_dir={directory / name}",
        "--gin.teach/fleet.Training.validation_examples=4",
        "--gin.teach/fleet.Training.eval_batch_size=32",
        *(f"--gin.{macro}={value!r}" for macro, value in macros.items()),
    ]  # fmt: skip


def environment(settings: str, directory: Path) -> dict[str, str]:
    """Of a run whose compilation cache is in `directory`: empty at first, as on a new machine."""
    # Which programs the cache keeps is for `mpt` to say, whatever the caller's environment has.
    own = {name: value for name, value in os.environ.items() if "PERSISTENT_CACHE" not in name}
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **own, **ENVIRONMENT, "MPT_BENCHMARK": settings,
        "PYTHONPATH": os.pathsep.join(paths), "JAX_COMPILATION_CACHE_DIR": str(directory / "cache"),
    }  # fmt: skip


def run(commands: list[list[str]], env: dict[str, str]) -> Turn:
    """Runs them one after another; CPU-seconds are those of their processes."""
    wall, cpu = time.perf_counter(), _children_cpu()
    for words in commands:
        done = subprocess.run(words, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return Turn(time.perf_counter() - wall, _children_cpu() - cpu)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
