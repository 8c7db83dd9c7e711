"""What distillation adds to a step of MPT: with the teacher's pass, and with its outputs at hand.

    python benchmarks/distillation.py

The three are steps that `mpt distill` compiles. Cached means that the batch holds what
`DistillationObjective.teacher_outputs` gave for it.
"""

import problem
from results import Result, Row, parser, settings
from turns import Worker, ratio, take_turns


def main(arguments: list[str] | None = None) -> None:
    args = parser(__doc__.splitlines()[0]).parse_args(arguments)
    with problem.written(args.size) as folder:
        workers = {
            "none": Worker("mpt_step:train", folder=folder),
            "uncached": Worker("mpt_step:train", folder=folder, weight=0.9),
            "cached": Worker("mpt_step:train", folder=folder, weight=0.9, cached=True),
        }
        turns = take_turns(workers, args.rounds, check=_same_loss)
    Result(
        "distillation", "A step with distillation against one without",
        [
            Row.of_ratio("cached / none", ratio(turns["cached"], turns["none"]), "<= 1.05"),
            Row.of_ratio("uncached / none", ratio(turns["uncached"], turns["none"]), "<= 1.4"),
        ],
        ["cached and uncached have one loss"],
        settings(args, device=workers["none"].facts["device"]),
        {name: {**workers[name].facts, "peak_bytes": workers[name].peak_bytes,
                "turns": [vars(turn) for turn in turns[name]]} for name in workers},
    ).finish(args.output)  # fmt: skip


def _same_loss(workers: dict[str, Worker]) -> None:
    cached, uncached = (workers[name].facts["loss"] for name in ("cached", "uncached"))
    if not abs(cached / uncached - 1) < 1e-5:
        raise SystemExit(f"the loss is {cached} with cached outputs and {uncached} without")


if __name__ == "__main__":
    main()
