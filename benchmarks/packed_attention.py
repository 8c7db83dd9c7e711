"""What packing pays: attention that passes over other segments' blocks, against buckets and plain packing.

    python benchmarks/packed_attention.py                       # counts, and times on a TPU
    python benchmarks/packed_attention.py --topology=v5e:2x2    # memory too, compiled without a TPU

Lengths are those of `length_buckets.py` (mean 74, behind a prompt of 100). Work is matmul FLOPs of the
encoder's forward pass; pairs are what attention multiplies, in positions times positions of one head.
Times are of loss and gradient with respect to the encoder's input, with random weights.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from length_buckets import streams_of

from mpt_jax.data.batches import Batches, Packed, bucketed_batches, packed_batches
from mpt_jax.data.buckets import Buckets
from mpt_jax.data.sampler import ProportionalSampler
from mpt_jax.models.layer_stacking import stack_layers
from mpt_jax.models.segment_attention import BLOCK, segment_blocks
from mpt_jax.models.t5 import T5Config, Transformer, init_params
from mpt_jax.models.t5_sizes import size_named
from mpt_jax.partitioning import make_mesh

TARGETS = 8  # decoder positions of an example


def segments_of(batches: Batches, step: int) -> np.ndarray:
    """Segment ids [B, T] of a step's rows."""
    lengths = batches.streams.lengths(batches.rows(step))
    placement = batches.layout.place(lengths)
    B, T, _ = placement.shape
    ids = np.zeros((B, T), np.int32)
    segments = np.ones(len(lengths), int) if placement.segment is None else placement.segment
    for row, start, length, segment in zip(
        placement.row, placement.encoder_start, lengths[:, 0], segments, strict=True
    ):
        ids[row, start : start + length] = segment
    return ids


def visited_blocks(ids: np.ndarray) -> int:
    segments = segment_blocks(jnp.asarray(ids))
    return int(jnp.sum(segments.last - segments.first))


def encoder_flops(config: T5Config, tokens: int, pairs: int) -> float:
    J, D = config.num_heads * config.head_dim, config.emb_dim
    weights = 4 * D * J + (len(config.mlp_activations) + 1) * D * config.mlp_dim
    return config.num_encoder_layers * (2.0 * tokens * weights + 4.0 * pairs * J)


def count(layouts: dict[str, Batches], config: T5Config, steps: int) -> None:
    print(f"{'layout':34}{'tokens':>11}{'M pairs':>10}{'visited':>9}{'TFLOPs':>9}{'ratio':>8}")
    base = 0.0
    for name, batches in layouts.items():
        rows = [segments_of(batches, step) for step in range(steps)]
        tokens = sum(ids.size for ids in rows)
        whole = sum(ids.shape[0] * ids.shape[1] ** 2 for ids in rows)
        counted = {name: whole}
        if isinstance(batches.layout, Packed):
            counted[f"{name}, fused"] = sum(map(visited_blocks, rows)) * BLOCK**2
        for label, pairs in counted.items():
            flops = encoder_flops(config, tokens, pairs)
            base = base or flops
            print(
                f"{label:34}{tokens:11,}{pairs / 1e6:10,.0f}{pairs / whole:9.2f}"
                f"{flops / 1e12:9.1f}{base / flops:7.2f}x"
            )
    lengths = np.concatenate([batches.streams.lengths(batches.rows(s))[:, 0] for s in range(steps)])
    pairs, tokens = int((lengths.astype(np.int64) ** 2).sum()), int(lengths.sum())
    flops = encoder_flops(config, tokens, pairs)
    print(
        f"{'nothing but the examples':34}{tokens:11,}{pairs / 1e6:10,.0f}{'':9}"
        f"{flops / 1e12:9.1f}{base / flops:7.2f}x"
    )


