"""From a checkpoint of a plain T5 to a state that also holds prompts.

T5X fills in what a checkpoint lacks from a fresh state (`fallback_to_scratch`). Two parts make that
safe and useful for prompts:

- `backbone_only`, a state transformation, takes all weights of the backbone from the checkpoint, or
  says which ones are missing: T5X itself would silently draw them anew;
- `PromptedStateInitializer` makes the fresh state with the prompts that one asked for. The module
  alone cannot: it is initialised before any checkpoint is read, so there is no vocabulary to
  sample from yet.
"""

import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import flax
import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float
from t5x import state_utils, utils

from mpt_jax.errors import UserError
from mpt_jax.methods.initialisers import from_file
from mpt_jax.methods.method import Params
from mpt_jax.methods.prompt_file import PromptFile, load_prompt_file
from mpt_jax.methods.prompt_method import Initialiser, PromptMethod
from mpt_jax.methods.similarity import PromptScaleWarning
from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint
from mpt_jax.models.formats.weights import refuse_difference
from mpt_jax.t5x.network import AXES, PROMPT

TABLE = "token_embedder/embedding"
TARGET = "target/"
PROMPTS = f"{TARGET}encoder/{PROMPT}/"


@runtime_checkable
class Start(Protocol):
    """Where prompts start: one member's parameters for a method and its K task names."""

    def __call__(self, method: PromptMethod, tasks: tuple[str, ...]) -> Params: ...


@dataclasses.dataclass(frozen=True)
class FromEmbeddings:
    """Prompts from one of `mpt_jax.methods.initialisers`, which draw on the vocabulary's table.

    Attributes:
        checkpoint: folder of the T5X checkpoint to read the table from.
        initialiser: e.g. `initialisers.sampled_vocabulary`, or `initialisers.from_file` for `.npy`.
        seed: of what it draws.
    """

    checkpoint: str | os.PathLike[str]
    initialiser: Initialiser
    seed: int = 0

    def __call__(self, method: PromptMethod, tasks: tuple[str, ...]) -> Params:
        try:
            table = np.asarray(open_checkpoint(self.checkpoint).arrays[TABLE].read(), np.float32)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"The embedding table {TABLE} of {self.checkpoint} cannot be read: {error}. The "
                "prompts start from it; give a local folder with a T5X checkpoint."
            ) from error
        if table.ndim != 2 or table.shape[1] != method.width:
            raise UserError(
                f"{self.checkpoint}: the embedding table is {table.shape}, but the network's width "
                f"is {method.width}. Take the gin file of this checkpoint's size."
            )
        return method.init_member(0, jax.random.key(self.seed), self.initialiser, table)


@dataclasses.dataclass(frozen=True)
class FromPromptFile:
    """The prompts that `mpt` trained, from its prompt file; or one plain prompt for all tasks.

    A file of the network's own method is taken as it is, each task by its name. Prompts of another
    method are finished first, and start this one: MPT's shared prompt is then their mean.

    Attributes:
        path: a `.safetensors` prompt file, or a `.npy` array [P, D]. The backbone that a file names is
            not compared: T5X knows no fingerprints.
    """

    path: str | os.PathLike[str]

    def __call__(self, method: PromptMethod, tasks: tuple[str, ...]) -> Params:
        if Path(self.path).suffix != ".safetensors":
            return method.start(0, jax.random.key(0), self._plain_prompt(method))
        file = load_prompt_file(self.path, expect_width=method.width)
        names = file.metadata.task_names
        missing = [task for task in tasks if task not in names]
        if missing:
            raise UserError(
                f"{self.path} holds prompts for {list(names)}, none for {missing}. TASKS has to name "
                "tasks of the file."
            )
        if file.metadata.length != method.length:
            raise UserError(
                f"{self.path} holds prompts of {file.metadata.length} vectors, the network is set to "
                f"{method.length}: set PROMPT_LENGTH."
            )
        if method.kind != file.metadata.kind:
            prompts = np.stack([file.prompt(task) for task in tasks])
            return method.start(0, jax.random.key(0), prompts)
        return _in_order(file, tasks)

    def _plain_prompt(self, method: PromptMethod) -> Float[jax.Array, "P D"]:
        no_table = np.zeros((1, method.width), np.float32)
        with warnings.catch_warnings():
            # The scale cannot be compared with the embeddings', which are not read here.
            warnings.simplefilter("ignore", PromptScaleWarning)
            return from_file(jax.random.key(0), no_table, method.length, path=self.path)


