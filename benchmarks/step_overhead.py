"""What the loop adds to its compiled step, and what a second start still compiles.

    python benchmarks/step_overhead.py

The loop is that of `mpt teach` (`training/loop.py`) with its input pipeline, metrics files and one
checkpoint in a turn; bare is the same compiled step called as often on one batch that lies on the
device. The second start is the same `mpt teach` again, in a new directory, with the compilation cache
of the first.
"""

import os
import tempfile
from pathlib import Path

import problem
import stage_runs
from results import Result, Row, parser, settings
from turns import Prepared, Worker, ratio, take_turns


def prepare(folder: str, size: str, steps: int, whole_loop: bool) -> Prepared:
    """`steps` steps of one member for all tasks, in the loop or bare."""
    import jax
    import mpt_step

    from mpt_jax.data.streams import Stream, Streams
    from mpt_jax.partitioning import place, replicated, shard_batch
    from mpt_jax.stages.data import Data
    from mpt_jax.stages.fleet import make_batches
    from mpt_jax.stages.training import Training
    from mpt_jax.training import loop
    from mpt_jax.training.checkpoints import Checkpoints, Identity

    sizes = problem.SIZES[size]
    backbone = mpt_step.open_backbone(folder)
    lengths = {"inputs": sizes.inputs, "targets": sizes.targets}
    data = Data(lengths, store_root=str(Path(folder) / "stores"))
    data.register((str(stage_runs.TASKS),), backbone.vocabulary)
    tasks = data.tasks_of("random_texts", backbone.vocabulary)
    step = mpt_step.make_step(backbone, folder)
    streams = Streams([
        Stream(data.open(task, "train"), step.bank.virtual_ids(0, 0, k), 0, k, task)
        for k, task in enumerate(tasks)
    ])  # fmt: skip
    training = Training(steps=steps, rows_per_member=sizes.rows)
    batches = make_batches(streams, training, backbone)
    shapes = {batches.shape(number) for number in range(steps)}
    assert len(shapes) == 1, f"batches of {shapes}: the loop would do other work than the bare step"
    on_device = shard_batch(backbone.mesh, batches[0])
    program = step.compiled(on_device)
    start = jax.tree.map(lambda array: jax.device_get(array), step.state)
    runs = 0

    def fresh() -> object:
        return place(start, replicated(backbone.mesh))

    def in_loop() -> None:
        nonlocal runs
        runs += 1
        directory = Path(folder) / f"run{os.getpid()}_{runs}"
        loop.train(
            fresh(), lambda state, frozen, batch: program(state, frozen, batch), step.frozen,
            lambda first: batches.iterate(first, steps),
            timetable=loop.Timetable(steps, log_period=training.log_period),
            fleet=loop.Fleet(["all"], [tasks], {step.bank.methods[0].name: 1}),
            checkpoints=Checkpoints(directory / "checkpoints", Identity(backbone.fingerprint)),
            metrics_folder=directory / "metrics",
            place=lambda batch: shard_batch(backbone.mesh, batch),
        )  # fmt: skip

    def bare() -> None:
        state, metrics = fresh(), None
        for _ in range(steps):
            state, metrics = program(state, step.frozen, on_device)
        jax.block_until_ready((state, metrics))

    turn = in_loop if whole_loop else bare
    turn()
    return Prepared(turn, {"device": jax.devices()[0].device_kind})


def main(arguments: list[str] | None = None) -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--steps", type=int, default=10, help="in a turn")
    args = flags.parse_args(arguments)
    size = problem.SIZES[args.size]
    described = stage_runs.task_settings(size, size.tasks, examples=64)
    with problem.written(args.size) as folder:
        given = {"folder": folder, "size": args.size, "steps": args.steps}
        env = {"MPT_BENCHMARK": described}
        workers = {
            "bare": Worker("step_overhead:prepare", env=env, whole_loop=False, **given),
            "loop": Worker("step_overhead:prepare", env=env, whole_loop=True, **given),
        }
        turns = take_turns(workers, args.rounds)
        compiled = [_start(folder, size, described, number) for number in (1, 2)]
    Result(
        "step_overhead", "The training loop against its bare compiled step",
        [
            Row.of_ratio("loop / bare step", ratio(turns["loop"], turns["bare"]), "<= 1.03"),
            Row("programs compiled by a second start", compiled[1], "<= 0"),
        ],
        [f"the first start compiles {compiled[0]} programs"],
        settings(args, steps=args.steps, device=workers["bare"].facts["device"]),
        {name: [vars(turn) for turn in taken] for name, taken in turns.items()},
    ).finish(args.output)  # fmt: skip


def _start(folder: str, size: problem.Size, described: str, number: int) -> int:
    """Programs that start `number` compiles: those it asks for less those that the cache has."""
    with tempfile.TemporaryDirectory() as work:
        words = stage_runs.command(folder, size, Path(work), "random_texts", rows=4, steps=2)
        counts = Path(work) / "counts"
        words[1:3] = [str(Path(__file__).with_name("count_compilations.py")), str(counts)]
        stage_runs.run([words], stage_runs.environment(described, Path(folder)))
        asked, found = map(int, counts.read_text().split())
    return asked - found


if __name__ == "__main__":
    main()
