"""Arrays that a prompt file does not hold itself but takes from another one, by name and hash.

Fifty tasks that share a frozen P* [P, D] are one file that holds it and fifty small ones with
P*R + R*D numbers each, which refer to it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, Shaped

from mpt_jax.methods.tensor_file import PromptFileError, read_tensors


@dataclass(frozen=True)
class Reference:
    """Where an array lies.

    Attributes:
      file: another prompt file, relative to the folder of the one that refers; in or below it.
      sha256: of the array, see :func:`digest`.
    """

    file: str
    sha256: str


def digest(array: Shaped[np.ndarray, "..."]) -> str:
    """SHA-256 over an array's shape and its values as little-endian fp32, as 64 hex digits."""
    values = np.ascontiguousarray(array, dtype="<f4")
    return hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).hexdigest()


def refer(path: Path, name: str, other: Path) -> Reference:
    """What the prompt file `path` has to say to take the array `name` from the file `other`.

    Raises:
      PromptFileError: `other` does not hold the array, or lies outside of `path`'s folder.
    """
    try:
        relative = other.resolve().relative_to(path.parent.resolve())
    except ValueError:
        raise PromptFileError(
            f"{path} can only refer to files in or below its own folder, but {other} lies elsewhere. "
            "Put the two into one folder."
        ) from None
    return Reference(relative.as_posix(), digest(_held(path, name, other)))


def resolve(path: Path, name: str, reference: Reference) -> Float[np.ndarray, "..."]:
    """The array `name` that the prompt file `path` refers to, verified.

    Raises:
      PromptFileError: the file is not there, lacks the array, holds another one, or its name leads out
        of the folder.
    """
    relative = PurePosixPath(reference.file)
    if relative.is_absolute() or ".." in relative.parts:
        raise PromptFileError(
            f"{path} takes its {name!r} from {reference.file!r}, which leads out of its folder; this is "
            "refused. Expected a file in or below the folder of the prompt file."
        )
    other = path.parent / relative
    if not other.is_file():
        raise PromptFileError(
            f"{path} takes its {name!r} from {other}, which does not exist. Keep the two files together."
        )
    array = _held(path, name, other)
    if (found := digest(array)) != reference.sha256:
        raise PromptFileError(
            f"{path} needs the {name!r} with SHA-256 {reference.sha256[:16]}..., but {other} holds one "
            f"with {found[:16]}...: it was replaced or trained further. Put the original back."
        )
    return array


def _held(path: Path, name: str, other: Path) -> Float[np.ndarray, "..."]:
    _, arrays = read_tensors(other)
    if name not in arrays:
        raise PromptFileError(
            f"{path} takes its {name!r} from {other}, which does not hold it (its tensors: "
            f"{sorted(arrays)})."
        )
    return np.asarray(arrays[name], np.float32)
