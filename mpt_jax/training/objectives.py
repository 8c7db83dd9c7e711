"""What a step minimises: the task loss of a bank's members; distillation has a module of its own.

An objective is called with the trainable tree, what is frozen, and a batch; it returns a loss and
metrics for each member of the fleet (M numbers each). A batch may be a part of a larger one: given
the totals of the larger one, losses and metrics are shares that add up.

Batch keys: `encoder_input_tokens` [B, T], `decoder_input_tokens`, `decoder_target_tokens`,
`decoder_loss_weights`, `member_ids`, `task_ids` (all [B, L]), and for packed rows
`encoder_segment_ids`, `decoder_segment_ids`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mpt_jax.methods.bank import AnyBank
from mpt_jax.models.forward import Batch
from mpt_jax.models.t5 import Transformer
from mpt_jax.training import losses

Totals = Mapping[str, Float[Array, "..."]]
Metrics = dict[str, Float[Array, "..."]]


@runtime_checkable
class Objective(Protocol):
    """What `make_train_step` needs of an objective."""

    @property
    def members(self) -> int:
        """M, the number of losses."""

    def frozen(self, backbone: Any) -> Any:
        """Everything besides the trainable tree that the objective reads, as one tree."""

    def totals(self, batch: Batch) -> Totals:
        """What the means over a batch are divided by; needs no network."""

    def __call__(
        self,
        trainable: Any,
        frozen: Any,
        batch: Batch,
        totals: Totals | None = None,
        rng: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "M"], Metrics]: ...


@dataclasses.dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy of the target tokens, as a mean for each member.

    Attributes:
        label_smoothing: see `losses.token_cross_entropy`.
        z_loss: likewise.
        tasks: K; when given, `loss_by_task` [M, K] is reported beside the members' own losses, with
            `tokens_by_task` (0 where a task is not in the batch).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    tasks: int | None = None

    def totals(self, batch: Batch, members: int) -> Totals:
        weights = batch["decoder_loss_weights"]
        totals = {"tokens": losses.sum_by_id(None, weights, _member_ids(batch), members)}
        if self.tasks is not None:
            by_task, count = _task_ids(batch, self.tasks), members * self.tasks
            tokens = losses.sum_by_id(None, weights, by_task, count)
            totals["tokens_by_task"] = tokens.reshape(members, self.tasks)
        return totals

    def __call__(
        self, logits: Float[Array, "B L V"], batch: Batch, totals: Totals
    ) -> tuple[Float[Array, "M"], Metrics]:
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        members = totals["tokens"].shape[0]
        ids = _member_ids(batch)
        token_losses = losses.token_cross_entropy(
            logits, targets, label_smoothing=self.label_smoothing, z_loss=self.z_loss
        )
        hits = losses.token_accuracy(logits, targets)
        metrics = {
            "accuracy": losses.per_member_mean(hits, weights, ids, members, totals["tokens"]),
            "tokens": losses.sum_by_id(None, weights, ids, members),
        }
        if self.tasks is not None:
            by_task, count = _task_ids(batch, self.tasks), members * self.tasks
            sums = losses.sum_by_id(token_losses, weights, by_task, count)
            tokens = losses.sum_by_id(None, weights, by_task, count)
            shape = (members, self.tasks)
            metrics["loss_by_task"] = losses.divide(sums.reshape(shape), totals["tokens_by_task"])
            metrics["tokens_by_task"] = tokens.reshape(shape)
        loss = losses.per_member_mean(token_losses, weights, ids, members, totals["tokens"])
        return loss, metrics


@dataclasses.dataclass(frozen=True)
class TaskObjective:
    """The task loss of a bank's members on a frozen backbone; trains the bank.

    Attributes:
        network: the backbone's network; `deterministic=False` trains with dropout.
        bank: whose parameters are the trainable tree.
        token_loss: how target tokens are scored.
    """

    network: Transformer
    bank: AnyBank
    token_loss: TokenLoss = TokenLoss()

    @property
    def members(self) -> int:
        return self.bank.members

    def frozen(self, backbone: Any) -> Any:
        return backbone

    def totals(self, batch: Batch) -> Totals:
        return self.token_loss.totals(batch, self.members)

    def __call__(self, trainable, frozen, batch, totals=None, rng=None):
        totals = self.totals(batch) if totals is None else totals
        logits = self.bank.logits(self.network, trainable, frozen, batch, rng)
        return self.token_loss(logits, batch, totals)


def _member_ids(batch: Batch) -> Array:
    """Owners of target positions; a batch without them has one owner."""
    ids = batch.get("member_ids")
    return jnp.zeros_like(batch["decoder_target_tokens"]) if ids is None else ids


def _task_ids(batch: Batch, tasks: int) -> Array:
    """Each target position's task, counted through all members."""
    return _member_ids(batch) * tasks + batch["task_ids"]
