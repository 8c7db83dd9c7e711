"""Useful matmul FLOPs of a step in closed form: what the mathematics needs, nothing computed twice.

A product of [n, k] and [k, m] is 2 n k m. Everything that is no matrix product (norms, softmax, the
prompts themselves) is left out: about one part in D. Attention is between all positions of a row; where
rows are packed that is an upper bound, for the examples' lengths say how much of it is needed.
"""

import dataclasses

from mpt_jax.models.t5_config import T5Config


@dataclasses.dataclass(frozen=True)
class Shape:
    """B rows of T encoder and L decoder positions."""

    rows: int
    inputs: int
    targets: int


@dataclasses.dataclass(frozen=True)
class _Products:
    """FLOPs of products with weights, and of products of two activations (attention)."""

    linear: float
    attention: float

    def __add__(self, other: "_Products") -> "_Products":
        return _Products(self.linear + other.linear, self.attention + other.attention)

    def __mul__(self, times: int) -> "_Products":
        return _Products(self.linear * times, self.attention * times)

    @property
    def forward(self) -> float:
        return self.linear + self.attention

    @property
    def backward(self) -> float:
        """To the activations: one product for each weight, two for each pair of activations."""
        return self.linear + 2 * self.attention


def forward_flops(config: T5Config, shape: Shape) -> float:
    """One pass of the network."""
    return _whole(config, shape).forward


def backward_flops(config: T5Config, shape: Shape, *, of_weights: bool = False) -> float:
    """The gradient of a loss with respect to the encoder's input, or to all weights.

    The first decoder layer's self-attention, and the queries of its cross-attention, do not depend on
    the encoder's input: no gradient goes through them unless weights are trained.
    """
    whole = _whole(config, shape)
    if of_weights:
        return whole.backward + whole.linear
    own = _self_attention(config, shape.rows, shape.targets)
    D, J = config.emb_dim, config.num_heads * config.head_dim
    queries = 2.0 * shape.rows * shape.targets * D * J
    scores = 2.0 * shape.rows * shape.targets * shape.inputs * J
    return whole.backward - own.backward - queries - scores


def _whole(config: T5Config, shape: Shape) -> _Products:
    B, T, L = shape.rows, shape.inputs, shape.targets
    encoder = _self_attention(config, B, T) + _feed_forward(config, B, T)
    decoder = (
        _self_attention(config, B, L)
        + _cross_attention(config, shape)
        + _feed_forward(config, B, L)
    )
    logits = _Products(2.0 * B * L * config.emb_dim * config.vocab_size, 0.0)
    return encoder * config.num_encoder_layers + decoder * config.num_decoder_layers + logits


def _self_attention(config: T5Config, rows: int, length: int) -> _Products:
    J = config.num_heads * config.head_dim
    return _Products(
        2.0 * rows * length * config.emb_dim * J * 4, 2.0 * rows * length * length * J * 2
    )


def _cross_attention(config: T5Config, shape: Shape) -> _Products:
    B, T, L = shape.rows, shape.inputs, shape.targets
    J = config.num_heads * config.head_dim
    return _Products(2.0 * B * (2 * L + 2 * T) * config.emb_dim * J, 2.0 * B * L * T * J * 2)


def _feed_forward(config: T5Config, rows: int, length: int) -> _Products:
    matrices = len(config.mlp_activations) + 1
    return _Products(2.0 * rows * length * config.emb_dim * config.mlp_dim * matrices, 0.0)


def attention_flops(config: T5Config, shape: Shape) -> float:
    """The products of two activations in one pass of the network."""
    return _whole(config, shape).attention
