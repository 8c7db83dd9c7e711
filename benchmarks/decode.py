"""Greedy decoding with an MPT prompt here, in PEFT (Hugging Face's generate) and in T5X.

    python benchmarks/decode.py
    python benchmarks/decode.py --t5x_python=/path/to/python

Same weights, prompt and inputs; the tokens have to be equal before anything is timed.
"""

import problem
from results import Result, Row, parser, settings
from turns import Prepared, Worker, ratio, take_turns

OURS, HF, T5X = "ours", "Hugging Face", "T5X"


def ours(folder: str, length: int) -> Prepared:
    """What `mpt infer` and evaluations call."""
    import jax
    import jax.numpy as jnp
    import mpt_step
    import numpy as np

    from mpt_jax.methods.bank import Bank
    from mpt_jax.methods.mpt import MPT
    from mpt_jax.models.decoding import greedy_decode
    from mpt_jax.partitioning import shard_batch

    backbone, start = mpt_step.open_backbone(folder), problem.prompt(folder)
    P, D = start["shared"].shape
    method = MPT(members=1, tasks=len(start["u"]), length=P, width=D)
    bank = Bank((method,), backbone.config.vocab_size)
    reader = bank.reader({method.name: {n: jnp.asarray(a)[None] for n, a in start.items()}})
    batch = shard_batch(backbone.mesh, mpt_step.make_batch(folder, bank))

    def turn() -> np.ndarray:
        ids = batch["encoder_input_tokens"]
        return np.asarray(greedy_decode(backbone.network, backbone.params, ids, length, reader))

    tokens = turn().tolist()
    return Prepared(turn, {"tokens": tokens, "device": jax.devices()[0].device_kind})


def main(arguments: list[str] | None = None) -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--t5x_python", help="interpreter of an environment with T5X")
    flags.add_argument("--length", type=int, default=16, help="tokens that are decoded")
    args = flags.parse_args(arguments)
    with problem.written(args.size) as folder:
        given = {"folder": folder, "length": args.length}
        workers = {OURS: Worker("decode:ours", **given), HF: Worker("peft_step:decode", **given)}
        if args.t5x_python:
            workers[T5X] = Worker("t5x_step:decode", python=args.t5x_python, **given)
        turns = take_turns(workers, args.rounds, check=_same_tokens)
    rows = [Row.of_ratio("Hugging Face / ours", ratio(turns[HF], turns[OURS]), ">= 1.4")]
    notes = ["equal tokens"]
    if args.t5x_python:
        rows.append(Row.of_ratio("T5X / ours", ratio(turns[T5X], turns[OURS]), ">= 2.0"))
    else:
        notes.append("T5X: not installed (--t5x_python)")
    Result(
        "decode", f"Greedy decoding of {args.length} tokens", rows, notes,
        settings(args, length=args.length, device=workers[OURS].facts["device"]),
        {name: {"peak_bytes": workers[name].peak_bytes,
                "turns": [vars(turn) for turn in turns[name]]} for name in workers},
    ).finish(args.output)  # fmt: skip


def _same_tokens(workers: dict[str, Worker]) -> None:
    for name, worker in workers.items():
        if worker.facts["tokens"] != workers[OURS].facts["tokens"]:
            raise SystemExit(f"{name} decodes other tokens than we do: not the same work")


if __name__ == "__main__":
    main()
