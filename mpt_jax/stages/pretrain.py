"""Trains a small backbone from scratch, with everything trainable: how the embedded one was made.

    mpt pretrain --gin_file=pretrain_embedded.gin --model_dir=runs/backbone

The loop, the step and the optimizer are those of the other stages; the "fleet" is one member whose
parameters are the whole network and the learned prompt slots of its fixed tasks.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mpt_jax.data.vocabulary_files import BYTES, files_of
from mpt_jax.embedded.pretraining import FIXED_TASKS, SLOTS, VOCAB_SIZE, Mixture
from mpt_jax.errors import UserError
from mpt_jax.models.fingerprint import fingerprint
from mpt_jax.models.formats.hf_writer import save_backbone
from mpt_jax.models.forward import forward
from mpt_jax.models.t5 import T5Config, Transformer, init_params
from mpt_jax.partitioning import make_mesh, place, replicated, shard_batch
from mpt_jax.run_directory import open_run
from mpt_jax.training import loop
from mpt_jax.training.checkpoints import Checkpoints, Identity
from mpt_jax.training.compiled_step import CompiledStep
from mpt_jax.training.objectives import Batch, TokenLoss
from mpt_jax.training.optimizers import Group, Optimizer
from mpt_jax.training.schedules import Schedule
from mpt_jax.training.step import init_state, make_train_step
from mpt_jax.training.update_rules import Rule
from mpt_jax.working_copy import shown

MODEL = "model"
NOISE_SEED = 7  # of the slots' noise; another stream than the weights'


def run(
    model_dir: str,
    config: T5Config,
    mixture: Mixture,
    steps: int,
    learning_rate: float,
    rule: Rule,
    schedule: Schedule,
    noise: float = 0.2,
    clip_norm: float = 1.0,
    seed: int = 0,
    checkpoint_period: int = 500,
    log_period: int = 50,
    dtype: str = "float32",
    mesh_shape: tuple[int, int] | None = None,
    dry_run: bool = False,
    config_text: Callable[[], str] = str,
) -> None:
    """Trains, and writes MODEL_DIR/backbone.

    Args:
        model_dir: the run directory.
        config: shape of the network.
        mixture: what it is trained on.
        steps: TRAIN_STEPS; the curriculum and the schedule follow it.
        learning_rate: of all parameters.
        rule: the update rule.
        schedule: of the learning rate.
        noise: standard deviation of what is added to the prompt slots' embeddings (which have 1).
        clip_norm: largest gradient norm.
        seed: of the weights.
        checkpoint_period: steps between checkpoints.
        log_period: steps between rows of metrics.
        dtype: in which the weights are stored.
        mesh_shape: devices along (data, model).
        dry_run: check and describe, train nothing.
        config_text: gives the operative configuration.
    """
    if config.vocab_size != VOCAB_SIZE:
        raise UserError(
            f"config.vocab_size is {config.vocab_size}, but the mixture writes ids of a byte "
            f"vocabulary of {VOCAB_SIZE}."
        )
    mesh = make_mesh(mesh_shape)
    network = Transformer(config)
    objective = NamedSlotsObjective(network, noise)
    trainable = jax.eval_shape(lambda: _fresh(config, seed))
    count = sum(array.size for array in jax.tree.leaves(trainable[MODEL]["backbone"]))
    print(f"pretrain: {count:,} parameters, {steps} steps of up to {mixture.batch_size} rows")
    if dry_run:
        print(f"\n{config_text()}\ndry run: everything checked, nothing trained")
        return
    with open_run(model_dir, "pretrain") as directory:
        directory.write_config(config_text())
        params = _fresh(config, seed)
        optimizer = Optimizer(
            [(".*", Group(learning_rate, rule, schedule))], params,
            members={MODEL: 1}, clip_norm=clip_norm, steps=steps,
        )  # fmt: skip
        step = CompiledStep(make_train_step(objective, optimizer, mesh=mesh, seed=NOISE_SEED))
        result = loop.train(
            place(init_state(params, optimizer), replicated(mesh)),
            step,
            objective.frozen(None),
            lambda start: _batches(mixture, start, steps),
            timetable=loop.Timetable(
                steps, checkpoint_period=checkpoint_period, log_period=log_period
            ),
            fleet=loop.Fleet([MODEL], [("pretraining",)], {MODEL: 1}),
            title="pretrain",
            checkpoints=Checkpoints(
                directory.checkpoints,
                Identity(
                    "none (from scratch)",
                    {"config": dataclasses.asdict(config)},
                    {"mixture": dataclasses.asdict(mixture), "seed": seed},
                ),
            ),
            metrics_folder=directory.metrics,
            place=lambda batch: shard_batch(mesh, batch),
            prepare=step.prepare,
        )
        weights = jax.tree.map(lambda array: array[0], jax.device_get(result.state.params[MODEL]))
        folder = directory.path / "backbone"
        write_backbone(folder, config, weights["backbone"], dtype)
        directory.finish(fingerprint=fingerprint(weights["backbone"]), steps=steps)
        named = shown(folder)
        print(f"the backbone is in {named}: --gin.INITIAL_CHECKPOINT_PATH=\"'{named}'\"")


def write_backbone(folder: Path, config: T5Config, params: Any, dtype: str) -> None:
    """A backbone folder with its byte vocabulary, as `INITIAL_CHECKPOINT_PATH` takes it."""
    # A resumed run comes here again, with the same weights or with more steps behind them.
    save_backbone(folder, config, params, dtype, files=files_of(BYTES), overwrite=True)


@dataclasses.dataclass(frozen=True)
class NamedSlotsObjective:
    """The task loss of a whole network whose prompt slots hold named symbols or learned vectors.

    Trainable: {"model": {"backbone": the network's, "slots": [fixed tasks * SLOTS, D]}}, every
    leaf with a leading axis of one member. Virtual row j < V is symbol j's embedding.

    Attributes:
        network: the T5.
        noise: see `run`.
        token_loss: how target tokens are scored.
    """

    network: Transformer
    noise: float
    token_loss: TokenLoss = TokenLoss()
    members = 1

    def frozen(self, backbone: Any) -> Any:
        return ()

    def totals(self, batch: Batch) -> Any:
        return self.token_loss.totals(batch, self.members)

    def __call__(self, trainable, frozen, batch, totals=None, rng=None):
        totals = self.totals(batch) if totals is None else totals
        model = jax.tree.map(lambda array: array[0], trainable[MODEL])
        table = jnp.concatenate([model["backbone"]["token_embedder"]["embedding"], model["slots"]])

        def embed(ids: Array, words: Array) -> Float[Array, "B T D"]:
            first = self.network.config.vocab_size
            vectors = jnp.take(table, jnp.maximum(ids - first, 0), axis=0)
            noisy = vectors + self.noise * jax.random.normal(rng, vectors.shape)
            return jnp.where((ids >= first)[..., None], noisy, words)

        logits, _ = forward(self.network, model["backbone"], batch, embed)
        loss, metrics = self.token_loss(logits, batch, totals)
        right = jnp.argmax(logits, axis=-1) == batch["decoder_target_tokens"]
        whole = jnp.all(right | (batch["decoder_loss_weights"] == 0), axis=1)
        return loss, {**metrics, "exact_match": jnp.mean(whole.astype(jnp.float32))[None]}


def _fresh(config: T5Config, seed: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    slots = jax.random.normal(jax.random.fold_in(key, 1), (FIXED_TASKS * SLOTS, config.emb_dim))
    model = {"backbone": init_params(config, jax.random.fold_in(key, 0)), "slots": slots}
    return {MODEL: jax.tree.map(lambda array: array[None], model)}


def _batches(mixture: Mixture, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    data = grain.MapDataset.range(start, stop).map(mixture.batch)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
