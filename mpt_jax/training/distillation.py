"""Distillation of teacher prompts into a shared prompt (Wang et al. 2023, section 3.2).

    loss = task loss + weight * (logits * KL(teacher || student) + hidden * squared difference)

The teacher is the same frozen network reading the teachers' prompts: a second call without gradient
(a doubled batch would send the backward pass through both halves), or its recorded states. Its logits are
not recorded: they are V numbers for each target token, which the output layer makes of D.

What the paper leaves open is chosen so:
- Temperature 1: teacher and student are one network, so the teacher's own distribution can be
  matched exactly and needs no softening to be reached; hotter values weigh the tail of a large
  vocabulary. The squared temperature is multiplied in, so that `weight` keeps its meaning.
- Hidden states of the last layer of encoder and decoder, behind the final norm: T5's residual stream
  grows by orders of magnitude through the layers, which an average over all of them would measure.
- Mean over width, then over a member's non-padding positions (prompt slots included), encoder and
  decoder added: the size of the term does not depend on lengths or on the model.
- Weight 0.9 for both terms, fixed over training.
"""

import dataclasses
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mpt_jax.data.recorded import Field
from mpt_jax.methods.bank import Bank
from mpt_jax.models.forward import Batch, forward, logits_of
from mpt_jax.models.t5 import PAD_ID, Transformer
from mpt_jax.models.t5_config import T5Config
from mpt_jax.training import losses
from mpt_jax.training.objectives import TaskObjective, TokenLoss, Totals

PerMember = float | np.ndarray  # one number, or one for each member [M]
Layers = Literal["last", "all"]

TEACHER_TOKENS = "teacher_encoder_input_tokens"
TEACHER_ENCODER = "teacher_hidden_encoder"
TEACHER_DECODER = "teacher_hidden_decoder"


class Frozen(NamedTuple):
    """What distillation reads but never changes."""

    backbone: Any
    teachers: Any