def _in_order(file: PromptFile, tasks: tuple[str, ...]) -> Params:
    """The file's parameters with its task axes in the order of `tasks`."""
    order = np.array([file.metadata.task_names.index(task) for task in tasks])
    return {
        name: array[order] if AXES[name][0] == "tasks" else array
        for name, array in file.arrays.items()
    }


class PromptedStateInitializer(utils.TrainStateInitializer):
    """T5X's, whose fresh states have the prompts at a given start.

    Args:
        start: where the prompts start.
        init_fn: as T5X passes it, the model's method; its module is `mpt_jax.t5x.network.Transformer`.
        **settings: T5X's.
    """

    def __init__(self, *, start: Start, init_fn: Any, **settings: Any):
        super().__init__(init_fn=init_fn, **settings)
        self._start = start
        self._module = init_fn.__self__.module

    def from_scratch(self, init_rng: Any) -> Any:
        """A fresh state.

        Raises:
            UserError: the start does not fit the network; with both shapes.
        """
        state = super().from_scratch(init_rng)
        params = flax.core.unfreeze(state.params)
        fresh = params["encoder"][PROMPT]
        started = self._start(self._module.prompts, tuple(self._module.tasks))
        shapes = {name: array.shape for name, array in started.items()}
        expected = {name: array.shape for name, array in fresh.items()}
        if shapes != expected:
            raise UserError(
                f"The prompts' start has the parameters {shapes}, the network has {expected}: set "
                "PROMPT_LENGTH, RANK and TASKS to the start's, or take another start."
            )
        params["encoder"][PROMPT] = {
            name: _placed(np.asarray(started[name], array.dtype), array.sharding)
            for name, array in fresh.items()
        }
        return state.replace_params(flax.core.freeze(params))


def _placed(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """The array on all devices of the mesh, those of other processes too."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def backbone_only(
    checkpoint: Mapping[str, Any], model: Mapping[str, Any], *, is_resuming: bool = False
) -> Mapping[str, Any]:
    """Of a checkpoint's state, all weights of the backbone and the step.

    A state transformation for T5X's RestoreCheckpointConfig, together with
    `fallback_to_scratch = True`: prompts and optimizer then come from the fresh state, also where
    the checkpoint has some. A run that is resumed takes everything from its own checkpoint.

    Args:
        checkpoint: the state as stored: its leaves are arrays, or descriptions of such.
        model: the model's state.
        is_resuming: whether T5X goes on with a run.

    Raises:
        UserError: a weight is missing or not of this model, or (in a legacy checkpoint) its shape is
            another; each is named.
    """
    if is_resuming:
        return checkpoint
    stored = state_utils.flatten_state_dict(checkpoint)
    wanted = state_utils.flatten_state_dict(model)
    shapes = {path: tuple(wanted[path].shape) for path in _backbone(wanted)}
    # Orbax's descriptions have no shapes; there flax refuses another shape at the first call.
    found = {path: _shape(stored[path], shapes.get(path, ())) for path in _backbone(stored)}
    try:
        refuse_difference(found, shapes, "The checkpoint is not of this model")
    except ValueError as error:
        raise UserError(str(error)) from error
    return unflatten_dict({path: stored[path] for path in (*shapes, "state/step")}, sep="/")


def _backbone(state: Mapping[str, Any]) -> list[str]:
    return [path for path in state if path.startswith(TARGET) and not path.startswith(PROMPTS)]


def _shape(leaf: Any, unknown: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(leaf, Mapping):  # TensorStore's specification
        return tuple(leaf["metadata"]["shape"])
    shape = getattr(leaf, "shape", None)
    return unknown if shape is None else tuple(shape)
