"""Eight tasks taught in one program against eight programs of one task, start-up included.

    python benchmarks/many_tasks.py

Whole runs of `mpt teach`, with everything from imports to the prompt files, 10 steps of 4 rows of each
task. Each side starts with an empty compilation cache, so that of the eight only the first one compiles.
"""

import tempfile
from pathlib import Path

import problem
import stage_runs
from results import Result, Row, parser, settings
from turns import Turn, ratio

TASKS, ROWS = 8, 4


def main(arguments: list[str] | None = None) -> None:
    flags = parser(__doc__.splitlines()[0], rounds=3)
    flags.add_argument("--tasks", type=int, default=TASKS)
    flags.add_argument("--steps", type=int, default=10)
    args = flags.parse_args(arguments)
    size = problem.SIZES[args.size]
    described = stage_runs.task_settings(size, args.tasks, examples=64)
    sides = {
        "one program": ["random_texts"],
        "a program for each task": [f"random_text_{k}" for k in range(args.tasks)],
    }
    turns: dict[str, list[Turn]] = {side: [] for side in sides}
    with problem.written(args.size) as folder:
        for _ in range(args.rounds):
            for side, names in sides.items():
                with tempfile.TemporaryDirectory() as work:
                    commands = [
                        stage_runs.command(folder, size, Path(work), name, ROWS, args.steps)
                        for name in names
                    ]
                    env = stage_runs.environment(described, Path(work))
                    turns[side].append(stage_runs.run(commands, env))
    Result(
        "many_tasks", f"{args.tasks} tasks of {ROWS} rows, {args.steps} steps: whole runs of mpt teach",
        [Row.of_ratio("one program / a program for each task", ratio(*turns.values()), "<= 0.6")],
        settings=settings(args, tasks=args.tasks, steps=args.steps, rows=ROWS),
        raw={side: [vars(turn) for turn in taken] for side, taken in turns.items()},
    ).finish(args.output)  # fmt: skip


if __name__ == "__main__":
    main()