def memory(model: str, topology: str, packed_length: int, rows: int) -> None:
    """One device's memory in a step of `mpt teach`, by the compiler."""
    print(f"\n{model} on {topology}, {rows} packed rows of {packed_length} a device:")
    for remat in ("full", "none"):
        for attention in ("plain", "fused"):
            found = subprocess.run(
                [
                    sys.executable, "-m", "mpt_jax", "plan", "teach", "--json", "--tasks=6",
                    "--gin_file=models/t5_v1_1_xl.gin", "--gin_file=runs/teach.gin",
                    "--gin.TRAIN_STEPS=100", f"--model={model}", f"--topology={topology}",
                    f"--rows_per_replica={rows}", f"--gin.REMAT='{remat}'",
                    f"--gin.backbone.BackboneSource.attention='{attention}'",
                    f"--gin.teach/fleet.Training.packed_lengths=({packed_length}, {TARGETS * 8})",
                ],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            (plan,) = json.loads(found.stdout)
            size = plan["temporaries"]
            text = plan["verdict"] if size is None else f"{size / 1e9:.2f} GB of temporaries"
            print(f"    remat {remat:6} {attention:6} {text}")


def random_batch(ids: np.ndarray, config: T5Config) -> dict[str, jax.Array]:
    stream = np.random.RandomState(0)
    targets = np.repeat(np.arange(1, max(int(ids.max()), 1) + 1, dtype=np.int32), TARGETS)
    targets = np.where(targets <= ids.max(axis=1, keepdims=True), targets, 0).astype(np.int32)

    def tokens(of: np.ndarray) -> np.ndarray:
        return np.where(of > 0, stream.randint(1, config.vocab_size, of.shape), 0).astype(np.int32)

    arrays = {
        "encoder_input_tokens": tokens(ids), "decoder_input_tokens": tokens(targets),
        "encoder_segment_ids": ids, "decoder_segment_ids": targets,
    }  # fmt: skip
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def timed(layouts: dict[str, Batches], config: T5Config, steps: int, repeats: int) -> None:
    """Seconds of the same examples in each layout; layouts take turns."""
    mesh = make_mesh((1, 1), jax.devices()[:1])
    weights = init_params(dataclasses.replace(config, scan_layers=False), jax.random.key(0))
    weights = jax.tree.map(lambda x: x.astype(config.dtype), stack_layers(weights))

    def program(attention: str):
        network = Transformer(dataclasses.replace(config, attention=attention), mesh=mesh)

        def loss(added, weights, batch):
            logits = network.apply(
                {"params": weights}, **batch, embed=lambda _, words: words + added[:, None, :]
            )
            seen = (batch["decoder_segment_ids"] > 0)[:, :, None]
            return jnp.sum(jnp.where(seen, jax.nn.log_softmax(logits), 0.0))

        return jax.jit(jax.grad(loss))

    runs, seconds = {}, {}
    for name, batches in layouts.items():
        data = [random_batch(segments_of(batches, step), config) for step in range(steps)]
        fixed = isinstance(batches.layout, Packed)
        for attention in ("plain", "fused") if fixed else ("plain",):
            runs[f"{name}, {attention}"] = program(attention), data
    for label, (step, data) in runs.items():
        seconds[label] = []
        for turn in range(repeats + 1):
            start = time.perf_counter()
            for batch in data:
                added = jnp.zeros(
                    (len(batch["encoder_input_tokens"]), config.emb_dim), config.dtype
                )
                jax.block_until_ready(step(added, weights, batch))
            if turn:  # the first compiles
                seconds[label].append(time.perf_counter() - start)
    base = None
    print(f"\n{jax.devices()[0].device_kind}, {steps} steps, median (least, most) of {repeats}:")
    for label, found in seconds.items():
        base = base or np.median(found)
        print(
            f"{label:34}{np.median(found):8.3f} s ({min(found):.3f}, {max(found):.3f})"
            f"{base / np.median(found):7.2f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="t5-v1_1-large")
    parser.add_argument("--prompt_length", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=192)
    parser.add_argument("--packed_length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--topology", help="compile for it, for the memory")
    args = parser.parse_args()

    streams = streams_of(tasks=4, examples=4096, prompt_length=args.prompt_length, seed=0)
    sampler = ProportionalSampler(streams, args.batch_size)
    few = Buckets.for_text(streams, (32, 64, 96, 128, 256), (TARGETS,))
    fixed = Buckets.for_text(streams, (256,), (TARGETS,))
    rows = {"L": args.packed_length // 8, "T": args.packed_length}
    layouts = {
        "pad to 256": bucketed_batches(streams, sampler, 0, buckets=fixed),
        "grouped, 32/64/96/128/256": bucketed_batches(
            streams, sampler, 0, buckets=few, grouped=True
        ),
        f"packed, rows of {args.packed_length}": packed_batches(streams, sampler, 0, **rows),
    }
    config = dataclasses.replace(
        size_named(args.model), dtype="bfloat16", scan_layers=True, remat="full"
    )
    count(layouts, config, args.steps)
    if args.topology:
        memory(args.model, args.topology, args.packed_length, rows=8)
    if jax.default_backend() == "tpu":
        timed(layouts, config, min(args.steps, 8), args.repeats)
    else:
        print(f"\nNo times: fused attention runs on TPUs, and this is a {jax.default_backend()}.")


if __name__ == "__main__":
    main()
