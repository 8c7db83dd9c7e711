"""Prompts from wherever they are: our prompt files, and the forms of other programs."""

import os
import warnings
from pathlib import Path

from mpt_jax import fetched
from mpt_jax.methods.formats.registry import READERS, find_reader
from mpt_jax.methods.prompt_file import PromptFile, PromptFileError, check_width, load_prompt_file


class ForeignPromptWarning(UserWarning):
    """Another program's file: its backbone cannot be verified, or a part of it was left out."""


def is_foreign(path: Path) -> bool:
    """Whether `path` is a file or folder in another program's form."""
    return find_reader(path) is not None


def load_prompts(
    path: str | os.PathLike[str],
    *,
    expect_backbone: str | None = None,
    expect_width: int | None = None,
) -> PromptFile:
    """Reads prompts of any known form and checks them.

    Args:
      path: a prompt file, or a file or folder of another program, here or at an address. The
        ending `.npy` may be left out.
      expect_backbone: fingerprint of the backbone to use the prompts with; None skips the check.
        Another program's file names none: then there is a warning (ForeignPromptWarning).
      expect_width: that backbone's model width; None skips the check.

    Raises:
      UserError: nothing there, no known form, damaged, or of another backbone or width.
    """
    path = _existing(fetched.prompts(path))
    reader = find_reader(path)
    if reader is None:
        if path.suffix == ".safetensors":
            return load_prompt_file(
                path, expect_backbone=expect_backbone, expect_width=expect_width
            )
        known = "".join(f"\n  {known.WHAT}" for known in READERS)
        raise PromptFileError(
            f"{path} holds no prompts in a form that is known. These are:\n  a prompt file of mpt_jax "
            f"(.safetensors){known}"
        )
    prompts = reader.read(path)
    check_width(path, prompts.metadata, expect_width)
    if expect_backbone is not None:
        notes = "".join(f" {note}" for note in prompts.notes)
        warnings.warn(
            f"{path} does not say which backbone its prompts were trained on (it calls it "
            f"{prompts.metadata.backbone_name}); that it is this one cannot be verified, only its width "
            f"was.{notes}",
            ForeignPromptWarning,
            stacklevel=2,
        )
    return prompts


def _existing(path: Path) -> Path:
    """`path`, or the `.npy` file that is meant by it."""
    if path.exists():
        return path
    if path.suffix in (".npy", ".safetensors"):
        raise PromptFileError(f"No prompt file at {path}.")
    with_ending = path.with_name(f"{path.name}.npy")
    if not with_ending.exists():
        raise PromptFileError(f"No prompt file at {path} or {with_ending}.")
    return with_ending
