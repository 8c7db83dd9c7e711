"""Reading safetensors files: what lies in them as numpy arrays, or an error that a user understands."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
from jaxtyping import Shaped

from mpt_jax.errors import UserError


class PromptFileError(UserError):
    """A prompt file that cannot be written, read, or used with this backbone."""


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Shaped[np.ndarray, "..."]]]:
    """The metadata and the tensors of a safetensors file, in the dtypes in which they are stored.

    The header is checked against the file's size before anything is read, so one that claims more
    than there is costs nothing.

    Raises:
      PromptFileError: no such file, truncated, not safetensors, or of a dtype that numpy lacks.
    """
    if not path.is_file():
        raise PromptFileError(f"No prompt file at {path}.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return dict(file.metadata() or {}), arrays
    except (safetensors.SafetensorError, OSError, TypeError, AttributeError) as error:
        raise PromptFileError(
            f"{path} is truncated or not a safetensors file ({error}); copy or export it again."
        ) from error


def check_finite(path: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Raises PromptFileError where a number is not one."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise PromptFileError(
                f"{path}: {name!r} holds values that are NaN or infinite; the training that wrote it "
                "failed. Take an earlier checkpoint of it."
            )
