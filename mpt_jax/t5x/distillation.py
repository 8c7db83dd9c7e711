"""Distillation of teacher prompts in T5X: `mpt_jax.training.distillation`'s loss for T5X's trainer.

    loss = task loss + weight * (logits * KL(teacher || student) + hidden * squared difference)

The teacher is the same network on the same batch with the teachers' prompts in place of the
students': the batch's virtual ids name the same tasks in both. They are constants, no parameters, so
checkpoints hold the students only and `t5x.eval` needs no teachers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Array, Float
from t5x import losses as t5x_losses
from t5x import models

from mpt_jax.errors import UserError
from mpt_jax.methods.prompt_file import load_prompt_file
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.t5x.network import PROMPT
from mpt_jax.training import losses

NORMS = {"encoder": "encoder_norm", "decoder": "decoder_norm"}  # whose outputs are compared


def teachers_from_files(
    tasks: Sequence[str], files: str | os.PathLike[str] | Mapping[str, str]
) -> Float[np.ndarray, "K P D"]:
    """The teachers' finished prompts in the order of the tasks.

    Args:
        tasks: K names.
        files: one prompt file that holds all of them, or {task: prompt file}.

    Raises:
        UserError: a task without a teacher, or prompts of different shapes.
    """
    if isinstance(files, Mapping):
        missing = sorted(set(tasks) - set(files))
        if missing:
            raise UserError(f"No teachers for {missing}; there are files for {sorted(files)}.")
        found = {task: load_prompt_file(files[task]) for task in tasks}
        prompts = [
            file.prompt(task if task in file.metadata.task_names else None)
            for task, file in found.items()
        ]
    else:
        file = load_prompt_file(files)
        prompts = [file.prompt(task) for task in tasks]
    shapes = {task: prompt.shape for task, prompt in zip(tasks, prompts, strict=True)}
    if len(set(shapes.values())) != 1:
        raise UserError(f"Teachers have to be of one shape [P, D], but they are {shapes}.")
    return np.stack(prompts)


class DistillationModel(models.EncoderDecoderModel):
    """T5X's encoder-decoder model with another loss. Its module is `mpt_jax.t5x.network.Transformer`.

    Args:
        teachers: [K, P, D], of the module's tasks in their order.
        weight: lambda.
        logits: weight of the divergence inside lambda's bracket; 0 leaves it out.
        hidden: weight of the hidden states there, the normed outputs of encoder and decoder.
        temperature: softens both distributions; multiplied in again, squared.
        **settings: T5X's own. The terms are means over tokens and positions; they are scaled as
            T5X's task loss is (loss_normalizing_factor="NUM_REAL_TARGET_TOKENS" makes that a mean).
    """

    def __init__(
        self,
        module: Any,
        *,
        teachers: Float[np.ndarray, "K P D"],
        weight: float = 0.9,
        logits: float = 1.0,
        hidden: float = 1.0,
        temperature: float = 1.0,
        **settings: Any,
    ):
        super().__init__(module, **settings)
        students = module.prompts
        expected = (students.tasks, students.length, students.width)
        if teachers.shape != expected:
            raise UserError(
                f"The teachers' prompts are of shape {teachers.shape}; the students' network needs "
                f"{expected} (tasks, length, width)."
            )
        self._teachers = teachers
        self._teacher_module = module.clone(method=PromptTuning)
        self._weight, self._logits, self._hidden = weight, logits, hidden
        self._temperature = temperature

    def loss_fn(self, params, batch, dropout_rng):
        logits, states = _run(self.module, params, batch, dropout_rng)
        factor, weights = t5x_losses.get_loss_normalizing_factor_and_weights(
            self._loss_normalizing_factor, batch
        )
        task_loss, z_loss, _ = t5x_losses.compute_weighted_cross_entropy(
            logits,
            targets=batch["decoder_target_tokens"],
            weights=weights,
            label_smoothing=self._label_smoothing,
            z_loss=self._z_loss,
            loss_normalizing_factor=factor,
        )
        teacher_logits, teacher_states = self._teach(params, batch)
        kl = self._divergence(teacher_logits, logits, batch)
        mse = self._hidden_difference(teacher_states, states, batch)
        agreement = self._logits * kl + self._hidden * mse
        # A weighted sum over tokens divided by `factor` is a weighted mean times this.
        scale = jnp.sum(weights) / (1.0 if factor is None else factor)
        loss = task_loss + self._weight * scale * agreement
        metrics = self._compute_metrics(
            logits=logits,
            targets=batch["decoder_target_tokens"],
            mask=weights,
            loss=loss,
            z_loss=z_loss,
            segment_ids=_segments(batch),
        )
        tokens = jnp.sum(batch["decoder_loss_weights"])
        terms = {"distillation/task_loss": losses.divide(task_loss, scale)}
        terms |= {"distillation/kl": kl, "distillation/hidden_mse": mse}
        for name, mean in terms.items():
            metrics[name] = clu_metrics.Average(total=mean * tokens, count=tokens)
        return loss, metrics

    def _teach(self, params, batch):
        params = flax.core.unfreeze(params)
        encoder = {**params["encoder"], PROMPT: {"prompt": jnp.asarray(self._teachers)}}
        params = jax.lax.stop_gradient({**params, "encoder": encoder})
        return _run(self._teacher_module, params, batch, None)

    def _divergence(self, teacher, student, batch) -> Float[Array, ""]:
        values = losses.kl_divergence(teacher, student, self._temperature)
        return _mean(values, batch["decoder_loss_weights"])

    def _hidden_difference(self, teacher, student, batch) -> Float[Array, ""]:
        weighted = batch["decoder_loss_weights"] > 0
        segments = batch.get("encoder_segment_ids")
        if segments is None:
            segments = (batch["encoder_input_tokens"] != 0).astype(jnp.int32)
            target_segments = weighted.astype(jnp.int32)
        else:
            target_segments = jnp.where(weighted, batch["decoder_segment_ids"], 0)
        owned, _ = losses.encoder_owners(segments, target_segments, jnp.zeros_like(target_segments))
        encoder, decoder = (
            losses.hidden_mse([theirs], [ours])
            for theirs, ours in zip(teacher, student, strict=True)
        )
        return _mean(encoder, owned.astype(jnp.float32)) + _mean(
            decoder, weighted.astype(jnp.float32)
        )


def _run(module, params, batch, dropout_rng):
    """Logits and the normed outputs of encoder and decoder, in one pass of the network."""
    logits, variables = module.apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        encoder_segment_ids=batch.get("encoder_segment_ids"),
        decoder_segment_ids=batch.get("decoder_segment_ids"),
        encoder_positions=batch.get("encoder_positions"),
        decoder_positions=batch.get("decoder_positions"),
        decode=False,
        enable_dropout=dropout_rng is not None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        capture_intermediates=_is_final_norm,
        mutable=["intermediates"],
    )
    states = variables["intermediates"]
    return logits, tuple(states[stack][norm]["__call__"][0] for stack, norm in NORMS.items())


def _is_final_norm(module: nn.Module, method: str) -> bool:
    return module.name in NORMS.values() and method == "__call__"


def _mean(values: Float[Array, "B T"], weights: Float[Array, "B T"]) -> Float[Array, ""]:
    """The mean of one member, which owns all positions."""
    owners = jnp.zeros(weights.shape, jnp.int32)
    return losses.per_member_mean(values, weights, owners, 1)[0]


def _segments(batch) -> dict[str, Array]:
    """What T5X's metrics of packing and padding are computed from."""
    ending = "_segment_ids"
    packed = {key.removesuffix(ending): ids for key, ids in batch.items() if key.endswith(ending)}
    tokens = ("encoder_input_tokens", "decoder_target_tokens")
    return packed or {key: batch[key] != 0 for key in tokens}
