"""Shared prompt and task factors apart: `shared.safetensors`, and a small prompt file for each task.

These are prompt files of ours. The shared one is an MPT file without tasks; the small ones hold
P*R + R*D numbers and take `shared` from it.
"""

from pathlib import Path

from mpt_jax.methods.prompt_file import PromptFile, PromptFileError, save_prompt_file
from mpt_jax.whole_files import file_names, new_folder

SHARED, FILE = "shared", "shared.safetensors"


def write(prompts: PromptFile, output: Path) -> list[str]:
    """Writes the folder `output`: one shared file and one small file for each task.

    Raises:
      UserError: prompts without a shared part, of an unknown backbone, or `output` exists.
    """
    if SHARED not in prompts.arrays:
        raise PromptFileError(
            f"Prompts of the method {prompts.metadata.kind} have no shared part to keep apart; this form "
            "is for MPT's."
        )
    names = file_names(["shared", *prompts.metadata.task_names])
    with new_folder(output) as folder:
        alone = prompts.take([])
        save_prompt_file(folder / FILE, alone.arrays, **alone.metadata.arguments())
        for task in prompts.metadata.task_names:
            add(folder, prompts.take([task]), folder / f"{names[task]}.safetensors")
    written = [
        f"{task}: {output / names[task]}.safetensors" for task in prompts.metadata.task_names
    ]
    return [f"shared prompt: {output / FILE}", *written]


def add(folder: Path, prompts: PromptFile, path: Path) -> None:
    """Writes a small file for prompts that have the very shared prompt of the folder's shared file.

    Raises:
      UserError: another shared prompt, or the file exists.
    """
    save_prompt_file(
        path,
        prompts.arrays,
        **prompts.metadata.arguments(),
        references={SHARED: folder / FILE},
    )
