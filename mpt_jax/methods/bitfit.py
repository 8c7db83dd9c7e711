"""BitFit (Ben Zaken et al. 2022) on T5, which has no biases: zeros are added where they would be.

The places are those of ATTEMPT's comparison (Asai et al. 2022): every linear layer of attention and
feed-forward, the norms inside the blocks (not the last one of a stack), and the output layer.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Array, Float, PRNGKeyArray

from mpt_jax.methods.method import Params
from mpt_jax.methods.network_method import NetworkMethod, linear_layers, norms, zeros
from mpt_jax.models.edits import LOGITS
from mpt_jax.models.formats.weights import Shape


@dataclass(frozen=True, kw_only=True)
class BitFit(NetworkMethod):
    """Parameters: ``<layer>/bias`` [width of its output], the output layer's [V] among them."""

    name: str = "bitfit"
    kind: ClassVar[str] = "bitfit"

    def shapes(self) -> dict[str, Shape]:
        widths = {path: out for path, (_, out) in linear_layers(self.config).items()}
        widths |= {path: self.config.emb_dim for path in norms(self.config) if "/layers_" in path}
        widths[LOGITS] = self.config.vocab_size
        return {f"{path}/bias": (width,) for path, width in widths.items()}

    def init_member(self, rng: PRNGKeyArray, backbone: Any) -> dict[str, Array]:
        del rng, backbone
        return zeros(self.shapes())

    def edit(
        self,
        params: Params,
        path: str,
        inputs: Float[Array, "B T In"],
        outputs: Float[Array, "B T Out"],
    ) -> Float[Array, "B T Out"]:
        bias = params.get(f"{path}/bias")
        return outputs if bias is None else outputs + bias.astype(outputs.dtype)[None, None, :]
