"""Prompts in T5X checkpoints, where google-research/prompt-tuning's models have them."""

from pathlib import Path

from mpt_jax.methods.formats.foreign import one_task, plain_prompt
from mpt_jax.methods.prompt_file import PromptFile, PromptFileError
from mpt_jax.whole_files import refuse_existing

WHAT = "a T5X checkpoint of a prompted model"
VARIABLE = "encoder/prompt/prompt/prompt"
MARKS = ("checkpoint", "state/manifest.ocdbt")  # of the legacy form and of Orbax's


def recognises(path: Path) -> bool:
    """Whether `path` is a T5X checkpoint's folder, or a folder of such."""
    return path.is_dir() and any(
        (folder / mark).is_file() for folder in (path, *path.glob("checkpoint_*")) for mark in MARKS
    )


def read(path: Path) -> PromptFile:
    """The prompt in the checkpoint at `path`, or in the latest one there.

    Raises:
      PromptFileError: a checkpoint without a prompt, a damaged one, or a prompt that is not [P, D].
    """
    # tensorstore is slow to import.
    from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint, read_prompts

    try:
        checkpoint = open_checkpoint(path)
        array = read_prompts(checkpoint, VARIABLE)[VARIABLE]
    except (OSError, ValueError) as error:
        raise PromptFileError(f"{path} holds no prompt that can be read: {error}") from error
    folder = checkpoint.path.resolve()
    name = folder.name if checkpoint.step is None else folder.parent.name
    return plain_prompt(path, array, name, checkpoint.step)


def write(prompts: PromptFile, output: Path) -> list[str]:
    """Writes one task's finished prompt as `output/checkpoint_<step>`; `output` is a new MODEL_DIR.

    The checkpoint holds the prompt alone: T5X takes the other weights from the backbone's own.

    Raises:
      UserError: several tasks, or something is at `output` already.
    """
    from mpt_jax.models.formats.t5x_writer import write_checkpoint

    task = one_task(prompts, "A T5X checkpoint of a prompt")
    refuse_existing(output)
    step = prompts.metadata.step or 0
    written = write_checkpoint(output, step, [(VARIABLE, prompts.prompt(task))])
    return [f"{task}: {written}, {VARIABLE}"]
