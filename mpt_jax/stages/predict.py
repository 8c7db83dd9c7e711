"""Running finished or half-trained prompts over examples: texts, losses and scores.

All prompts of a bank are evaluated in the same batches, each row with its own prompt. Letters: M
members, N examples.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mpt_jax.data import scoring
from mpt_jax.data.buckets import Buckets
from mpt_jax.data.evaluation import EvaluationBatch, evaluation_batches
from mpt_jax.data.streams import Stream, Streams
from mpt_jax.errors import UserError
from mpt_jax.methods.bank import AnyBank
from mpt_jax.models.beam_search import beam_decode
from mpt_jax.models.choice_scoring import score_choices
from mpt_jax.models.decoding import greedy_decode, sample_decode
from mpt_jax.models.forward import Applied, forward
from mpt_jax.partitioning import fetch, place, process_data_shard, replicated, shard_batch
from mpt_jax.stages.backbone import Backbone
from mpt_jax.training.losses import sum_by_id, token_cross_entropy


@dataclasses.dataclass(frozen=True)
class Job:
    """Some examples to run with one prompt.

    Attributes:
        task: name of the task that the examples and the metrics are of.
        virtual_ids: the prompt in the bank; empty for methods that have none.
        examples: of one split, as `mpt_jax.data.examples.Examples`; scores need all of it, texts
            and losses only its length, `read` and `lengths`.
        member: whose they are in a bank that does not mix members in a batch.
    """

    task: str
    virtual_ids: np.ndarray
    examples: Any
    member: int = 0


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How texts are produced.

    Attributes:
        method: "greedy", "beam", "sample", or "choices": the most likely of the task's labels.
        max_length: most tokens of an output; None for the targets' feature length.
        beams: of "beam".
        length_penalty: exponent of beam search's brevity penalty.
        temperature, top_k, top_p: of "sample"; top_k = 0 and top_p = 1 leave nothing out.
        seed: of "sample".
    """

    method: str = "greedy"
    max_length: int | None = None
    beams: int = 4
    length_penalty: float = 0.6
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        known = ("greedy", "beam", "sample", "choices")
        if self.method not in known:
            raise UserError(f"decoding method: got {self.method!r}, expected one of {known}.")


