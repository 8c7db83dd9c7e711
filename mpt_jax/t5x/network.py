"""T5X's example T5 with a prompt bank in its encoder.

The network is `t5x.examples.t5.network.Transformer`: same parameters under the same names, same
decoder, masks, cache and packing. Only the embedding lookup of the encoder knows that ids from V up
are virtual. The prompts' parameters are those of the method under `encoder/prompt/`, without the
axis of members: here a bank has one member.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import partitioning as nn_partitioning
from jaxtyping import Array, Float, Int, PRNGKeyArray
from t5x.examples.t5 import layers, network

from mpt_jax.errors import unknown_name
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.prompt_method import Embeddings, PromptMethod

PROMPT = "prompt"  # the module's name below `encoder`

# The logical axes of a method's parameters. T5X has to be given a rule for each (they stay whole on
# every device: gin/t5x/prompts/*.gin).
AXES: Mapping[str, tuple[str, ...]] = {
    "shared": ("prompt", "prompt_embed"),
    "u": ("tasks", "prompt", "prompt_rank"),
    "v": ("tasks", "prompt_rank", "prompt_embed"),
    "prompt": ("tasks", "prompt", "prompt_embed"),
}


class PromptEmbedder(nn.Module):
    """The encoder's embedding lookup: words from T5X's table, virtual ids from the bank.

    Attributes:
        table: T5X's `Embed`, which the decoder reads too.
        bank: of one method with one member.
    """

    table: nn.Module
    bank: Bank

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        words = self.table(jnp.where(tokens >= self.bank.vocab_size, 0, tokens))
        return self.bank.reader(self._bank_params())(tokens, words)

    def _bank_params(self) -> dict[str, dict[str, Array]]:
        """The parameters as a bank has them, with the axis of members."""
        (method,) = self.bank.methods
        width = method.width

        def fresh(rng: PRNGKeyArray) -> dict[str, Array]:
            return method.init_member(0, rng, _uniform, np.empty((0, width), np.float32))

        arrays = {}
        for name in jax.eval_shape(fresh, jax.random.key(0)):
            if name not in AXES:
                raise unknown_name("prompt parameter with logical axes", name, AXES)
            # Each parameter is taken from a draw of its own: a method's parts are independent.
            arrays[name] = nn_partitioning.param_with_axes(
                name, lambda rng, name=name: fresh(rng)[name], axes=AXES[name]
            )
        return {method.name: {name: array[None] for name, array in arrays.items()}}


def _uniform(rng: PRNGKeyArray, embeddings: Embeddings, length: int) -> Float[Array, "P D"]:
    """Lester et al.'s plainest start. T5X draws it before a checkpoint is read; see `starts`."""
    return jax.random.uniform(rng, (length, embeddings.shape[1]), jnp.float32, -0.5, 0.5)


class Encoder(network.Encoder):
    """T5X's encoder; an embedder that is passed to it keeps its own name."""

    preserve_adopted_names = True  # flax: else the prompts would be at encoder/shared_embedding


class Transformer(network.Transformer):
    """T5X's T5 with prompts.

    Attributes:
        tasks: K names in the order of the prompts: the first virtual ids are the first task's.
        prompt_length: P.
        method: makes the method, e.g. `mpt_jax.methods.mpt.MPT`, from `members`, `tasks`, `length`
            and `width`.
    """

    tasks: tuple[str, ...]
    prompt_length: int
    method: Callable[..., PromptMethod]

    @property
    def prompts(self) -> PromptMethod:
        return self.method(
            members=1, tasks=len(self.tasks), length=self.prompt_length, width=self.config.emb_dim
        )

    def setup(self):
        # In place of the parent's: flax lets no submodule of a finished setup be exchanged.
        config = self.config
        self.shared_embedding = layers.Embed(
            num_embeddings=config.vocab_size,
            features=config.emb_dim,
            dtype=config.dtype,
            attend_dtype=jnp.float32,
            embedding_init=nn.initializers.normal(stddev=1.0),
            # T5X multiplies one-hot vectors, which suits a trained table; this one is frozen.
            one_hot=False,
            name="token_embedder",
        )
        bank = Bank((self.prompts,), config.vocab_size)
        embedder = PromptEmbedder(self.shared_embedding, bank, parent=None, name=PROMPT)
        self.encoder = Encoder(config=config, shared_embedding=embedder)
        self.decoder = network.Decoder(config=config, shared_embedding=self.shared_embedding)
