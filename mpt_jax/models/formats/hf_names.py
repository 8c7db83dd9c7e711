"""Hugging Face's names of T5's weights.

Hugging Face stores linear weights as [out, in] and the relative position table as [buckets, H]:
both are the transposes of ours.
"""

import re
from typing import NamedTuple

TABLE = "shared.weight"
HEAD = "lm_head.weight"

WHOLE_MODEL = {
    "token_embedder/embedding": TABLE,
    "encoder/relpos_bias/rel_embedding": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "decoder/relpos_bias/rel_embedding": (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "decoder/logits_dense/kernel": HEAD,
}
PARTS_OF_A_BLOCK = {
    "encoder": {
        "relpos_bias": "0.SelfAttention.relative_attention_bias",
        "pre_attention_layer_norm": "0.layer_norm",
        "attention": "0.SelfAttention",
        "pre_mlp_layer_norm": "1.layer_norm",
        "mlp": "1.DenseReluDense",
    },
    "decoder": {
        "relpos_bias": "0.SelfAttention.relative_attention_bias",
        "pre_self_attention_layer_norm": "0.layer_norm",
        "self_attention": "0.SelfAttention",
        "pre_cross_attention_layer_norm": "1.layer_norm",
        "encoder_decoder_attention": "1.EncDecAttention",
        "pre_mlp_layer_norm": "2.layer_norm",
        "mlp": "2.DenseReluDense",
    },
}
PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}

# Some files repeat the tied table or hold a bias that T5 never reads.
UNREAD = frozenset(
    {
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    }
)


class HFTensor(NamedTuple):
    """One weight in a Hugging Face file: its name, and whether ours is its transpose."""

    name: str
    transposed: bool


def hf_tensor(path: str) -> HFTensor:
    """The tensor for a path of the unrolled tree, e.g. "encoder/layers_0/mlp/wo/kernel"."""
    transposed = path.endswith(("/kernel", "/rel_embedding"))
    if path in WHOLE_MODEL:
        return HFTensor(WHOLE_MODEL[path], transposed)
    stack, layer, part, *projection, _ = path.split("/")
    names = [f"{stack}.block.{layer.removeprefix('layers_')}.layer.{PARTS_OF_A_BLOCK[stack][part]}"]
    names += [PROJECTIONS.get(name, name) for name in projection]
    return HFTensor(".".join([*names, "weight"]), transposed)


def path_of(name: str) -> str | None:
    """The path of a linear layer's weight inside a block, by its tensor's name; None for others."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    stack, layer, module, projection = match.groups()
    for part, theirs in PARTS_OF_A_BLOCK[stack].items():
        if module == theirs and projection in _LINEAR:
            return f"{stack}/layers_{layer}/{part}/{_LINEAR[projection]}/kernel"
    return None


_BLOCK = re.compile(r"(encoder|decoder)\.block\.(\d+)\.layer\.(.+)\.(\w+)\.weight")
_LINEAR = {theirs: ours for ours, theirs in PROJECTIONS.items()} | {
    name: name for name in ("wi", "wi_0", "wi_1", "wo")
}
