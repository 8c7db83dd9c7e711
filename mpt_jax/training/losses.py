"""Losses of tokens, and their means for each member of a fleet.

Everything is computed in float32, whatever the network computes in. Letters: B rows, T encoder
positions, L target positions, V vocabulary, D width, M members.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def token_cross_entropy(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Float[Array, "B L"]:
    """Negative log-likelihood of each target token.

    Args:
        logits: of any float type.
        targets: token ids below V.
        label_smoothing: probability spread evenly over the other tokens. As in T5X, the entropy of
            the smoothed target is subtracted, so that the least possible loss stays 0.
        z_loss: weight of log(Z)^2, which keeps logits from drifting (1e-4 when T5 was pretrained).
    """
    logits = logits.astype(jnp.float32)
    vocabulary = logits.shape[-1]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, not a gather: it stays local where the vocabulary is split over devices.
    is_target = jnp.arange(vocabulary, dtype=targets.dtype)[None, None, :] == targets[..., None]
    log_prob = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1) - log_z
    loss = -log_prob
    if label_smoothing:
        kept, spread = 1.0 - label_smoothing, label_smoothing / (vocabulary - 1)
        others = jnp.sum(logits, axis=-1) - vocabulary * log_z - log_prob
        entropy = -(kept * np.log(kept) + (vocabulary - 1) * spread * np.log(spread))
        loss = -(kept * log_prob + spread * others) - float(entropy)
    if z_loss:
        loss = loss + z_loss * jnp.square(log_z)
    return loss


def token_accuracy(
    logits: Float[Array, "B L V"], targets: Int[Array, "B L"]
) -> Float[Array, "B L"]:
    """1 where the most likely token is the target."""
    return (jnp.argmax(logits, axis=-1).astype(targets.dtype) == targets).astype(jnp.float32)


def kl_divergence(
    teacher_logits: Float[Array, "B L V"],
    student_logits: Float[Array, "B L V"],
    temperature: float | Float[Array, ""] | Float[Array, "B L"] = 1.0,
    *,
    times_squared_temperature: bool = True,
) -> Float[Array, "B L"]:
    """KL(teacher || student) at each target position, both softened by `temperature`.

    With `times_squared_temperature` gradients keep their size when the temperature is changed
    (Hinton et al. 2015).
    """
    temperature = jnp.asarray(temperature, jnp.float32)
    divisor = jnp.broadcast_to(temperature, student_logits.shape[:2])[..., None]
    teacher = jax.nn.log_softmax(teacher_logits.astype(jnp.float32) / divisor, axis=-1)
    student = jax.nn.log_softmax(student_logits.astype(jnp.float32) / divisor, axis=-1)
    kl = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    return kl * jnp.square(divisor[..., 0]) if times_squared_temperature else kl


def hidden_mse(
    teacher: Sequence[Float[Array, "B T D"]], student: Sequence[Float[Array, "B T D"]]
) -> Float[Array, "B T"]:
    """Mean over width and over the given layers of the squared difference, at each position."""
    if len(teacher) != len(student) or not student:
        raise ValueError(
            f"hidden states: got {len(teacher)} layers of the teacher and {len(student)} of the "
            "student; expected the same number, at least one."
        )
    layers = [
        jnp.mean(jnp.square(t.astype(jnp.float32) - s.astype(jnp.float32)), axis=-1)
        for t, s in zip(teacher, student, strict=True)
    ]
    return sum(layers[1:], start=layers[0]) / len(layers)


def sum_by_id(
    values: Float[Array, "B T"] | None,
    weights: Float[Array, "B T"],
    ids: Int[Array, "B T"],
    count: int,
) -> Float[Array, "count"]:
    """Weighted sum of the values (of the weights themselves when None) for each id.

    Positions of weight 0 count for nothing, whatever their value and id: not even NaN gets through.
    One member's sum adds its own positions in order, so a fleet changes nothing in it.
    """
    terms = weights if values is None else jnp.where(weights > 0, values * weights, 0.0)
    return jax.ops.segment_sum(terms.ravel(), ids.ravel(), num_segments=count)


def divide(sums: Float[Array, "..."], totals: Float[Array, "..."]) -> Float[Array, "..."]:
    """sums / totals, and 0 where the total is 0 (a member without weight in the batch)."""
    return sums / jnp.where(totals > 0, totals, 1.0)


def per_member_mean(
    values: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    member_ids: Int[Array, "B T"],
    members: int,
    totals: Float[Array, "M"] | None = None,
) -> Float[Array, "M"]:
    """Weighted mean of each member's own positions.

    Args:
        values: one for each position.
        weights: 0 leaves a position out.
        member_ids: whose position it is; any value where the weight is 0.
        members: M.
        totals: each member's sum of weights; of this batch when None. A part of a batch divided by
            the totals of the whole gives shares that add up to the whole batch's mean.
    """
    if totals is None:
        totals = sum_by_id(None, weights, member_ids, members)
    return divide(sum_by_id(values, weights, member_ids, members), totals)


def encoder_owners(
    encoder_segments: Int[Array, "B T"],
    target_segments: Int[Array, "B L"],
    target_member_ids: Int[Array, "B L"],
) -> tuple[Bool[Array, "B T"], Int[Array, "B T"]]:
    """Which encoder positions belong to a weighted target, and to whose.

    Args:
        encoder_segments: 0 for padding; 1 everywhere else in unpacked rows.
        target_segments: the same for targets, 0 also where a target carries no weight.
        target_member_ids: owner of each target position.

    Returns:
        owned [B, T] and member ids [B, T] (any value where not owned).
    """
    same = encoder_segments[:, :, None] == target_segments[:, None, :]
    same = same & (target_segments > 0)[:, None, :]
    first = jnp.argmax(same, axis=-1)
    return jnp.any(same, axis=-1), jnp.take_along_axis(target_member_ids, first, axis=1)
