"""Multitask Prompt Tuning (Wang et al. 2023, section 3.2): a shared prompt times low-rank task factors.

The prompt of task k is ``P_k = P* ∘ (u_k v_k)`` with the shared prompt ``P*`` [P, D] and the task
factors ``u_k`` [P, R], ``v_k`` [R, D]. The paper has R = 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mpt_jax.errors import UserError
from mpt_jax.methods.method import Params, Sizes
from mpt_jax.methods.prompt_method import Embeddings, Initialiser, PromptMethod


@dataclass(frozen=True, kw_only=True)
class MPT(PromptMethod):
    """Parameters: ``shared`` [M, P, D], ``u`` [M, K, P, R], ``v`` [M, K, R, D].

    Attributes:
      rank: R.
      train_shared: False keeps P* as it starts: a task is then P*R + R*D numbers.
    """

    name: str = "mpt"
    rank: int = 1
    train_shared: bool = True
    kind: ClassVar[str] = "mpt"
    starts: ClassVar[tuple[str, ...]] = (*PromptMethod.starts, "distilled")
    has_factors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rank")

    def identity_factors(
        self, rng: PRNGKeyArray
    ) -> tuple[Float[Array, "K P R"], Float[Array, "K R D"]]:
        """Factors whose product is exactly one everywhere, so that a task starts exactly at P*.

        The first rank component is ones times ones and carries the product. Were the others equal
        to it, they would get equal gradients and never part; so they have ``u = 0`` and ``v`` of
        random
        signs: they add exactly zero, their ``u`` moves from the first step on, each along a
          direction
        of its own, and at the first component's speed (|v| = 1 too). The signs are the same for all
        tasks, so that averaging factors over tasks averages like with like.
        The paper does not give its start, and PEFT's N(0, 0.02) is nearly a zero prompt.
        """
        ones = jnp.ones((self.length, 1), jnp.float32)
        signs = jax.random.rademacher(rng, (self.rank - 1, self.width), jnp.float32)
        u = jnp.concatenate([ones, jnp.zeros((self.length, self.rank - 1), jnp.float32)], axis=1)
        v = jnp.concatenate([jnp.ones((1, self.width), jnp.float32), signs], axis=0)
        return (
            jnp.broadcast_to(u, (self.tasks, *u.shape)),
            jnp.broadcast_to(v, (self.tasks, *v.shape)),
        )

    def start(
        self, m: int, rng: PRNGKeyArray, prompts: Float[Array | np.ndarray, "*N p D"]
    ) -> dict[str, Array]:
        """Member ``m`` started at a plain prompt [p, D], or at the mean of several [N, p, D] (teachers).

        ``rng`` draws the signs of further rank components; rank 1 does not use it.
        """
        prompts = self.pad_slots(m, jnp.asarray(prompts), "the prompt to start from")
        shared = prompts if prompts.ndim == 2 else jnp.mean(prompts, axis=0)
        u, v = self.identity_factors(rng)
        return {"shared": shared, "u": u, "v": v}

    def start_from_average(self, m: int, source: Params) -> dict[str, Array]:
        """Member ``m`` started from a trained MPT member: its P* and the means of its u and v.

        This is the paper's start for a target task (section 3.2, "target adaptation"): u and v
        are averaged over the source tasks each on its own.

        Args:
          source: one member's parameters, ``shared`` [p, D], ``u`` [S, p, R], ``v`` [S, R, D], for
            instance from :func:`~mpt_jax.methods.method.member` or ``PromptFile.arrays``.
        """
        if not len(source["u"]):
            raise UserError(
                f"{self.name}: the source holds a shared prompt and no task, so there are no factors to "
                "average. Start from its shared prompt alone, or from a file with tasks."
            )
        u = jnp.mean(jnp.asarray(source["u"]), axis=0)
        v = jnp.mean(jnp.asarray(source["v"]), axis=0)
        return self._start_from_factors(m, source, u, v)

    def start_from_task(self, m: int, source: Params, k: int) -> dict[str, Array]:
        """Member ``m`` started from a trained MPT member: its P* and exactly its task ``k``'s factors."""
        tasks = source["u"].shape[0]
        if not 0 <= k < tasks:
            raise IndexError(f"{self.name}: source task {k}, but the source has {tasks} tasks.")
        u, v = jnp.asarray(source["u"][k]), jnp.asarray(source["v"][k])
        return self._start_from_factors(m, source, u, v)

    def _start_from_factors(
        self, m: int, source: Params, u: Float[Array, "p r"], v: Float[Array, "r D"]
    ) -> dict[str, Array]:
        if u.shape[1] != self.rank:
            raise UserError(
                f"{self.name}: the source's factors have rank {u.shape[1]}, this method has rank "
                f"{self.rank}. Use the source's rank, or start from its shared prompt alone."
            )
        shared = self.pad_slots(m, jnp.asarray(source["shared"]), "the source's shared prompt")
        u = jnp.pad(u, [(0, self.length - u.shape[0]), (0, 0)])
        return {
            "shared": shared,
            "u": jnp.broadcast_to(u, (self.tasks, *u.shape)),
            "v": jnp.broadcast_to(v, (self.tasks, *v.shape)),
        }

    def init_member(
        self,
        m: int,
        rng: PRNGKeyArray,
        initialiser: Initialiser,
        embeddings: Embeddings,
    ) -> dict[str, Array]:
        prompt_key, factor_key = jax.random.split(rng)
        prompt = initialiser(prompt_key, embeddings, self.member_length(m))
        return self.start(m, factor_key, prompt)

    def read(self, params: Params, rows: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        # Row q*P + i is slot i of prompt q = m*K + k. Every factor is gathered along a flat first
        # axis (its gradient is then one scatter-add of whole rows); no K x P x D table is ever
        # formed.
        prompt, slot = rows // self.length, rows % self.length
        owner = prompt // self.tasks
        shared = (
            jnp.asarray(params["shared"]).reshape(-1, self.width).at[owner * self.length + slot]
        )
        u = jnp.asarray(params["u"]).reshape(self.rows, self.rank).at[rows]
        v = jnp.asarray(params["v"]).reshape(-1, self.rank, self.width).at[prompt]
        weights = jnp.einsum("...r,...rd->...d", u.get(mode="clip"), v.get(mode="clip"))
        return shared.get(mode="clip") * weights

    def compose(self, member_params: Params, k: int) -> Float[Array | np.ndarray, "P D"]:
        return member_params["shared"] * (member_params["u"][k] @ member_params["v"][k])

    @staticmethod
    def cut(member_params: Params, length: int) -> dict[str, Array | np.ndarray]:
        return {
            "shared": member_params["shared"][:length],
            "u": member_params["u"][:, :length],
            "v": member_params["v"],
        }

    @staticmethod
    def take(member_params: Params, tasks: Sequence[int]) -> dict[str, np.ndarray]:
        rows = np.array(tasks, np.int32)  # none at all leaves the shared prompt and empty factors
        return {
            "shared": np.asarray(member_params["shared"]),
            "u": np.asarray(member_params["u"])[rows],
            "v": np.asarray(member_params["v"])[rows],
        }

    @staticmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        match shapes:
            case {"shared": (length, width), "u": (tasks, _, rank), "v": tuple(v), **others} if (
                not others and shapes["u"] == (tasks, length, rank) and v == (tasks, rank, width)
            ):
                return Sizes(tasks, length, width, rank)
        return None

    def count(self) -> int:
        factors = self.rank * (self.length + self.width)
        return self.train_shared * self.length * self.width + self.tasks * factors

    def default_groups(self) -> tuple[tuple[str, str], ...]:
        return (("^shared$", "shared" if self.train_shared else "frozen"), ("^[uv]$", "factors"))
