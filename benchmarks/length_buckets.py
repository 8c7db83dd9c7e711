"""What padding costs: tokens and matmul FLOPs of four ways to lay out examples of mixed lengths.

    python benchmarks/length_buckets.py

Lengths are log-normal (mean 74, median 58, at most 256, as in GLUE with T5's vocabulary) behind a
prompt of 100, targets of 2 to 8 tokens. Counted, not timed, so the numbers are the same anywhere.
FLOPs are those of T5-small's encoder, forward, with attention over whole rows; padding saved in
the decoder comes on top.
"""

import argparse

import numpy as np

from mpt_jax.data.batches import bucketed_batches, packed_batches
from mpt_jax.data.buckets import Buckets, choose_buckets
from mpt_jax.data.sampler import ProportionalSampler
from mpt_jax.data.streams import Stream, Streams

EMB, HEADS_DIM, MLP, LAYERS = 512, 512, 2048, 6


class OnlyLengths:
    """Examples of which nothing but the lengths is needed here."""

    def __init__(self, lengths):
        self._lengths = lengths

    def __len__(self):
        return len(self._lengths)

    def lengths(self):
        return self._lengths


def streams_of(tasks, examples, prompt_length, seed, longest=256):
    """Streams of log-normal lengths; with another `longest` all of them are that much shorter."""
    random = np.random.RandomState(seed)
    streams = []
    for task in range(tasks):
        drawn = random.lognormal(np.log(58 * longest / 256), 0.7, examples).astype(int)
        inputs = np.clip(drawn, min(4, longest), longest)
        lengths = np.stack([inputs, random.randint(2, 9, examples)], axis=1)
        virtual_ids = np.arange(prompt_length, dtype=np.int32) + task * prompt_length
        streams.append(Stream(OnlyLengths(lengths), virtual_ids, 0, task, f"task{task}"))
    return Streams(streams)


def encoder_flops(B, T):
    linear = 2 * B * T * (4 * EMB * HEADS_DIM + 2 * EMB * MLP)
    attention = 2 * 2 * B * T * T * HEADS_DIM
    return LAYERS * (linear + attention)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt_length", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--packed_length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=512)
    args = parser.parse_args()

    P = args.prompt_length
    streams = streams_of(tasks=4, examples=4096, prompt_length=P, seed=0)
    sampler = ProportionalSampler(streams, args.batch_size)
    few = Buckets.for_text(streams, (32, 64, 96, 128, 256), (8,))
    grouped = choose_buckets(streams, sampler, grouped=True)
    layouts = {
        "pad to 256": bucketed_batches(
            streams, sampler, 0, buckets=Buckets.for_text(streams, (256,), (8,))
        ),
        "fit, 32/64/96/128/256": bucketed_batches(streams, sampler, 0, buckets=few),
        "fit, chosen": bucketed_batches(streams, sampler, 0),
        "grouped, 32/64/96/128/256": bucketed_batches(
            streams, sampler, 0, buckets=few, grouped=True
        ),
        f"grouped, chosen {'/'.join(str(T - P) for T in grouped.encoder)}": bucketed_batches(
            streams, sampler, 0, buckets=grouped, grouped=True
        ),
        f"packed, rows of {args.packed_length}": packed_batches(
            streams, sampler, 0, T=args.packed_length, L=args.packed_length // 8
        ),
    }
    real, base = None, None
    print(f"{'layout':38}{'tokens':>12}{'ratio':>8}{'GFLOPs':>10}{'ratio':>8}{'shapes':>8}")
    for name, batches in layouts.items():
        shapes = [batches.shape(step) for step in range(args.steps)]
        tokens = sum(B * T for B, T, _ in shapes)
        flops = sum(encoder_flops(B, T) for B, T, _ in shapes)
        base = base or (tokens, flops)
        print(
            f"{name:38}{tokens:12,}{base[0] / tokens:7.2f}x{flops / 1e9:10,.0f}"
            f"{base[1] / flops:7.2f}x{len(set(shapes)):8}"
        )
        real = real or sum(
            int(streams.lengths(batches.rows(step))[:, 0].sum()) for step in range(args.steps)
        )
    print(f"{'no padding at all':38}{real:12,}{base[0] / real:7.2f}x")


if __name__ == "__main__":
    main()