class Predictor:
    """A backbone with a bank of trained parameters, ready to run jobs in batches of few shapes.

    Args:
        backbone: the frozen model.
        bank: whose virtual ids the jobs use.
        batch_size: rows of a batch over all devices.
        feature_lengths: the longest "inputs" and "targets"; they fix the padded shapes, so that
            nothing is compiled again from one evaluation to the next.
        decoding: how texts are produced.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: AnyBank,
        *,
        batch_size: int,
        feature_lengths: Mapping[str, int],
        decoding: Decoding = Decoding(),
    ):
        self.backbone, self.bank, self.decoding = backbone, bank, decoding
        devices = backbone.mesh.shape["data"]
        self.batch_size = -(-batch_size // devices) * devices
        self.max_length = decoding.max_length or feature_lengths["targets"]
        self._feature_lengths = feature_lengths

    def texts(self, params: Any, jobs: Sequence[Job]) -> list[list[str]]:
        """The output for every example of every job."""
        if self.decoding.method == "choices":
            return self._choices(params, jobs)
        outputs: list[list[str]] = [[""] * len(job.examples) for job in jobs]
        for selected, mine in self._together(params, jobs):
            applied = self.bank.applied(selected, self.backbone.params)
            batches = self._batches([jobs[i] for i in mine])
            for number, (batch, rows) in enumerate(batches):
                tokens = shard_batch(self.backbone.mesh, batch)["encoder_input_tokens"]
                ids = fetch(self._decode(tokens, applied, number))
                for (stream, example), row in zip(rows, ids, strict=True):
                    if stream >= 0:
                        text = self.backbone.vocabulary.decode(row.tolist())
                        outputs[mine[stream]][example] = text
        return outputs

    def losses(self, params: Any, jobs: Sequence[Job]) -> list[np.ndarray]:
        """Summed negative log-likelihood [N] of the targets, for each job."""
        found = [np.zeros(len(job.examples), np.float32) for job in jobs]
        for selected, mine in self._together(params, jobs):
            for batch, rows in self._batches([jobs[i] for i in mine]):
                arrays = shard_batch(self.backbone.mesh, batch)
                values = fetch(
                    _row_losses(
                        self.backbone.network, self.bank, selected, self.backbone.params, arrays
                    )
                )
                for (stream, example), value in zip(rows, values, strict=True):
                    if stream >= 0:
                        found[mine[stream]][example] = value
        return found

    def scores(self, params: Any, jobs: Sequence[Job]) -> list[dict[str, float]]:
        """Each job's metrics, by its task's own functions."""
        needed = [scoring.needed_outputs(job.task) for job in jobs]
        texts = self.texts(params, jobs)
        scored = [i for i, outputs in enumerate(needed) if "scores" in outputs]
        likelihoods = dict(
            zip(scored, self.losses(params, [jobs[i] for i in scored]), strict=True)
            if scored
            else ()
        )
        return [
            scoring.score_predictions(
                job.task,
                job.examples,
                texts[i],
                scores=-likelihoods[i] if i in likelihoods else None,
            )
            for i, job in enumerate(jobs)
        ]

    def _together(self, params: Any, jobs: Sequence[Job]) -> Iterator[tuple[Any, list[int]]]:
        """What each group of jobs is run with, and which jobs these are: all, or a member's."""
        params = self._placed(params)
        groups: dict[int, list[int]] = {}
        for i, job in enumerate(jobs):
            groups.setdefault(0 if self.bank.mixes else job.member, []).append(i)
        for member, mine in groups.items():
            yield self.bank.select(params, member), mine

    def _decode(self, tokens: jax.Array, applied: Applied, number: int) -> jax.Array:
        network, length, d = self.backbone.network, self.max_length, self.decoding
        params, embed, edits = applied
        if d.method == "beam":
            return beam_decode(
                network, params, tokens, length,
                embed, edits, beams=d.beams, alpha=d.length_penalty,
            )  # fmt: skip
        if d.method == "sample":
            return sample_decode(
                network, params, tokens, length, jax.random.key(d.seed + number),
                embed, edits, temperature=d.temperature, top_k=d.top_k, top_p=d.top_p,
            )  # fmt: skip
        return greedy_decode(network, params, tokens, length, embed, edits)

    def _choices(self, params: Any, jobs: Sequence[Job]) -> list[list[str]]:
        outputs = []
        for job in jobs:
            selected = self.bank.select(self._placed(params), job.member)
            weights, embed, edits = self.bank.applied(selected, self.backbone.params)
            labels = _labels(job)
            encoded = [[*self.backbone.vocabulary.encode(label), 1] for label in labels]
            choices = np.zeros((len(labels), max(map(len, encoded))), np.int32)
            for row, ids in zip(choices, encoded, strict=True):
                row[: len(ids)] = ids
            texts = [""] * len(job.examples)
            for batch, rows in self._batches([job]):
                tokens = shard_batch(self.backbone.mesh, batch)["encoder_input_tokens"]
                likelihoods = fetch(
                    score_choices(
                        self.backbone.network, weights, tokens, jnp.asarray(choices), embed, edits,
                    )
                )  # fmt: skip
                for (stream, example), best in zip(rows, likelihoods.argmax(axis=1), strict=True):
                    if stream >= 0:
                        texts[example] = labels[best]
            outputs.append(texts)
        return outputs

    def _batches(self, jobs: Sequence[Job]) -> list[EvaluationBatch]:
        streams = Streams([Stream(job.examples, job.virtual_ids, 0, 0, job.task) for job in jobs])
        buckets = Buckets(*self._edges(streams))
        # Every process decodes its own rows and then sees all of them.
        index, count = process_data_shard(self.backbone.mesh)
        return [
            EvaluationBatch(batch.batch, self._all_rows(batch.rows))
            for batch in evaluation_batches(
                streams, self._rows(jobs), buckets, process_index=index, process_count=count
            )
        ]

    def _rows(self, jobs: Sequence[Job]) -> int:
        """Rows of a batch: where members do not mix, one alone may have few examples."""
        if self.bank.mixes:
            return self.batch_size
        examples = sum(len(job.examples) for job in jobs)
        return rows_for(examples, self.batch_size, self.backbone.mesh.shape["data"])

    def _edges(self, streams: Streams) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Half and whole feature length behind the longest prompt: two shapes, always the same."""
        prompt = int(streams.prompt_lengths.max())
        inputs = self._feature_lengths["inputs"]
        edges = sorted({prompt + -(-inputs // 2), prompt + inputs})
        return tuple(edges), (self._feature_lengths["targets"],)

    def _placed(self, params: Any) -> Any:
        """On the mesh: arrays of a training lie there already, whole weights in parts."""
        mesh = self.backbone.mesh

        def put(array: Any) -> Any:
            there = isinstance(array, jax.Array) and getattr(array.sharding, "mesh", None) == mesh
            return array if there else place(array, replicated(mesh))

        return jax.tree.map(put, params)

    def _all_rows(self, rows: np.ndarray) -> np.ndarray:
        if process_data_shard(self.backbone.mesh)[1] == 1:
            return rows
        batch = shard_batch(self.backbone.mesh, {"rows": rows.astype(np.int32)})
        return fetch(batch["rows"])


def rows_for(examples: int, most: int, devices: int) -> int:
    """Rows of a batch that holds so many examples, or `most` of them.

    A power of two times the devices, so that there are few shapes.
    """
    rows = devices
    while rows < min(examples, most):
        rows *= 2
    return min(rows, most)


def main_metric(metrics: Mapping[str, float]) -> str:
    """The metric of a task that chooses its prompt's step and stands in tables: its first.

    Their mean, by which some baselines choose, would mix scales (a BLEU and a CIDEr), and is no
    metric that anybody reports.

    Args:
        metrics: a task's, in the order of their registration.

    Raises:
        UserError: there is none.
    """
    if not metrics:
        raise UserError("The task has no metric; give it metric_fns in its registration.")
    return next(iter(metrics))


def _labels(job: Job) -> list[str]:
    labels = sorted({e.targets_text for e in job.examples.read(range(len(job.examples)))})
    if len(labels) > 100:
        raise UserError(
            f"Task {job.task!r} has {len(labels)} different targets; scoring of choices is for "
            "classification. Use greedy decoding."
        )
    return labels


# Compiled once for all banks that are alike: every file of a method that changes the network has its own.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _row_losses(network, bank, selected, backbone, batch):
    weights, embed, edits = bank.applied(selected, backbone)
    logits, _ = forward(network, weights, batch, embed, edits)
    values = token_cross_entropy(logits, batch["decoder_target_tokens"])
    rows = jnp.arange(values.shape[0], dtype=jnp.int32)
    ids = jnp.broadcast_to(rows[:, None], values.shape)
    return sum_by_id(values, batch["decoder_loss_weights"], ids, values.shape[0])
