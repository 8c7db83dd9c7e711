"""Prompts as ATTEMPT saves them: one [P, D] tensor, `prefix_embeddings[_<task>].pt`."""

from pathlib import Path

from mpt_jax.methods.formats.foreign import plain_prompt
from mpt_jax.methods.formats.torch_archive import read_archive
from mpt_jax.methods.prompt_file import PromptFile, PromptFileError

WHAT = "a .pt file that torch.save wrote of one tensor, as ATTEMPT does"
ENDINGS = (".pt", ".pth", ".bin")
PREFIX = "prefix_embeddings_"


def recognises(path: Path) -> bool:
    """Whether `path` is a file with an ending that torch's have."""
    return path.is_file() and path.suffix in ENDINGS


def read(path: Path) -> PromptFile:
    """The tensor at `path`; ATTEMPT's file names end in the task's.

    Raises:
      UserError: not one [P, D] tensor of floats, or a file that cannot be read without running code.
    """
    tensor = read_archive(path)
    if isinstance(tensor, dict):
        raise PromptFileError(
            f"{path} holds the tensors {sorted(tensor)[:8]}, expected one [length, width] tensor."
        )
    return plain_prompt(path, tensor, path.stem.removeprefix(PREFIX))
