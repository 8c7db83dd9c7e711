"""The published T5 models' shapes by name, for counting and planning without weights.

Sources: Raffel et al. 2020, table of model sizes (v1.0); google-research/text-to-text-transfer-
transformer, released_checkpoints.md (v1.1, whose LM-adapted and Flan models have the same shapes).
"""

from mpt_jax.errors import unknown_name
from mpt_jax.models.t5_config import T5Config

VOCAB_SIZE = 32_128


def _v1_0(width: int, heads: int, head_dim: int, mlp: int, layers: int) -> T5Config:
    return T5Config(
        VOCAB_SIZE, width, heads, head_dim, mlp, layers, layers,
        mlp_activations=("relu",), logits_via_embedding=True,
    )  # fmt: skip


def _v1_1(width: int, heads: int, mlp: int, layers: int) -> T5Config:
    return T5Config(VOCAB_SIZE, width, heads, 64, mlp, layers, layers)


SIZES = {
    "t5-small": _v1_0(512, 8, 64, 2048, 6),
    "t5-base": _v1_0(768, 12, 64, 3072, 12),
    "t5-large": _v1_0(1024, 16, 64, 4096, 24),
    "t5-3b": _v1_0(1024, 32, 128, 16_384, 24),
    "t5-11b": _v1_0(1024, 128, 128, 65_536, 24),
    "t5-v1_1-small": _v1_1(512, 6, 1024, 8),
    "t5-v1_1-base": _v1_1(768, 12, 2048, 12),
    "t5-v1_1-large": _v1_1(1024, 16, 2816, 24),
    "t5-v1_1-xl": _v1_1(2048, 32, 5120, 24),
    "t5-v1_1-xxl": _v1_1(4096, 64, 10_240, 24),
}


def size_named(name: str) -> T5Config:
    """A published model's shape.

    Raises:
        UserError: there is none of that name, with the nearest names.
    """
    if name not in SIZES:
        raise unknown_name("model size", name, SIZES)
    return SIZES[name]
