"""One training step of MPT here, in PEFT and in T5X: same weights, prompt and batch.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --t5x_python=/path/to/python --output=docs/benchmarks.json

Ours is the step that `mpt distill` compiles, without distillation. PEFT's is measured twice: with the
prompt before the encoder alone, which is equal work, and with its default for T5, which puts another
prompt before the decoder. Losses of the first step have to agree before anything is timed.
"""

from typing import Any

import matmul_flops
import problem
from results import Result, Row, parser, settings
from turns import Worker, ratio, take_turns

OURS, EQUAL, DEFAULT, T5X = "ours", "PEFT, equal work", "PEFT, its default", "T5X"
PEAKS = {"jnp.dot": "mpt_step:matmul", "torch.mm": "peft_step:matmul"}
MATMUL = {"tiny": 128, "small": 3072, "base": 8192, "large": 8192}
AGREE = 1e-5  # relative difference of losses


def main(arguments: list[str] | None = None) -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--t5x_python", help="interpreter of an environment with T5X")
    args = flags.parse_args(arguments)
    size = problem.SIZES[args.size]
    with problem.written(args.size) as folder:
        workers = {
            OURS: Worker("mpt_step:train", folder=folder),
            EQUAL: Worker("peft_step:train", folder=folder, submodules=1),
            DEFAULT: Worker("peft_step:train", folder=folder, submodules=None),
        }
        if args.t5x_python:
            workers[T5X] = Worker("t5x_step:train", python=args.t5x_python, folder=folder)
        for name, function in PEAKS.items():
            workers[name] = Worker(function, size=MATMUL[args.size])
        turns = take_turns(workers, args.rounds, check=_losses_agree)
    facts: dict[str, Any] = {name: worker.facts for name, worker in workers.items()}
    needed, counted = matmul_flops.training_step(size), facts[OURS]["flops"]
    rows = [
        Row.of_ratio("PEFT at equal work / ours", ratio(turns[EQUAL], turns[OURS]), ">= 1.15"),
        Row.of_ratio("PEFT's default / ours", ratio(turns[DEFAULT], turns[OURS]), ">= 1.9"),
    ]
    notes = [f"first losses agree to {AGREE:g}: {facts[OURS]['loss']:.6f}"]
    if args.t5x_python:
        rows.append(Row.of_ratio("T5X / ours", ratio(turns[T5X], turns[OURS]), ">= 1.25"))
        rows.append(Row("FLOPs of T5X / needed", facts[T5X]["flops"] / needed))
    else:
        notes.append("T5X: not installed (--t5x_python)")
    rows.append(Row("FLOPs that XLA counts / needed", counted / needed, "<= 1.01"))
    for name in PEAKS:
        # FLOPs a second of the step over those of one large product, in the same round.
        share = ratio(turns[name], turns[OURS]).scaled(needed / facts[name]["flops"])
        rows.append(Row.of_ratio(f"matmul rate of our step / {name}'s", share))
    memory = workers[OURS].peak_bytes / workers[EQUAL].peak_bytes
    rows.append(Row("peak memory, ours / PEFT at equal work", memory, "<= 1.1"))
    Result(
        "train_step", "A training step of MPT", rows, notes,
        settings(args, device=facts[OURS]["device"]),
        {name: {**facts[name], "peak_bytes": workers[name].peak_bytes,
                "turns": [vars(turn) for turn in turns[name]]} for name in workers},
    ).finish(args.output)  # fmt: skip


def _losses_agree(workers: dict[str, Worker]) -> None:
    ours = workers[OURS].facts["loss"]
    for name in (EQUAL, T5X):
        if name in workers and not abs(workers[name].facts["loss"] / ours - 1) < AGREE:
            raise SystemExit(
                f"{name} has the loss {workers[name].facts['loss']}, ours is {ours}: not the same work"
            )


if __name__ == "__main__":
    main()
