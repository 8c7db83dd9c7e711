"""Which forms of other programs are read, and which forms `mpt export` writes.

A new form is a module and a line here. What is read needs no name: a reader recognises its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from mpt_jax.methods.formats import factors, hf_model, numpy_array, peft, t5x, torch_file
from mpt_jax.methods.prompt_file import PromptFile


@runtime_checkable
class Reader(Protocol):
    """What a module for a foreign form offers."""

    WHAT: str  # the form in words, for messages

    def recognises(self, path: Path) -> bool:
        """Whether `path`, a file or folder, claims to be of this form."""
        ...

    def read(self, path: Path) -> PromptFile:
        """The prompts there, checked; their backbone is unknown. Raises UserError."""
        ...


@dataclass(frozen=True)
class Writer:
    """How a form is written.

    Attributes:
      write: (prompts, output, **options) -> lines about what was written. Nothing is overwritten, and
        the output appears whole or not at all.
      what: the form in words.
      options: names of keyword arguments that `write` takes beside.
    """

    write: Callable[..., list[str]]
    what: str
    options: tuple[str, ...] = ()


# In this order: a run of prompt-tuning holds the arrays beside T5X's checkpoints, and they are smaller.
READERS: tuple[Reader, ...] = (peft, numpy_array, t5x, torch_file)
WRITERS = {
    "peft": Writer(peft.write, "an adapter folder for Hugging Face's PEFT", ("base_model",)),
    "npy": Writer(numpy_array.write, "one task's finished [P, D] array: a .npy file, or a folder"),
    "t5x": Writer(t5x.write, "a T5X checkpoint with one task's finished prompt"),
    "hf": Writer(
        hf_model.write,
        "a whole Hugging Face model with the changes in its weights (full, LoRA)",
        ("backbone",),
    ),
    "factors": Writer(factors.write, "a shared prompt file and a small one for each task"),
}


def find_reader(path: Path) -> Reader | None:
    """The reader that recognises what is at `path`; None for our own prompt files and all else."""
    return next((reader for reader in READERS if reader.recognises(path)), None)
