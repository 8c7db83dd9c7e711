"""T5X's own network, loss, trainer step and decoding on the benchmarks' model, with an MPT prompt.

Runs in an environment that has T5X (docs/t5x.md). The prompt is put before the embedded inputs, as
google-research/prompt-tuning does it, so that T5X looks up as many words as the others do. Its lookup
is its default one, a product with one-hot vectors.
"""

from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problem
from flax import linen as nn
from mpt_step import make_batch
from t5x import decoding, models, train_state, trainer
from t5x.examples.t5 import layers, network
from turns import Prepared

from mpt_jax.methods.bank import Bank
from mpt_jax.methods.mpt import MPT
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.t5x.network import PROMPT, Encoder, PromptEmbedder, Transformer
from mpt_jax.t5x.optimizer import prompt_optimizer

RATE = 0.3


def train(folder: str) -> Prepared:
    """One step of T5X's trainer (`train_with_lr`): AdamW on the prompt, everything else frozen."""
    definition = prompt_optimizer([("encoder/prompt/.*", optax.adamw(RATE, weight_decay=0.0))])
    model, params, batch = _open(folder, optimizer_def=definition)
    shapes = {name: array.shape for name, array in batch.items()}
    axes = jax.eval_shape(
        lambda: model.get_initial_variables(
            jax.random.PRNGKey(0), shapes, dict.fromkeys(shapes, jnp.int32)
        )
    )["params_axes"]
    state: Any = train_state.FlaxOptimTrainState.create(
        definition, flax.core.freeze({"params": params, "params_axes": axes})
    )

    def step(state, batch):
        return trainer.train_with_lr(
            state, batch, learning_rate=RATE, dropout_rng=None, model=model, num_microbatches=None
        )

    program = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    held = [state]

    def turn() -> float:
        held[0], metrics = program(held[0], batch)
        return float(metrics["loss"].compute())

    first = turn()
    turn()
    return Prepared(turn, {"loss": first, "flops": program.cost_analysis()["flops"]})


def decode(folder: str, length: int) -> Prepared:
    """Greedy: `temperature_sample` with the best token only, through the model's `predict_batch`."""
    model, params, batch = _open(folder, optimizer_def=None, decode_fn=decoding.temperature_sample)
    batch["decoder_input_tokens"] = jnp.zeros(
        (len(batch["encoder_input_tokens"]), length), jnp.int32
    )

    def predict(params, batch):
        settings = {"temperature": 0.0, "topk": 1}
        return model.predict_batch_with_aux(params, batch, decoder_params=settings)[0]

    program = jax.jit(predict).lower(params, batch).compile()

    def turn() -> np.ndarray:
        return np.asarray(program(params, batch))

    turn()
    return Prepared(turn, {"tokens": turn().tolist()})


def _open(folder: str, **settings: Any) -> tuple[Any, Any, dict[str, jax.Array]]:
    """T5X's model, its parameters with the prompt's, and a batch."""
    # Its weights only: T5X runs as it does by itself, without what `mpt` sets for its own process.
    backbone = BackboneSource(str(Path(folder) / "model")).open()
    start = problem.prompt(folder)
    ours, (length, width), tasks = backbone.config, start["shared"].shape, len(start["u"])
    config = network.T5Config(
        vocab_size=ours.vocab_size, emb_dim=width, num_heads=ours.num_heads,
        head_dim=ours.head_dim, mlp_dim=ours.mlp_dim, mlp_activations=ours.mlp_activations,
        num_encoder_layers=ours.num_encoder_layers, num_decoder_layers=ours.num_decoder_layers,
        dropout_rate=0.0, logits_via_embedding=False,
    )  # fmt: skip
    names = tuple(f"task{k}" for k in range(tasks))
    model = models.EncoderDecoderModel(
        _Prompted(config, tasks=names, prompt_length=length, method=MPT),
        input_vocabulary=_Vocabulary(), output_vocabulary=_Vocabulary(),
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS", **settings,
    )  # fmt: skip
    prompt = {name: jnp.asarray(array) for name, array in start.items()}
    params = {**backbone.params, "encoder": {**backbone.params["encoder"], PROMPT: prompt}}
    method = MPT(members=1, tasks=tasks, length=length, width=width)
    batch = make_batch(folder, Bank((method,), ours.vocab_size))
    keys = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    return model, params, {k: jnp.asarray(batch[k]) for k in (*keys, "decoder_loss_weights")}


class _Prepended(PromptEmbedder):
    """Looks up the words behind the prompt only."""

    @nn.compact
    def __call__(self, tokens):
        length = self.bank.methods[0].length
        virtual = tokens[:, :length]
        nothing = jnp.zeros((*virtual.shape, self.table.features), jnp.float32)
        prompt = self.bank.reader(self._bank_params())(virtual, nothing)
        return jnp.concatenate([prompt, self.table(tokens[:, length:])], axis=1)


class _Prompted(Transformer):
    def setup(self):
        # In place of the parent's, as there: only the embedder is another one.
        config = self.config
        self.shared_embedding = layers.Embed(
            num_embeddings=config.vocab_size, features=config.emb_dim, dtype=config.dtype,
            attend_dtype=jnp.float32, embedding_init=nn.initializers.normal(stddev=1.0),
            one_hot=True, name="token_embedder",
        )  # fmt: skip
        bank = Bank((self.prompts,), config.vocab_size)
        embedder = _Prepended(self.shared_embedding, bank, parent=None, name=PROMPT)
        self.encoder = Encoder(config=config, shared_embedding=embedder)
        self.decoder = network.Decoder(config=config, shared_embedding=self.shared_embedding)


class _Vocabulary:
    eos_id = 1
