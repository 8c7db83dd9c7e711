"""An epoch of mixed lengths in length buckets against padding to the longest, timed.

    python benchmarks/mixed_lengths.py

Lengths and buckets are those of length_buckets.py, which counts what is timed here: the step of each
shape, as often as the shape comes in the first 512 batches.
"""

from collections import Counter

import problem
from length_buckets import streams_of
from results import Result, Row, parser, settings
from turns import Turn, Worker, ratio, take_turns

STEPS = 512


def shapes_of(size: problem.Size) -> tuple[int, dict[int, float]]:
    """The longest text, and for each length that batches are padded to its share of the batches."""
    from mpt_jax.data.batches import bucketed_batches
    from mpt_jax.data.sampler import ProportionalSampler

    longest = 2 * size.inputs
    streams = streams_of(4, 4096, size.prompt, seed=0, longest=longest)
    sampler = ProportionalSampler(streams, size.rows)
    # As the stages of mpt do it by default.
    batches = bucketed_batches(streams, sampler, 0, grouped=True)
    counts = Counter(batches.shape(step)[1] - size.prompt for step in range(STEPS))
    return longest, {length: count / STEPS for length, count in sorted(counts.items())}


def main(arguments: list[str] | None = None) -> None:
    args = parser(__doc__.splitlines()[0], rounds=5).parse_args(arguments)
    longest, shares = shapes_of(problem.SIZES[args.size])
    with problem.written(args.size) as folder:
        workers = {
            str(length): Worker("mpt_step:train", folder=folder, inputs=length)
            for length in {longest, *shares}
        }
        turns = take_turns(workers, args.rounds)
    grouped = [
        Turn(
            sum(share * turns[str(length)][n].wall for length, share in shares.items()),
            sum(share * turns[str(length)][n].cpu for length, share in shares.items()),
        )
        for n in range(args.rounds)
    ]
    Result(
        "mixed_lengths", "A step on mixed lengths, on average over an epoch",
        [Row.of_ratio(f"padded to {longest} / in buckets", ratio(turns[str(longest)], grouped), ">= 1.8")],
        [f"buckets {', '.join(f'{length} ({share:.0%} of batches)' for length, share in shares.items())}"],
        settings(args, device=workers[str(longest)].facts["device"]),
        {length: [vars(turn) for turn in taken] for length, taken in turns.items()},
    ).finish(args.output)  # fmt: skip


if __name__ == "__main__":
    main()
