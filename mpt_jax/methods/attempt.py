"""ATTEMPT (Asai et al. 2022): each input attends to frozen source prompts and to the task's own prompt.

With source prompts ``P_1 ... P_S``, the task's prompt ``P`` and the input's words ``x``:

    query   = LayerNorm(up(SiLU(down(maxpool(x)))))
    a       = softmax over P_1 ... P_S, P of <query, maxpool(prompt)> / temperature
    prompt  = a_1 P_1 + ... + a_S P_S + a_{S+1} P + P

The prompt depends on the input, so it is no matrix that could be exported, and rows cannot be packed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mpt_jax.methods.method import Params, Sizes
from mpt_jax.methods.prompt_method import Embeddings, Initialiser, Inputs, PromptMethod
from mpt_jax.models.t5 import PAD_ID

EPSILON = 1e-5  # of the layer norm: torch's default


@dataclass(frozen=True, kw_only=True)
class Attempt(PromptMethod):
    """Parameters: ``prompt`` [M, K, P, D]; of the attention, which a member's tasks share, ``down``
    [M, D, h], ``up`` [M, h, D], ``norm_scale`` and ``norm_bias`` [M, D]; frozen ``sources`` [M, S, P, D].

    Attributes:
      rank: h, width of the attention's bottleneck.
      temperature: of the softmax; e * D (2,087 for T5-Base) if None, as in the published settings.
      train_norm: the published code freezes the layer norm, by oversight or not.
      mask_padding: False pools over padding too, as the published code does: an input's prompt then
        depends on how far the batch is padded.
    """

    name: str = "attempt"
    rank: int = 100
    temperature: float | None = None
    train_norm: bool = False
    mask_padding: bool = True
    kind: ClassVar[str] = "attempt"
    starts: ClassVar[tuple[str, ...]] = ("sources",)
    has_factors: ClassVar[bool] = True
    is_matrix: ClassVar[bool] = False
    packs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rank")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(
                f"{self.name}: temperature is {self.temperature}; it has to be above 0."
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "temperature": self._temperature, "mask_padding": self.mask_padding,
            "train_norm": self.train_norm,
        }  # fmt: skip

    def start(
        self,
        m: int,
        rng: PRNGKeyArray,
        prompts: Float[Array | np.ndarray, "*N p D"],
        sources: Sequence[Float[Array | np.ndarray, "_ D"]] = (),
    ) -> dict[str, Array]:
        """Member ``m`` whose tasks start from a prompt [p, D], or one for each [K, p, D].

        Args:
          rng: of the attention's weights, uniform within 1/sqrt(inputs) as torch's linear layers.
          sources: the S frozen prompts; none leaves the attention with the task's own prompt.
        """
        padded = self.pad_slots(m, jnp.asarray(prompts), "the prompt to start from")
        frozen = [self.pad_slots(m, jnp.asarray(prompt), "a source prompt") for prompt in sources]
        down_key, up_key = jax.random.split(rng)
        return {
            "prompt": jnp.broadcast_to(padded, (self.tasks, self.length, self.width)),
            "sources": jnp.asarray(frozen, jnp.float32).reshape(-1, self.length, self.width),
            "down": _uniform(down_key, (self.width, self.rank)),
            "up": _uniform(up_key, (self.rank, self.width)),
            "norm_scale": jnp.ones((self.width,), jnp.float32),
            "norm_bias": jnp.zeros((self.width,), jnp.float32),
        }

    def init_member(
        self,
        m: int,
        rng: PRNGKeyArray,
        initialiser: Initialiser,
        embeddings: Embeddings,
    ) -> dict[str, Array]:
        """Without source prompts."""
        prompt_key, attention_key = jax.random.split(rng)
        prompt = initialiser(prompt_key, embeddings, self.member_length(m))
        return self.start(m, attention_key, prompt)

    def read(self, params: Params, rows: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        raise NotImplementedError("ATTEMPT's prompts depend on the input; see read_given.")

    def read_given(
        self, params: Params, rows: Int[Array, "B T"], inputs: Inputs
    ) -> Float[Array, "B T D"]:
        # All slots of a row are of one prompt; a row without any is read as prompt 0 and masked.
        owner = jnp.max(rows // self.length, axis=1)
        m = owner // self.tasks
        sources = jax.lax.stop_gradient(jnp.take(jnp.asarray(params["sources"]), m, axis=0))
        target = jnp.asarray(params["prompt"]).reshape(-1, self.length, self.width)
        own = jnp.take(target, owner, axis=0)
        prompts = jnp.concatenate([sources, own[:, None]], axis=1)
        weights = self._attend(params, m, self._pool_words(inputs), self._pool_slots(prompts, m))
        mixed = jnp.einsum("bs,bspd->bpd", weights, prompts) + own
        slots = (rows % self.length)[..., None]
        return jnp.take_along_axis(mixed, slots, axis=1)

    def _attend(
        self,
        params: Params,
        m: Int[Array, "B"],
        pooled: Float[Array, "B D"],
        keys: Float[Array, "B N D"],
    ) -> Float[Array, "B N"]:
        down, up, scale, bias = (
            jnp.take(jnp.asarray(params[name]), m, axis=0)
            for name in ("down", "up", "norm_scale", "norm_bias")
        )
        hidden = jax.nn.silu(jnp.einsum("bd,bdh->bh", pooled, down))
        query = jnp.einsum("bh,bhd->bd", hidden, up)
        mean = jnp.mean(query, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(query - mean), axis=-1, keepdims=True)
        query = (query - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias
        scores = jnp.einsum("bd,bnd->bn", query, keys) / self._temperature
        return jax.nn.softmax(scores, axis=-1)

    def _pool_words(self, inputs: Inputs) -> Float[Array, "B D"]:
        words = inputs.ids < inputs.vocab_size
        if self.mask_padding:
            words &= inputs.ids != PAD_ID
        kept = jnp.where(words[..., None], inputs.words.astype(jnp.float32), -jnp.inf)
        most = jnp.max(kept, axis=1)
        return jnp.where(jnp.isfinite(most), most, 0.0)  # a row without any word

    def _pool_slots(self, prompts: Float[Array, "B N P D"], m: Int[Array, "B"]) -> Array:
        lengths = np.array([self.member_length(i) for i in range(self.members)], np.int32)
        used = jnp.arange(self.length, dtype=jnp.int32)[None] < jnp.asarray(lengths)[m][:, None]
        return jnp.max(jnp.where(used[:, None, :, None], prompts, -jnp.inf), axis=2)

    def compose(self, member_params: Params, k: int) -> Float[Array | np.ndarray, "P D"]:
        """The task's own prompt, without the sources' part."""
        return member_params["prompt"][k]

    @staticmethod
    def cut(member_params: Params, length: int) -> dict[str, Array | np.ndarray]:
        slots = {n: member_params[n][:, :length] for n in ("prompt", "sources")}
        return {**member_params, **slots}

    @staticmethod
    def take(member_params: Params, tasks: Sequence[int]) -> dict[str, np.ndarray]:
        rows = np.array(tasks, np.int32)
        arrays = {name: np.asarray(array) for name, array in member_params.items()}
        return {**arrays, "prompt": arrays["prompt"][rows]}

    @staticmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        match shapes:
            case {
                "prompt": (tasks, length, width),
                "sources": (_, *slots),
                "down": (_, rank),
                **rest,
            }:
                widths = {"up": (rank, width), "norm_scale": (width,), "norm_bias": (width,)}
                if (tuple(slots), shapes["down"], rest) == ((length, width), (width, rank), widths):
                    return Sizes(tasks, length, width, rank)
        return None

    def count(self) -> int:
        """Of the trained numbers; the source prompts are frozen."""
        attention = 2 * self.width * self.rank + 2 * self.width * self.train_norm
        return self.tasks * self.length * self.width + attention

    def default_groups(self) -> tuple[tuple[str, str], ...]:
        norm = "factors" if self.train_norm else "frozen"
        return (
            ("^prompt$", "prompt"), ("^(down|up)$", "factors"), ("^norm_(scale|bias)$", norm),
            ("^sources$", "frozen"),
        )  # fmt: skip

    @property
    def _temperature(self) -> float:
        return math.e * self.width if self.temperature is None else self.temperature


def _uniform(key: PRNGKeyArray, shape: tuple[int, int]) -> Float[Array, "In Out"]:
    bound = 1 / math.sqrt(shape[0])
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
