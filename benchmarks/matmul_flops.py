"""FLOPs of the matrix products that a step of MPT needs, in closed form. Letters as in the library."""

from problem import Size


def training_step(size: Size) -> int:
    """Forward, and backward to the encoder's input; no gradient of any weight.

    Backward costs as much as forward again, since each product with a weight has one factor to be
    differentiated. Products of two activations have two. The first decoder layer's self-attention reads
    targets alone: nothing of it depends on the prompt.
    """
    B, T, L = size.rows, size.prompt + size.inputs, size.targets
    D, joined, mlp, layers = (
        size.emb_dim,
        size.num_heads * size.head_dim,
        size.mlp_dim,
        size.num_layers,
    )
    feed_forward = 3 * 2 * D * mlp  # a position
    projection = 2 * D * joined  # likewise: query, key, value or output

    def attention(queries: int, keys: int) -> int:
        """One of an attention's two products: of queries and keys, or of weights and values."""
        return 2 * B * queries * keys * joined

    encoder_weights = layers * B * T * (4 * projection + feed_forward)
    encoder = 2 * encoder_weights + layers * 3 * 2 * attention(T, T)
    # Keys and values of the encoder's output, for every decoder layer.
    cross_weights = layers * B * T * 2 * projection
    decoder_weights = layers * B * L * (6 * projection + feed_forward)
    decoder = 2 * (cross_weights + decoder_weights)
    decoder += layers * 3 * 2 * (attention(L, L) + attention(L, T))
    # No backward product in the first layer: four projections of the self-attention, its two products, and
    # the query of the cross-attention. Of queries and keys there, only keys are differentiated.
    decoder -= B * L * 5 * projection + 2 * 2 * attention(L, L) + attention(L, T)
    logits = 2 * 2 * B * L * D * size.vocab_size
    return encoder + decoder + logits
