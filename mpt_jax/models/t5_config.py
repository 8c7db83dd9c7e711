"""The shape of a T5, and the choices that change how it runs but not what it computes."""

import dataclasses
from collections.abc import Callable

import jax
from jaxtyping import Array

INT8 = "int8"
DTYPES = ("float32", "bfloat16")
KEPT = (*DTYPES, INT8)


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shape of a T5 model.

    Attributes:
        vocab_size: V, rows of the embedding table; ids from V on are virtual tokens.
        emb_dim: D, model width.
        num_heads: H.
        head_dim: width of one head; H * head_dim need not be D.
        mlp_dim: width of the feed-forward layer.
        num_encoder_layers: blocks of the encoder.
        num_decoder_layers: blocks of the decoder.
        mlp_activations: ("relu",) for v1.0, ("gelu", "linear") for v1.1's gated layer.
        logits_via_embedding: True for v1.0: logits reuse the embedding table, scaled by 1/sqrt(D).
        relpos_num_buckets: buckets of the relative position bias.
        relpos_max_distance: distance from which on all positions share the last bucket.
        relpos_per_layer: True for umT5: every block has its own position bias; else a stack has one.
        scale_tied_logits: False leaves out the 1/sqrt(D), as in tied models of the v1.1 family.
        layer_norm_epsilon: added to the mean square in the RMS norm.
        dropout_rate: used only where the caller passes `deterministic=False`.
        dtype: of activations and matrix products, "float32" or "bfloat16".
        weights: how frozen weights are kept, a name of `KEPT`; None keeps them in `dtype`. See
            `weight_precision.py`.
        scan_layers: stack the blocks' parameters and run them with `lax.scan`: compile time then
            does not grow with depth (deep models); unrolled is faster on CPU.
        remat: "none", "dots" (keep matrix products) or "full" (keep block inputs only).
        attention: of the encoder over itself: "plain" computes all pairs of positions; "fused" passes
            over the blocks of other segments and holds no [T, T] array (TPUs; no gradient for the
            position bias, no dropout); "auto" is "fused" on TPUs where rows are packed or long.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    relpos_num_buckets: int = 32
    relpos_max_distance: int = 128
    relpos_per_layer: bool = False
    scale_tied_logits: bool = True
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    dtype: str = "float32"
    weights: str | None = None
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "plain"

    def __post_init__(self):
        unknown = [name for name in self.mlp_activations if name not in ACTIVATIONS]
        if unknown:
            raise ValueError(
                f"mlp_activations: got {unknown}, expected names among {sorted(ACTIVATIONS)}."
            )
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat: got {self.remat!r}, expected one of {list(REMAT_POLICIES)}.")
        if self.attention not in ATTENTIONS:
            raise ValueError(
                f"attention: got {self.attention!r}, expected one of {list(ATTENTIONS)}."
            )
        if self.kept not in KEPT:
            raise ValueError(f"weights: got {self.kept!r}, expected one of {list(KEPT)}.")

    @property
    def kept(self) -> str:
        """How weights are kept."""
        return self.weights or self.dtype

    @property
    def precision(self) -> str:
        """How weights are kept and, where that is something else, what is computed with, in words."""
        return self.dtype if self.kept == self.dtype else f"{self.kept} in {self.dtype}"


# T5 v1.1's "gelu" is the tanh approximation (Hugging Face calls it gelu_new).
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}

ATTENTIONS = ("auto", "plain", "fused")

REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
