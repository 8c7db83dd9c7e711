"""Edits: what a method does to the outputs of a frozen network's layers.

The network's modules know nothing of it. An edit is called behind every linear layer, norm,
residual sum and output layer with the layer's path, its input and its output, and returns the
output that the network goes on with. A sum's path is its sublayer's with "_sum" behind, and its
input is the stream that the sublayer's output is added to.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import flax
import flax.linen as nn
from jaxtyping import Array, Float

from mpt_jax.models.t5_layers import Embedder, Linear, ResidualSum, RMSNorm

LOGITS = "decoder/logits_dense"  # path of the output layer, tied to the embedding table or not


@runtime_checkable
class Editor(Protocol):
    """Changes layers' outputs. Hashable: programs compiled for one editor serve all parameters."""

    def edit(
        self,
        params: Mapping[str, Array],
        path: str,
        inputs: Float[Array, "B T In"],
        outputs: Float[Array, "B T Out"],
    ) -> Float[Array, "B T Out"]: ...


@flax.struct.dataclass
class Edits:
    """One member's edits. A pytree, so that it can be an argument of compiled functions.

    Attributes:
        params: what the editor reads.
        editor: what is done.
    """

    params: Mapping[str, Array]
    editor: Editor = flax.struct.field(pytree_node=False)


@contextlib.contextmanager
def edited(edits: Edits | None) -> Iterator[None]:
    """Networks that are applied inside are edited; None edits nothing."""
    if edits is None:
        yield
        return

    def intercept(layer: Any, args: tuple, kwargs: Mapping[str, Any], context: Any) -> Any:
        output = layer(*args, **kwargs)
        path = _path(context.module, context.method_name)
        return output if path is None else edits.editor.edit(edits.params, path, args[0], output)

    with nn.intercept_methods(intercept):
        yield


def _path(module: nn.Module, method: str) -> str | None:
    if isinstance(module, Linear | RMSNorm | ResidualSum) and method == "__call__":
        return "/".join(module.path)
    return LOGITS if isinstance(module, Embedder) and method == "attend" else None
