"""Between a Hugging Face `config.json` and the shape of a T5."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpt_jax.models.t5 import EOS_ID, PAD_ID, T5Config

ARCHITECTURES = {
    "t5": "T5ForConditionalGeneration",  # v1.0, v1.1, LM-adapted, Flan-T5, ByT5
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
}
ACTIVATIONS = {"relu": "relu", "gelu": "gelu_new", "silu": "silu"}  # ours: Hugging Face's
SIZES = {  # Hugging Face's key: ours
    "vocab_size": "vocab_size",
    "d_model": "emb_dim",
    "num_heads": "num_heads",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_layers": "num_encoder_layers",
    "num_decoder_layers": "num_decoder_layers",
    "relative_attention_num_buckets": "relpos_num_buckets",
    "relative_attention_max_distance": "relpos_max_distance",
}
RATES = ("layer_norm_epsilon", "dropout_rate")  # called alike in both
MOST_LAYERS = 1000
REQUIRED = ("vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers")


def to_hf_config(config: T5Config, dtype: str) -> dict[str, Any]:
    """The contents of `config.json`; `dtype` is the one of the stored weights."""
    first, *gate = config.mlp_activations
    if gate not in ([], ["linear"]):
        raise ValueError(
            f"mlp_activations: got {config.mlp_activations}; Hugging Face's form holds one "
            'activation, or one and "linear".'
        )
    activation = "gated-gelu" if (first, gate) == ("gelu", ["linear"]) else ACTIVATIONS[first]
    if gate and first != "gelu":
        activation = f"gated-{activation}"
    kind = "umt5" if config.relpos_per_layer else "t5"
    tied = config.logits_via_embedding
    return {theirs: getattr(config, ours) for theirs, ours in SIZES.items()} | {
        **{name: getattr(config, name) for name in RATES},
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "is_encoder_decoder": True,
        "feed_forward_proj": activation,
        "tie_word_embeddings": tied,
        # transformers 5 ties whatever the file does not hold twice, and asks this key for the scale.
        "scale_decoder_outputs": tied and config.scale_tied_logits,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": PAD_ID,
        "dtype": dtype,
    }


def from_hf_config(values: Mapping[str, Any], *, has_head: bool | None = None) -> T5Config:
    """The shape of the model that a Hugging Face `config.json` describes, computing in float32.

    Args:
        values: the file's contents.
        has_head: whether the weights hold an output layer of their own (`lm_head.weight`). A model
            of the v1.1 family that transformers 5 has saved says "tied" in any case, and only its
            weights tell. None takes the configuration's word.

    Raises:
        ValueError: it is no T5's, or a value is missing or of a wrong kind.
    """
    kind = values.get("model_type", "t5")
    if kind not in ARCHITECTURES:
        raise ValueError(f"got model_type {kind!r}, expected one of {list(ARCHITECTURES)}.")
    missing = [key for key in REQUIRED if values.get(key) is None]
    if missing:
        raise ValueError(f"lacks {missing}; expected the keys of a T5 model.")
    given = {"num_decoder_layers": values["num_layers"]}
    given |= {key: value for key, value in values.items() if value is not None}
    numbers: dict[str, Any] = {
        ours: _size(theirs, given[theirs]) for theirs, ours in SIZES.items() if theirs in given
    }
    numbers |= {name: _rate(name, given[name]) for name in RATES if name in given}
    says_tied = values.get("tie_word_embeddings") is not False
    # transformers has never scaled mT5's logits since its version 5, whose word counts.
    scaled = bool(values.get("scale_decoder_outputs", says_tied and kind != "mt5"))
    tied = says_tied and (scaled or not has_head)
    return T5Config(
        **numbers,
        mlp_activations=_activations(values.get("feed_forward_proj", "relu")),
        logits_via_embedding=tied,
        scale_tied_logits=scaled or not tied,
        relpos_per_layer=kind == "umt5",
    )


def _size(key: str, value: Any) -> int:
    most = MOST_LAYERS if key.endswith("layers") else np.iinfo(np.int32).max
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{key}: got {value!r}, expected a whole number from 1 to {most:,}.")
    return value


def _rate(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{key}: got {value!r}, expected a number from 0 to below 1.")
    return float(value)


def _activations(projection: Any) -> tuple[str, ...]:
    ours = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    known: dict[str, tuple[str, ...]] = {name: (act,) for name, act in ours.items()}
    known |= {f"gated-{name}": (activation, "linear") for name, activation in ours.items()}
    known["gated-gelu"] = ("gelu", "linear")  # has always meant the tanh form
    if not isinstance(projection, str) or projection not in known:
        raise ValueError(f"feed_forward_proj: got {projection!r}, expected one of {sorted(known)}.")
    return known[projection]
