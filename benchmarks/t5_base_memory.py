"""What a model of T5-Base's size (v1.1, 248 million weights) needs here: to load, and to adapt to a task.

    python benchmarks/t5_base_memory.py

Random weights in a folder as transformers writes it (two shards), texts of 256 tokens of random
words, prompts of 100 vectors. Loading and `mpt adapt` are measured in processes of their own: peak of
the resident memory, on Linux. Times are of this machine, and only good for its own order of size.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = dict(
    vocab_size=32128, emb_dim=768, num_heads=12, head_dim=64, mlp_dim=2048,
    num_encoder_layers=12, num_decoder_layers=12,
)  # fmt: skip
PROMPT, INPUTS, TARGETS = 100, 256, 16


class RandomWeights:
    """Weights of T5's usual scales, made as they are asked for."""

    name = "random"

    def __init__(self, config):
        from mpt_jax.models.formats.weights import parameter_shapes

        self.config, self._shapes = config, parameter_shapes(config)

    def read(self, path):
        import numpy as np

        shape = self._shapes[path]
        noise = np.random.default_rng(abs(hash(path)) % 2**32).standard_normal(shape, np.float32)
        return 1 + 0.1 * noise if path.endswith("scale") else noise / np.float32(shape[0] ** 0.5)


def make(folder: Path) -> None:
    from mpt_jax.models.formats.hf_writer import save_weights
    from mpt_jax.models.t5 import T5Config

    tokenizer = json.dumps({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}).encode()
    save_weights(
        folder, RandomWeights(T5Config(**BASE)),
        files={"tokenizer_config.json": tokenizer}, shard_bytes=600_000_000,
    )  # fmt: skip


def peak() -> int:
    """Peak of this process's resident memory, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def measure_loading(folder: Path, dtype: str) -> dict:
    import jax

    from mpt_jax.stages.backbone import BackboneSource

    jax.devices()
    start, before = time.perf_counter(), peak()
    backbone = BackboneSource(str(folder), dtype=dtype).open()
    return {
        "weights on the devices": sum(leaf.nbytes for leaf in jax.tree.leaves(backbone.params)),
        "peak of the process": peak(),
        "of it before loading": before,
        "seconds": round(time.perf_counter() - start, 1),
    }


def register_texts() -> None:
    import seqio
    import tensorflow as tf

    stream = random.Random(0)
    words = ["".join(stream.choices("etaoinshrdlu", k=stream.randint(1, 9))) for _ in range(500)]

    def texts(split, shuffle_files=False, seed=None):
        lines = [" ".join(stream.choices(words, k=90))[: INPUTS - 1] for _ in range(16)]
        return tf.data.Dataset.from_tensor_slices({"inputs": lines, "targets": ["answer"] * 16})

    feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
    seqio.TaskRegistry.add(
        "random_texts",
        source=seqio.FunctionDataSource(texts, ["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": feature, "targets": feature},
        metric_fns=[lambda targets, predictions: {"count": len(targets)}],
    )


def measure_adapting(folder: Path, dtype: str, method: str, rows: int) -> dict:
    from mpt_jax.stages import adapt
    from mpt_jax.stages.backbone import BackboneSource
    from mpt_jax.stages.data import Data
    from mpt_jax.stages.training import Training

    register_texts()
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        adapt.run(
            model_dir=f"{work}/run",
            mixture_or_task_name="random_texts",
            data=Data({"inputs": INPUTS, "targets": TARGETS}, store_root=f"{work}/stores"),
            training=Training(steps=1, rows_per_member=rows, validation_examples=rows, eval_batch_size=rows),
            prompt_length=PROMPT,
            variants=(adapt.Variant(method, method, "vocabulary", 0.3, 0.4),),
            backbone=BackboneSource(str(folder), dtype=dtype),
        )  # fmt: skip
        (prompt,) = Path(work, "run/prompts").rglob("*.safetensors")
        return {
            "peak of the process": peak(),
            "prompt file": prompt.stat().st_size,
            "seconds": round(time.perf_counter() - start, 1),
        }


def apart(*arguments: str) -> dict:
    """One measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8, help="batch size")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        folder, dtype, method = args.measure
        if method == "load":
            result = measure_loading(Path(folder), dtype)
        else:
            result = measure_adapting(Path(folder), dtype, method, args.rows)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "base"
        make(folder)
        files = sorted(folder.glob("*.safetensors"))
        print(
            "files:", ", ".join(f"{path.name} {path.stat().st_size / 1e9:.2f} GB" for path in files)
        )
        for dtype, method in (
            ("float32", "load"), ("bfloat16", "load"), ("float32", "prompt_tuning"), ("float32", "mpt"),
        ):  # fmt: skip
            result = apart(f"--rows={args.rows}", "--measure", str(folder), dtype, method)
            shown = [
                f"{k} {v if k == 'seconds' else f'{v / 1e6:,.1f} MB'}" for k, v in result.items()
            ]
            print(f"{method} in {dtype}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
