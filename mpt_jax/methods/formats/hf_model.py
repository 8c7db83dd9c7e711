"""A whole model with the method's changes in its weights, as a Hugging Face folder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpt_jax.data.vocabulary_files import files_of
from mpt_jax.errors import UserError
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.prompt_file import PromptFile, PromptFileError
from mpt_jax.models.fingerprint import Fingerprint
from mpt_jax.models.formats.hf_writer import save_weights
from mpt_jax.models.formats.loading import open_weights
from mpt_jax.models.formats.weights import Weights, parameter_shapes, read_finite
from mpt_jax.models.t5_config import T5Config


class MergedWeights:
    """A backbone's weights with one member's changes in them, as a file's reader offers them.

    Raises:
        UserError: parameters that do not fit the backbone.
    """

    def __init__(self, backbone: Weights, method: NetworkMethod, params: Mapping[str, np.ndarray]):
        method.check_shapes(params, "The file")
        self._backbone, self._method, self._params = backbone, method, params
        self.name = backbone.name

    @property
    def config(self) -> T5Config:
        return self._backbone.config

    def read(self, path: str) -> np.ndarray:
        """Raises UserError for a method that is not in a T5's weights."""
        return self._method.merge(self._params, path, self._backbone.read(path))


def write(prompts: PromptFile, output: Path, backbone: str | None = None) -> list[str]:
    """Writes the folder: the model's configuration, its weights and its vocabulary.

    Args:
      backbone: the folder of the model that the file was trained on.

    Raises:
      UserError: no backbone or another one, a method whose changes are not in weights alone, or
        something is at `output` already.
    """
    if backbone is None:
        raise UserError(
            "--format=hf writes a whole model: give --backbone=FOLDER, the model that the file "
            f"was trained on ({prompts.metadata.backbone_name})."
        )
    if prompts.metadata.length:
        raise PromptFileError(
            f"Prompts of the method {prompts.metadata.kind} are input, not weights of a model; --format=peft "
            "or --format=npy write them."
        )
    try:
        weights = open_weights(backbone)
        method = prompts.method(config=weights.config)
        assert isinstance(method, NetworkMethod)
        merged = MergedWeights(weights, method, prompts.arrays)
        merged.read(
            min(parameter_shapes(weights.config))
        )  # refuses before anything is read in full
        _check(weights, prompts)
        save_weights(output, merged, files=files_of(backbone))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"The backbone in {backbone} cannot be read: {error}") from error
    return [f"{', '.join(prompts.metadata.task_names)}: {output}"]


def _check(weights: Weights, prompts: PromptFile) -> None:
    expected = prompts.metadata.backbone_fingerprint
    if expected is None:
        return  # another program's file, which does not tell
    found = Fingerprint()
    for path in sorted(parameter_shapes(weights.config)):
        found.add(path, read_finite(weights, path))
    if found.hexdigest() != expected:
        raise PromptFileError(
            f"The file was trained on the backbone {prompts.metadata.backbone_name} with fingerprint "
            f"{expected}, but {weights.name} has fingerprint {found.hexdigest()}. Give --backbone that model."
        )
