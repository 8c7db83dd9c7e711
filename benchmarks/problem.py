"""What the benchmarks run on: a random T5 v1.1 in a folder that everybody reads, and a batch.

Nothing is learnt here; only equal work counts. So weights and tokens are random, and the same for all.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from turns import Prepared, Worker


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and a batch. Inputs are full, so that no one gains by skipping padding.

    Attributes:
        emb_dim, num_heads, head_dim, mlp_dim, num_layers, vocab_size: as in `T5Config`.
        rows: B.
        prompt, inputs, targets: P, tokens of text behind it, L.
        tasks: K.
    """

    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_layers: int
    vocab_size: int
    rows: int
    prompt: int
    inputs: int
    targets: int
    tasks: int = 6

    def config(self) -> Any:
        from mpt_jax.models.t5 import T5Config

        return T5Config(
            vocab_size=self.vocab_size, emb_dim=self.emb_dim, num_heads=self.num_heads,
            head_dim=self.head_dim, mlp_dim=self.mlp_dim, num_encoder_layers=self.num_layers,
            num_decoder_layers=self.num_layers,
        )  # fmt: skip


SIZES = {
    "tiny": Size(32, 2, 8, 48, 2, 300, rows=4, prompt=6, inputs=10, targets=4),
    "small": Size(512, 6, 64, 1024, 8, 32128, rows=16, prompt=100, inputs=128, targets=8),
    "base": Size(768, 12, 64, 2048, 12, 32128, rows=32, prompt=100, inputs=256, targets=16),
    "large": Size(1024, 16, 64, 2816, 24, 32128, rows=32, prompt=100, inputs=256, targets=16),
}
TOKENS, PROMPT = "tokens.npz", "prompt.npz"


def make(folder: Path, size: Size) -> Path:
    """Writes the model as transformers writes it, the batch, and the MPT prompt to start from."""
    import jax

    from mpt_jax.models.formats.hf_writer import save_backbone
    from mpt_jax.models.t5 import init_params

    config = size.config()
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    tokenizer = b'{"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}'
    save_backbone(folder / "model", config, params, files={"tokenizer_config.json": tokenizer})
    stream = np.random.default_rng(1)

    def draw(length: int) -> np.ndarray:
        return stream.integers(2, size.vocab_size, (size.rows, length)).astype(np.int32)

    tasks = (np.arange(size.rows) % size.tasks).astype(np.int32)
    np.savez(folder / TOKENS, inputs=draw(size.inputs), targets=draw(size.targets), tasks=tasks)
    normal = stream.standard_normal
    np.savez(
        folder / PROMPT,
        shared=normal((size.prompt, size.emb_dim), np.float32),
        u=1 + 0.1 * normal((size.tasks, size.prompt, 1), np.float32),
        v=1 + 0.1 * normal((size.tasks, 1, size.emb_dim), np.float32),
    )
    return folder


def write(folder: str, size: str) -> Prepared:
    """`make` as a worker: on a GPU the process that compares holds no memory of it."""
    make(Path(folder), SIZES[size])
    return Prepared(lambda: None)


@contextlib.contextmanager
def written(size: str) -> Iterator[str]:
    """A temporary folder with the problem in it."""
    with tempfile.TemporaryDirectory() as folder:
        writer = Worker("problem:write", folder=folder, size=size)
        writer.wait_ready()
        writer.end()
        yield folder


def tokens(folder: str | Path) -> dict[str, np.ndarray]:
    """`inputs` [B, T], `targets` [B, L] and `tasks` [B]."""
    with np.load(Path(folder) / TOKENS) as arrays:
        return dict(arrays)


def prompt(folder: str | Path) -> dict[str, np.ndarray]:
    """`shared` [P, D], `u` [K, P, 1] and `v` [K, 1, D]."""
    with np.load(Path(folder) / PROMPT) as arrays:
        return dict(arrays)
