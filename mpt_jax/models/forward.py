"""One pass over a batch, with whatever a method does to the frozen network."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from mpt_jax.models.edits import Edits, edited
from mpt_jax.models.t5 import Embed, Hidden, Transformer

Batch = Mapping[str, Array]


class Applied(NamedTuple):
    """The three places where a method enters a frozen network.

    Attributes:
        weights: the network's parameters, the backbone's own or others in their place.
        embed: puts prompts into the encoder's input.
        edits: change the layers' outputs.
    """

    weights: Any
    embed: Embed | None = None
    edits: Edits | None = None


def forward(
    network: Transformer,
    weights: Any,
    batch: Batch,
    embed: Embed | None = None,
    edits: Edits | None = None,
    *,
    encoder_key: str = "encoder_input_tokens",
    return_hidden: bool = False,
    rng: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "B L V"], Hidden | None]:
    """Logits of a batch, packed or not, and the hidden states where they are asked for."""
    with edited(edits):
        outputs: Any = network.apply(
            {"params": weights},
            batch[encoder_key],
            batch["decoder_input_tokens"],
            embed=embed,
            encoder_segment_ids=batch.get("encoder_segment_ids"),
            decoder_segment_ids=batch.get("decoder_segment_ids"),
            return_hidden=return_hidden,
            rngs=None if rng is None else {"dropout": rng},
        )
    return outputs if return_hidden else (outputs, None)


def logits_of(
    network: Transformer, weights: Any, decoded: Float[Array, "B L D"]
) -> Float[Array, "B L V"]:
    """Logits from the decoder's normed output, by the same output layer and precision."""
    logits: Any = network.apply({"params": weights}, decoded, method="logits")
    return logits
