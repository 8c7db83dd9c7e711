"""What distillation adds to a step of MPT: with the teachers in every step, or their states kept on disk.

    python benchmarks/distillation.py

All three are steps of `mpt distill`, fed as it feeds them: threads build batches ahead. Cached is a run
with TEACHER_CACHE, whose threads read the teachers' states from disk; filling it is not timed.
"""

from pathlib import Path

import problem
import stage_runs
from results import Result, Row, parser, settings
from turns import Prepared, Worker, ratio, take_turns


def prepare(folder: str, size: str, steps: int, weight: float, cached: bool = False) -> Prepared:
    """`steps` steps of one member for all tasks.

    Args:
        weight: of distillation; 0 leaves the teachers out.
        cached: whether the teachers' states are read.
    """
    import jax
    import mpt_step

    from mpt_jax.data.streams import Stream, Streams
    from mpt_jax.partitioning import shard_batch
    from mpt_jax.stages.data import Data
    from mpt_jax.stages.fleet import make_batches
    from mpt_jax.stages.teacher_cache import TeacherCache
    from mpt_jax.stages.training import Training

    sizes = problem.SIZES[size]
    backbone = mpt_step.open_backbone(folder)
    lengths = {"inputs": sizes.inputs, "targets": sizes.targets}
    data = Data(lengths, store_root=str(Path(folder) / "stores"))
    data.register((str(stage_runs.TASKS),), backbone.vocabulary)
    tasks = data.tasks_of("random_texts", backbone.vocabulary)
    train = {task: data.open(task, "train") for task in tasks}
    root = str(Path(folder) / "teacher_cache") if cached else None
    step = mpt_step.make_step(backbone, folder, weight, root)
    recorded = {}
    if root is not None:
        taught = mpt_step.teacher_prompts(len(tasks), sizes.prompt, sizes.emb_dim)
        cache = TeacherCache(
            root, step.design.recorded, backbone, sizes.prompt, train,
            dict(zip(tasks, taught, strict=True)),
        )  # fmt: skip
        recorded = cache.filled(step.design.objective, sizes.rows)
    streams = Streams([
        Stream(train[task], step.bank.virtual_ids(0, 0, k), 0, k, task, recorded=recorded.get(task))
        for k, task in enumerate(tasks)
    ])  # fmt: skip
    batches = make_batches(streams, Training(steps, sizes.rows), backbone)
    program = step.compiled(shard_batch(backbone.mesh, step.design.extend(batches[0])))
    state, ahead = step.state, batches.iterate()

    def turn() -> float:
        nonlocal state
        for _ in range(steps):
            batch = shard_batch(backbone.mesh, step.design.extend(next(ahead)))
            state, metrics = program(state, step.frozen, batch)
        return float(metrics["loss"][0])

    return Prepared(turn, {"loss": turn(), "device": jax.devices()[0].device_kind})


def main(arguments: list[str] | None = None) -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--steps", type=int, default=10, help="in a turn")
    args = flags.parse_args(arguments)
    size = problem.SIZES[args.size]
    env = {"MPT_BENCHMARK": stage_runs.task_settings(size, size.tasks, examples=64)}
    with problem.written(args.size) as folder:
        given = {"folder": folder, "size": args.size, "steps": args.steps, "env": env}
        workers = {
            "none": Worker("distillation:prepare", weight=0.0, **given),
            "uncached": Worker("distillation:prepare", weight=0.9, **given),
            "cached": Worker("distillation:prepare", weight=0.9, cached=True, **given),
        }
        turns = take_turns(workers, args.rounds, check=_same_loss)
    Result(
        "distillation", "A step with distillation against one without",
        [
            Row.of_ratio("cached / none", ratio(turns["cached"], turns["none"]), "<= 1.05"),
            Row.of_ratio("uncached / none", ratio(turns["uncached"], turns["none"]), "<= 1.4"),
        ],
        ["cached and uncached have one loss"],
        settings(args, steps=args.steps, device=workers["none"].facts["device"]),
        {name: {**workers[name].facts, "peak_bytes": workers[name].peak_bytes,
                "turns": [vars(turn) for turn in turns[name]]} for name in workers},
    ).finish(args.output)  # fmt: skip


def _same_loss(workers: dict[str, Worker]) -> None:
    cached, uncached = (workers[name].facts["loss"] for name in ("cached", "uncached"))
    if not abs(cached / uncached - 1) < 1e-5:
        raise SystemExit(f"the loss is {cached} with cached outputs and {uncached} without")


if __name__ == "__main__":
    main()