@dataclasses.dataclass(frozen=True, eq=False)
class DistillationObjective:
    """Task loss and agreement with the teachers, for each member. Trains the student bank.

    Beyond the task's, a batch holds `teacher_encoder_input_tokens` [B, T] (the encoder's tokens with
    the teachers' virtual ids in place of the students'), or the recorded `teacher_states`.

    Attributes:
        network: the backbone's network.
        bank: the students'.
        teacher_bank: the teachers', with the same first virtual id.
        teacher_params: their parameters.
        token_loss: how target tokens are scored.
        weight: lambda. 0 everywhere leaves the teacher pass out of the program.
        logits: weight of the divergence inside lambda's bracket; 0 leaves it out.
        hidden: weight of the hidden states there; 0 leaves them out.
        temperature: softens both distributions.
        times_squared_temperature: see `losses.kl_divergence`.
        layers: "last", or "all" (each block's output and the normed output, averaged); one for all
            members, or one for each.
    """

    network: Transformer
    bank: Bank
    teacher_bank: Bank
    teacher_params: Any
    token_loss: TokenLoss = TokenLoss()
    weight: PerMember = 0.9
    logits: PerMember = 1.0
    hidden: PerMember = 1.0
    temperature: PerMember = 1.0
    times_squared_temperature: bool = True
    layers: Layers | tuple[Layers, ...] = "last"

    def __post_init__(self):
        for name in ("weight", "logits", "hidden", "temperature"):
            value = np.asarray(getattr(self, name))
            lowest_fits = value > 0 if name == "temperature" else value >= 0
            if value.shape not in ((), (self.members,)) or not np.all(lowest_fits):
                bound = "above 0" if name == "temperature" else "at least 0"
                raise ValueError(
                    f"distillation {name}: got {getattr(self, name)}; expected one number or "
                    f"{self.members} (one for each member), {bound}."
                )
        if not self._of_members <= {"last", "all"} or (
            not isinstance(self.layers, str) and len(self.layers) != self.members
        ):
            raise ValueError(
                f"distillation layers: got {self.layers!r}, expected 'last' or 'all', or one of them for "
                f"each of the {self.members} members."
            )

    @property
    def members(self) -> int:
        return self.bank.members

    def frozen(self, backbone: Any) -> Frozen:
        return Frozen(backbone, self.teacher_params)

    def totals(self, batch: Batch) -> Totals:
        totals = dict(self.token_loss.totals(batch, self.members))
        if self._compares_hidden:
            for name, (weights, ids) in self._hidden_positions(batch).items():
                totals[name] = losses.sum_by_id(None, weights, ids, self.members)
        return totals

    def __call__(self, trainable, frozen, batch, totals=None, rng=None):
        totals = self.totals(batch) if totals is None else totals
        if not self.recorded_fields:
            task = TaskObjective(self.network, self.bank, self.token_loss)
            return task(trainable, frozen.backbone, batch, totals, rng)
        logits, hidden = forward(
            self.network,
            frozen.backbone,
            batch,
            self.bank.training_reader(trainable),
            return_hidden=self._compares_hidden,
            rng=rng,
        )
        teacher = self._recorded(batch) or self.teacher_states(frozen, batch)
        task_loss, metrics = self.token_loss(logits, batch, totals)
        metrics["task_loss"] = task_loss
        agreement = jnp.zeros_like(task_loss)
        if self._compares_logits:
            decoded = teacher[TEACHER_DECODER][:, :, -1]
            taught = logits_of(self.network, frozen.backbone, decoded)
            kl = self._divergence(taught, logits, batch, totals)
            metrics["kl"] = kl
            agreement = agreement + _per_member(self.logits) * kl
        if self._compares_hidden:
            mse = self._hidden_difference(teacher, hidden, batch, totals)
            metrics["hidden_mse"] = mse
            agreement = agreement + _per_member(self.hidden) * mse
        return task_loss + _per_member(self.weight) * agreement, metrics

    @property
    def recorded_fields(self) -> dict[str, Field]:
        """The form of `teacher_states` by batch key; empty where the students are compared with none."""
        config = self.network.config
        return compared_states(config, self.weight, self.logits, self.hidden, self._of_members)

    def teacher_states(self, frozen: Frozen, batch: Batch) -> dict[str, Array]:
        """What the student is compared with, by batch key; a batch may hold it instead.

        Returns:
            Of N layers, the normed output last, `teacher_hidden_decoder` [B, L, N, D] and
            `teacher_hidden_encoder` [B, T, N, D]; only what is compared.
        """
        _, hidden = forward(
            self.network.clone(deterministic=True),
            frozen.backbone,
            batch,
            self.teacher_bank.reader(frozen.teachers),
            encoder_key=TEACHER_TOKENS,
            return_hidden=True,
        )
        assert hidden is not None
        states = {TEACHER_ENCODER: hidden.encoder, TEACHER_DECODER: hidden.decoder}
        recorded = {
            key: jnp.stack(states[key][-field.shape[0] :], axis=2)
            for key, field in self.recorded_fields.items()
        }
        return jax.lax.stop_gradient(recorded)

    @property
    def _compares_logits(self) -> bool:
        return _counts(self.weight, self.logits)

    @property
    def _compares_hidden(self) -> bool:
        return _counts(self.weight, self.hidden)

    @property
    def _of_members(self) -> set[str]:
        """What any of the members compares."""
        return {self.layers} if isinstance(self.layers, str) else set(self.layers)

    def _recorded(self, batch: Batch) -> dict[str, Array] | None:
        """The teacher's states in the batch; None where it holds none."""
        needed = list(self.recorded_fields)
        present = [key for key in needed if key in batch]
        if not present:
            return None
        if present != needed:
            raise ValueError(f"teacher's recorded states: got {present}, expected {needed}.")
        return {key: batch[key] for key in needed}

    def _divergence(self, teacher, student, batch, totals) -> Float[Array, "M"]:
        ids = batch["member_ids"]
        temperature = jnp.asarray(self.temperature, jnp.float32)
        if temperature.ndim:
            temperature = jnp.take(temperature, ids, mode="clip")
        kl = losses.kl_divergence(
            teacher,
            student,
            temperature,
            times_squared_temperature=self.times_squared_temperature,
        )
        weights = batch["decoder_loss_weights"]
        return losses.per_member_mean(kl, weights, ids, self.members, totals["tokens"])

    def _hidden_positions(self, batch: Batch) -> dict[str, tuple[Array, Array]]:
        """(weights 0 or 1, owners) of the compared positions of encoder and decoder."""
        weighted = batch["decoder_loss_weights"] > 0
        ids = batch["member_ids"]
        encoder_segments = batch.get("encoder_segment_ids")
        if encoder_segments is None:
            encoder_segments = (batch["encoder_input_tokens"] != PAD_ID).astype(jnp.int32)
            target_segments = weighted.astype(jnp.int32)
        else:
            target_segments = jnp.where(weighted, batch["decoder_segment_ids"], 0)
        owned, owners = losses.encoder_owners(encoder_segments, target_segments, ids)
        return {
            "encoder_positions": (owned.astype(jnp.float32), owners),
            "decoder_positions": (weighted.astype(jnp.float32), ids),
        }

    def _hidden_difference(self, teacher, student, batch, totals) -> Float[Array, "M"]:
        pairs = {
            "encoder_positions": (teacher[TEACHER_ENCODER], student.encoder),
            "decoder_positions": (teacher[TEACHER_DECODER], student.decoder),
        }
        total = jnp.zeros((self.members,), jnp.float32)
        for name, (weights, ids) in self._hidden_positions(batch).items():
            recorded, states = pairs[name]
            layers = tuple(recorded[:, :, n] for n in range(recorded.shape[2]))
            squares = self._squares(layers, states[-len(layers) :], ids)
            total = total + losses.per_member_mean(
                squares, weights, ids, self.members, totals[name]
            )
        return total

    def _squares(self, teacher, student, ids) -> Float[Array, "B T"]:
        """Each position's difference, over the layers that its member compares."""
        squares = losses.hidden_mse(teacher, student)
        if len(self._of_members) == 1:
            return squares
        of_last = losses.hidden_mse(teacher[-1:], student[-1:])
        everywhere = np.array([layers == "all" for layers in self.layers])
        return jnp.where(jnp.take(everywhere, ids, mode="clip"), squares, of_last)


def compared_states(
    config: T5Config, weight: PerMember, logits: PerMember, hidden: PerMember, layers: Collection[str]
) -> dict[str, Field]:  # fmt: skip
    """The form of the teacher's states that members with these numbers are compared with, by batch key.

    Args:
        layers: hidden states that any of them compares.
    """
    of_hidden = _counts(weight, hidden)
    every_layer = of_hidden and "all" in layers

    def field(side: Literal["encoder", "decoder"], blocks: int) -> Field:
        states = blocks + 1 if every_layer else 1  # the normed output among them
        return Field(side, (states, config.emb_dim), jnp.dtype(config.dtype))

    fields = {}
    if of_hidden or _counts(weight, logits):
        fields[TEACHER_DECODER] = field("decoder", config.num_decoder_layers)
    if of_hidden:
        fields[TEACHER_ENCODER] = field("encoder", config.num_encoder_layers)
    return fields


def _counts(weight: PerMember, part: PerMember) -> bool:
    """Whether a part of the loss has a weight in any member's."""
    return bool(np.any(np.asarray(weight) * np.asarray(part)))


def _per_member(value: PerMember) -> Float[Array, "..."]:
    return jnp.asarray(value, jnp.float32)
