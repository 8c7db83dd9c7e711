"""ULPT (Wu, Hao and Mou 2025): prompts in a few random dimensions, stretched to the backbone's width.

The prompt of task k is ``(Z_k R) ∘ s_k + b_k``: ``Z_k`` [P, r] is trained, ``R`` [r, D] is random and
never changes, scale ``s_k`` [D] and shift ``b_k`` [D] are trained. A task has P*r + 2*D numbers; of R
only the seed is stored.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mpt_jax.methods.method import DoesNotFit, Params, Sizes
from mpt_jax.methods.prompt_method import Embeddings, Initialiser, PromptMethod


@functools.lru_cache
def projection(seed: int, rank: int, width: int) -> Float[np.ndarray, "r D"]:
    """R: independent normal numbers of variance 1/r, the same on every machine and for ever.

    Files hold the seed alone, so the numbers must not depend on any library's generator: they are
    SHAKE-256 bytes of the seed, made normal by Box and Muller's transform.
    """
    count = (rank * width + 1) // 2
    digest = hashlib.shake_256(f"mpt_jax ulpt {seed}".encode()).digest(16 * count)
    bits = np.frombuffer(digest, "<u8").reshape(2, count) >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 0.5) / 2.0**53
    radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * np.pi * uniform[1]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return (normal[: rank * width].reshape(rank, width) / np.sqrt(rank)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ULPT(PromptMethod):
    """Parameters: ``z`` [M, K, P, r], ``scale`` [M, K, D], ``shift`` [M, K, D].

    Attributes:
      rank: r.
      seed: of R.
    """

    name: str = "ulpt"
    rank: int = 64
    seed: int = 0
    kind: ClassVar[str] = "ulpt"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rank")
        if self.rank >= self.width:
            raise DoesNotFit(
                f"{self.name}: rank is {self.rank}; it has to be below the width {self.width}, or "
                "nothing is saved."
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def start(
        self, m: int, rng: PRNGKeyArray, prompts: Float[Array | np.ndarray, "*N p D"]
    ) -> dict[str, Array]:
        """Member ``m`` started as near as R allows to a prompt [p, D], or to one for each task [K, p, D].

        The shift takes the mean over slots, Z the least-squares fit of the rest, the scale is one.
        With r < D the start is an approximation: of what varies over slots, about r/D is kept.
        """
        del rng  # nothing is drawn
        padded = self.pad_slots(m, jnp.asarray(prompts), "the prompt to start from")
        targets = jnp.broadcast_to(padded, (self.tasks, self.length, self.width))
        shift = jnp.mean(targets[:, : self.member_length(m)], axis=1)
        matrix = jnp.asarray(self._projection)
        gram = matrix @ matrix.T
        z = jnp.linalg.solve(gram[None], matrix[None] @ (targets - shift[:, None]).mT).mT
        used = jnp.arange(self.length, dtype=jnp.int32) < self.member_length(m)
        ones = jnp.ones((self.tasks, self.width), jnp.float32)
        return {"z": jnp.where(used[None, :, None], z, 0.0), "scale": ones, "shift": shift}

    def init_member(
        self,
        m: int,
        rng: PRNGKeyArray,
        initialiser: Initialiser,
        embeddings: Embeddings,
    ) -> dict[str, Array]:
        """Started near ``initialiser``'s prompts. The paper's own start of Z is not known to us."""
        keys = list(jax.random.split(rng, self.tasks))
        return self.start(m, rng, self.draw_prompts(m, keys, initialiser, embeddings))

    def read(self, params: Params, rows: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        prompt = rows // self.length
        z = jnp.asarray(params["z"]).reshape(self.rows, self.rank).at[rows].get(mode="clip")
        scale, shift = (
            jnp.asarray(params[name]).reshape(-1, self.width).at[prompt].get(mode="clip")
            for name in ("scale", "shift")
        )
        return (z @ jnp.asarray(self._projection)) * scale + shift

    def compose(self, member_params: Params, k: int) -> Float[Array | np.ndarray, "P D"]:
        stretched = member_params["z"][k] @ self._projection
        return stretched * member_params["scale"][k][None] + member_params["shift"][k][None]

    @staticmethod
    def cut(member_params: Params, length: int) -> dict[str, Array | np.ndarray]:
        return {**member_params, "z": member_params["z"][:, :length]}

    @staticmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        match shapes:
            case {
                "z": (tasks, length, rank),
                "scale": tuple(scale),
                "shift": tuple(shift),
                **others,
            }:
                if not others and scale == shift and len(scale) == 2 and scale[0] == tasks:
                    return Sizes(tasks, length, scale[1], rank)
        return None

    def count(self) -> int:
        return self.tasks * (self.length * self.rank + 2 * self.width)

    def default_groups(self) -> tuple[tuple[str, str], ...]:
        return ((".*", "prompt"),)

    @property
    def _projection(self) -> Float[np.ndarray, "r D"]:
        return projection(self.seed, self.rank, self.width)
