"""Opening the frozen model that a stage works on: weights, network, vocabulary, identity."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mpt_jax import fetched
from mpt_jax.data.vocabularies import Vocabulary
from mpt_jax.data.vocabulary_files import open_vocabulary, vocabulary_of
from mpt_jax.errors import UserError, unknown_name
from mpt_jax.host_memory import keep_freed_memory
from mpt_jax.models.fingerprint import fingerprint
from mpt_jax.models.formats.loading import load, open_weights
from mpt_jax.models.segment_attention import check_attention
from mpt_jax.models.t5 import T5Config, Transformer
from mpt_jax.models.t5_config import DTYPES, KEPT
from mpt_jax.models.weight_precision import count_weights, widened
from mpt_jax.partitioning import fetch, make_mesh

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded" / "backbone"


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen T5 on its mesh.

    Attributes:
        name: "embedded", a folder's name, or a checkpoint's with its folder's.
        network: the module; `network.config` says its shape.
        params: the weights, laid over the mesh.
        vocabulary: what its token ids mean.
        fingerprint: of the weights as stored; prompts and checkpoints carry it.
        placed: of the weights as they lie on the mesh, where they may be rounded.
        mesh: axes (data, model).
    """

    name: str
    network: Transformer
    params: Any
    vocabulary: Vocabulary
    fingerprint: str
    placed: str
    mesh: Mesh

    @property
    def config(self) -> T5Config:
        return self.network.config

    @property
    def embeddings(self) -> np.ndarray:
        """The vocabulary table [V, D] in float32; all processes must ask for it together."""
        table = {name: fetch(array) for name, array in self.params["token_embedder"].items()}
        return widened(table, "embedding")

    @property
    def num_parameters(self) -> int:
        return count_weights(self.params)

    def check_unchanged(self) -> None:
        """Raises UserError if the weights are not, bit for bit, those that were loaded."""
        now = fingerprint(self.params, fetch)
        if now != self.placed:
            raise UserError(
                f"The backbone changed while it was meant to be frozen: its fingerprint was "
                f"{self.placed} and is {now}. This is a fault of mpt_jax; please report it."
            )


@dataclasses.dataclass(frozen=True)
class BackboneSource:
    """Where the backbone comes from and how it runs.

    Attributes:
        path: a Hugging Face folder (`config.json`, safetensors, vocabulary) or a T5X checkpoint, or a
            folder of several, of which the latest is taken, here or at an address; "embedded" is the
            small one that is shipped.
        vocabulary: a `.model` file, a `tokenizer.json`, a folder that holds one, or "bytes"; None
            looks for it beside the weights.
        dtype: of activations and matrix products, "float32" or "bfloat16" (accelerators).
        weights: how the frozen weights are kept: "int8" (a quarter of float32's memory; rounded,
            so that scores may differ a little, see docs/precision.md), "bfloat16" or "float32";
            None keeps them in `dtype`. "full" trains no rounded weights.
        scan_layers: run the blocks in a loop: compile time then does not grow with depth.
        remat: "none", "dots" or "full"; see `T5Config`.
        attention: "auto", "plain" or "fused"; see `T5Config`. "auto" is safe everywhere: it is fused only
            on TPUs, only for rows where that saves work, and never where the position bias is trained.
        mesh_shape: devices along (data, model); None puts all on `data`.
    """

    path: str = EMBEDDED
    vocabulary: str | None = None
    dtype: str = "float32"
    weights: str | None = None
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "auto"
    mesh_shape: tuple[int, int] | None = None

    def __post_init__(self):
        for field in ("dtype", "weights"):
            value = getattr(self, field)
            known = KEPT if field == "weights" else DTYPES
            if value is not None and value not in known:
                raise unknown_name(f"backbone.BackboneSource.{field}", str(value), known)

    def open(self) -> Backbone:
        """Loads the weights onto the mesh.

        Raises:
            UserError: no such folder, weights that do not fit the configuration, no vocabulary,
                "fused" attention where there is none.
        """
        folder = self.folder
        try:
            weights = open_weights(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"The backbone in {folder} cannot be read: {error}") from error
        vocabulary = self.open_vocabulary()
        if vocabulary.vocab_size > weights.config.vocab_size:
            raise UserError(
                f"{folder}: the {vocabulary.describe()} has more ids than the model's embedding "
                f"table has rows ({weights.config.vocab_size}); they are not of one model."
            )
        mesh = make_mesh(self.mesh_shape)
        check_attention(self.attention, mesh.devices.flat[0].platform)
        config = dataclasses.replace(
            weights.config, dtype=self.dtype, weights=self.weights,
            scan_layers=self.scan_layers, remat=self.remat, attention=self.attention,
        )  # fmt: skip
        try:
            params, identity, placed = load(weights, config, mesh)
        except (OSError, ValueError) as error:
            raise UserError(f"The backbone in {folder} cannot be read: {error}") from error
        keep_freed_memory(mesh)
        name = EMBEDDED if self.path == EMBEDDED else weights.name
        network = Transformer(config, mesh=mesh)
        return Backbone(name, network, params, vocabulary, identity, placed, mesh)

    def open_config(self) -> T5Config:
        """The model's shape alone, without the weights.

        Raises:
            UserError: no such folder, or no model in it.
        """
        folder = self.folder
        try:
            return open_weights(folder).config
        except (OSError, ValueError) as error:
            raise UserError(f"The backbone in {folder} cannot be read: {error}") from error

    def open_vocabulary(self) -> Vocabulary:
        """The vocabulary alone, without the weights.

        Raises:
            UserError: no such folder, or no vocabulary.
        """
        folder = self.folder
        return (
            vocabulary_of(folder) if self.vocabulary is None else open_vocabulary(self.vocabulary)
        )

    @property
    def folder(self) -> Path:
        """Where the backbone lies. Raises UserError where there is no such folder."""
        folder = EMBEDDED_FOLDER if self.path == EMBEDDED else fetched.backbone(self.path)
        if not folder.is_dir():
            raise UserError(
                f"INITIAL_CHECKPOINT_PATH is {self.path!r}, which is no folder. Give a Hugging Face "
                "folder (config.json, model.safetensors, vocabulary), a T5X checkpoint_<step>, or "
                "'embedded'."
            )
        return folder
