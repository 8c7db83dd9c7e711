"""Prompt tuning (Lester et al. 2021): every task has a free matrix of P x D numbers.

SPoT (Vu et al. 2022) is the same method started from a trained source prompt: choose it with
``methods/spot.py`` and pass it to :meth:`PromptTuning.start`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mpt_jax.methods.method import Params, Sizes
from mpt_jax.methods.prompt_method import Embeddings, Initialiser, PromptMethod


@dataclass(frozen=True, kw_only=True)
class PromptTuning(PromptMethod):
    """Parameters: ``prompt`` [M, K, P, D]."""

    name: str = "prompt_tuning"
    kind: ClassVar[str] = "prompt_tuning"

    def start(
        self, m: int, rng: PRNGKeyArray, prompts: Float[Array | np.ndarray, "*N p D"]
    ) -> dict[str, Array]:
        """Member ``m`` started from one prompt [p, D] for all its tasks or from K prompts [K, p, D]."""
        del rng  # nothing is drawn
        padded = self.pad_slots(m, jnp.asarray(prompts), "the prompt to start from")
        if padded.ndim == 3 and padded.shape[0] != self.tasks:
            raise ValueError(
                f"{self.name}: {padded.shape[0]} prompts to start {self.tasks} tasks from; "
                "give one prompt for all tasks or one for each."
            )
        return {"prompt": jnp.broadcast_to(padded, (self.tasks, self.length, self.width))}

    def init_member(
        self,
        m: int,
        rng: PRNGKeyArray,
        initialiser: Initialiser,
        embeddings: Embeddings,
    ) -> dict[str, Array]:
        keys = list(jax.random.split(rng, self.tasks))
        return self.start(m, rng, self.draw_prompts(m, keys, initialiser, embeddings))

    def read(self, params: Params, rows: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        # One gather along a flat first axis: its gradient is one scatter-add of whole rows.
        flat = jnp.asarray(params["prompt"]).reshape(self.rows, self.width)
        return flat.at[rows].get(mode="clip")

    def compose(self, member_params: Params, k: int) -> Float[Array | np.ndarray, "P D"]:
        return member_params["prompt"][k]

    @staticmethod
    def cut(member_params: Params, length: int) -> dict[str, Array | np.ndarray]:
        return {"prompt": member_params["prompt"][:, :length]}

    @staticmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        match shapes:
            case {"prompt": (tasks, length, width), **others} if not others:
                return Sizes(tasks, length, width, rank=None)
        return None

    def count(self) -> int:
        return self.tasks * self.length * self.width

    def default_groups(self) -> tuple[tuple[str, str], ...]:
        return (("^prompt$", "prompt"),)
