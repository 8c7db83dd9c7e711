"""Hugging Face's names of T5's weights and configuration values.

Hugging Face stores linear weights as [out, in] and the relative position table as [buckets, H]:
both are the transposes of ours.
"""

from typing import Any, NamedTuple

from mpt_jax.models.t5 import EOS_ID, PAD_ID, T5Config

WHOLE_MODEL = {
    "token_embedder/embedding": "shared.weight",
    "encoder/relpos_bias/rel_embedding": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "decoder/relpos_bias/rel_embedding": (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
}
PARTS_OF_A_BLOCK = {
    "encoder": {
        "pre_attention_layer_norm": "0.layer_norm",
        "attention": "0.SelfAttention",
        "pre_mlp_layer_norm": "1.layer_norm",
        "mlp": "1.DenseReluDense",
    },
    "decoder": {
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

HF_ACTIVATIONS = {"relu": "relu", "gelu": "gelu_new", "silu": "silu"}
HF_SIZES = {  # Hugging Face's key: ours
    "vocab_size": "vocab_size",
    "d_model": "emb_dim",
    "num_heads": "num_heads",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_layers": "num_encoder_layers",
    "num_decoder_layers": "num_decoder_layers",
    "relative_attention_num_buckets": "relpos_num_buckets",
    "relative_attention_max_distance": "relpos_max_distance",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "dropout_rate": "dropout_rate",
}


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


def to_hf_config(config: T5Config, dtype: str) -> dict[str, Any]:
    """The contents of `config.json`; `dtype` is the one of the stored weights."""
    first, *gate = config.mlp_activations
    if gate not in ([], ["linear"]):
        raise ValueError(
            f"mlp_activations: got {config.mlp_activations}; Hugging Face's form holds one "
            'activation, or one and "linear".'
        )
    activation = "gated-gelu" if (first, gate) == ("gelu", ["linear"]) else HF_ACTIVATIONS[first]
    if gate and first != "gelu":
        activation = f"gated-{activation}"
    sizes = {theirs: getattr(config, ours) for theirs, ours in HF_SIZES.items()}
    return sizes | {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "feed_forward_proj": activation,
        "tie_word_embeddings": config.logits_via_embedding,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": PAD_ID,
        "dtype": dtype,
    }


def from_hf_config(values: dict[str, Any]) -> T5Config:
    """The shape of the model that a Hugging Face `config.json` describes, computing in float32."""
    kind = values.get("model_type", "t5")
    if kind not in ("t5", "mt5"):
        raise ValueError(f"config.json: got model_type {kind!r}, expected 't5' or 'mt5'.")
    required = ("vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers")
    missing = [key for key in required if values.get(key) is None]
    if missing:
        raise ValueError(f"config.json: lacks {missing}; expected the keys of a T5 model.")
    given = {"num_decoder_layers": values["num_layers"]}
    given |= {key: value for key, value in values.items() if value is not None}
    sizes = {ours: given[theirs] for theirs, ours in HF_SIZES.items() if theirs in given}
    return T5Config(
        **sizes,
        mlp_activations=_activations(values.get("feed_forward_proj", "relu")),
        logits_via_embedding=values.get("tie_word_embeddings", True) is not False,
    )


def _activations(projection: str) -> tuple[str, ...]:
    gated = projection.startswith("gated-")
    name = projection.removeprefix("gated-")
    ours = {theirs: ours for ours, theirs in HF_ACTIVATIONS.items()}
    if gated:
        ours["gelu"] = "gelu"  # "gated-gelu" has always meant the tanh form.
    if name not in ours:
        expected = sorted(f"{prefix}{known}" for known in ours for prefix in ("", "gated-"))
        raise ValueError(f"feed_forward_proj: got {projection!r}, expected one of {expected}.")
    return (ours[name], "linear") if gated else (ours[name],)
