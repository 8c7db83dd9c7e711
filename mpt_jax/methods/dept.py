"""DePT (Shi and Lipani 2024): a short prompt, and low-rank offsets to the words behind it.

Word i behind the prompt of task k (i = 0 is the first) is embedded as ``E + alpha/sqrt(r) a_k[i] b_k``
with ``a_k`` [s, r] and ``b_k`` [r, D]; words from s on stay as they are. The prompt is the shorter for
it, so that a task has as many numbers as in prompt tuning, and rows are shorter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mpt_jax.methods.method import Params, Sizes
from mpt_jax.methods.prompt_method import Embeddings, Initialiser, PromptMethod
from mpt_jax.models.t5_config import T5Config


@dataclass(frozen=True, kw_only=True)
class DePT(PromptMethod):
    """Parameters: ``prompt`` [M, K, P, D], ``a`` [M, K, s, r], ``b`` [M, K, r, D].

    ``b`` starts at zero, so that words start as they are.

    Attributes:
      rank: r.
      words: s, positions behind the prompt that have an offset.
      alpha: of the offsets' scale.
    """

    name: str = "dept"
    rank: int = 45
    words: int = 256
    alpha: float = 1.0
    kind: ClassVar[str] = "dept"
    has_factors: ClassVar[bool] = True
    is_matrix: ClassVar[bool] = False
    moves_words: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rank", "words")

    @classmethod
    def build(
        cls, *, name: str, members: int, tasks: int, length: int, config: T5Config, **settings: Any
    ) -> "DePT":
        """With as many numbers as ``length`` plain slots have, unless the settings say otherwise.

        Args:
          length: P of the prompts that it is compared with: four tenths become its own slots (40 of
            100, the published setting that keeps the most rank), the others pay for the offsets.
          settings: "slots" is its own P.
        """
        words = settings.get("words", cls.words)
        own = settings.pop("slots", max(1, round(0.4 * length)))
        rank = settings.pop(
            "rank", max(1, (length - own) * config.emb_dim // (words + config.emb_dim))
        )
        return cls(
            name=name, members=members, tasks=tasks, length=own, width=config.emb_dim, rank=rank,
            **settings,
        )  # fmt: skip

    @classmethod
    def options(cls) -> tuple[str, ...]:
        return ("slots", *(name for name in super().options() if name != "length"))

    @property
    def settings(self) -> dict[str, Any]:
        return {"words": self.words, "alpha": self.alpha}

    def start(
        self, m: int, rng: PRNGKeyArray, prompts: Float[Array | np.ndarray, "*N p D"]
    ) -> dict[str, Array]:
        """Member ``m`` started from a prompt [p, D], or one for each task [K, p, D].

        Of a longer prompt the first slots are taken. ``a`` is drawn from the standard normal
        distribution; the published start of it is not known to us.
        """
        own = jnp.asarray(prompts)[..., : self.member_length(m), :]
        padded = self.pad_slots(m, own, "the prompt to start from")
        a = jax.random.normal(rng, (self.tasks, self.words, self.rank), jnp.float32)
        return {
            "prompt": jnp.broadcast_to(padded, (self.tasks, self.length, self.width)),
            "a": a,
            "b": jnp.zeros((self.tasks, self.rank, self.width), jnp.float32),
        }

    def init_member(
        self,
        m: int,
        rng: PRNGKeyArray,
        initialiser: Initialiser,
        embeddings: Embeddings,
    ) -> dict[str, Array]:
        keys = list(jax.random.split(rng, self.tasks + 1))
        prompts = self.draw_prompts(m, keys[1:], initialiser, embeddings)
        return self.start(m, keys[0], prompts)

    def read(self, params: Params, rows: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        flat = jnp.asarray(params["prompt"]).reshape(self.rows, self.width)
        return flat.at[rows].get(mode="clip")

    def offset_words(
        self, params: Params, prompts: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        # All offsets at once, M*K*s rows: B*T of them would each need a whole b otherwise.
        scale = self.alpha / math.sqrt(self.rank)
        offsets = scale * (jnp.asarray(params["a"]) @ jnp.asarray(params["b"]))
        flat = offsets.reshape(-1, self.width)
        rows = prompts * self.words + jnp.minimum(positions, self.words - 1)
        found = flat.at[rows].get(mode="clip")
        return jnp.where((positions < self.words)[..., None], found, 0.0)

    def compose(self, member_params: Params, k: int) -> Float[Array | np.ndarray, "P D"]:
        """The slots alone; the words' offsets are no part of a prompt."""
        return member_params["prompt"][k]

    @staticmethod
    def cut(member_params: Params, length: int) -> dict[str, Array | np.ndarray]:
        return {**member_params, "prompt": member_params["prompt"][:, :length]}

    @staticmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        match shapes:
            case {"prompt": (tasks, length, width), "a": (_, _, rank), "b": tuple(b), **others}:
                if not others and shapes["a"][0] == tasks and b == (tasks, rank, width):
                    return Sizes(tasks, length, width, rank)
        return None

    def count(self) -> int:
        offsets = self.rank * (self.words + self.width)
        return self.tasks * (self.length * self.width + offsets)

    def default_groups(self) -> tuple[tuple[str, str], ...]:
        return (("^prompt$", "prompt"), ("^[ab]$", "factors"))
