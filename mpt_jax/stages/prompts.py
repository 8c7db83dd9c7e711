"""The prompt files of run directories: writing a fleet's, finding and reading a run's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.prompt_file import PromptFile, save_prompt_file
from mpt_jax.methods.prompt_sources import is_foreign, load_prompts
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.stages.backbone import Backbone
from mpt_jax.stages.fleet import Member, Trained

FOLDER = "prompts"


def save_fleet(
    directory: Path,
    backbone: Backbone,
    bank: Bank,
    members: Sequence[Member],
    trained: Trained,
) -> list[Path]:
    """Writes each member's prompt file as `prompts/<member>.safetensors`; the first process does.

    A resumed run writes the same numbers into the same files again.
    """
    paths: list[Path] = []
    if jax.process_index() != 0:
        return paths
    for number, member in enumerate(members):
        method = bank.methods[member.method]
        score, step = float(trained.best_score[number]), int(trained.best_step[number])
        paths.append(
            save_prompt_file(
                directory / FOLDER / f"{member.name}.safetensors",
                method.export(trained.params[method.name], member.index),
                kind=method.kind,
                task_names=member.tasks,
                backbone_fingerprint=backbone.fingerprint,
                backbone_name=backbone.name,
                vocabulary_fingerprint=backbone.vocabulary.fingerprint(),
                scores={"validation": score} if np.isfinite(score) else {},
                step=step,
                source_run=str(directory),
                overwrite=True,
            )
        )
    return paths


def find(source: str | Path) -> dict[str, Path]:
    """Where prompts lie, by name: in a run directory, a folder of prompt files, or one file.

    One file, or one folder, may be in another program's form. In a folder of many, prompt files and
    adapter folders are found; other files are not taken for prompts unless they are named.

    Raises:
        UserError: there are none.
    """
    source = Path(source)
    if source.is_file() or is_foreign(source):
        return {source.stem if source.is_file() else source.resolve().name: source}
    root = source / FOLDER if (source / FOLDER).is_dir() else source
    if not (paths := sorted(_below(root)) if root.is_dir() else []):
        raise UserError(
            f"{source} holds no prompt files: expected a run directory with prompts/, a folder of "
            ".safetensors files or one such file, or another program's prompts (a PEFT adapter folder, "
            "a .npy array, a run of prompt-tuning, a T5X checkpoint, a .pt file). Run the stage before "
            "this one, or mend the path."
        )
    return {
        (path.with_suffix("") if path.is_file() else path).relative_to(root).as_posix(): path
        for path in paths
    }


def load_run(source: str | Path, backbone: Backbone) -> dict[str, PromptFile]:
    """The prompts that :func:`find` finds, by name.

    Raises:
        UserError: there are none, they cannot be read, or they are of another backbone.
    """
    return {
        name: load_prompts(
            path, expect_backbone=backbone.fingerprint, expect_width=backbone.config.emb_dim
        )
        for name, path in find(source).items()
    }


def choose_file(source: str | Path, name: str | None) -> Path:
    """The one prompt file that is meant: the only one, or the one of that name.

    Raises:
        UserError: there are none, several, or none of that name.
    """
    found = find(source)
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is None:
        listed = "".join(f"\n  --name={known}" for known in list(found)[:10])
        more = f"\n  ... and {len(found) - 10} more" if len(found) > 10 else ""
        raise UserError(f"{source} holds {len(found)} prompt files; choose one by{listed}{more}")
    if name not in found:
        raise unknown_name(f"prompt file in {source}", name, found)
    return found[name]


def _below(folder: Path) -> list[Path]:
    if is_foreign(folder):
        return [folder]
    paths = []
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            paths += _below(path)
        elif path.suffix == ".safetensors":
            paths.append(path)
    return paths


def plain_bank(
    prompts: Mapping[str, np.ndarray], vocab_size: int
) -> tuple[Bank, Any, dict[str, np.ndarray]]:
    """A bank of finished prompts, one member each.

    Args:
        prompts: name -> [p, D]; lengths may differ.

    Returns:
        The bank, its parameters, and the virtual ids of each prompt by name.
    """
    lengths = tuple(len(prompt) for prompt in prompts.values())
    longest, width = max(lengths), next(iter(prompts.values())).shape[1]
    method = PromptTuning(
        members=len(prompts), tasks=1, length=longest, width=width, lengths=lengths
    )
    bank = Bank((method,), vocab_size)
    stacked = np.zeros((len(prompts), 1, longest, width), np.float32)
    for row, prompt in zip(stacked, prompts.values(), strict=True):
        row[0, : len(prompt)] = prompt
    ids = {name: bank.virtual_ids(0, m) for m, name in enumerate(prompts)}
    return bank, {method.name: {"prompt": stacked}}, ids


def finished(files: Mapping[str, PromptFile]) -> dict[tuple[str, str], np.ndarray]:
    """Every task's finished prompt [p, D] by (file name, task)."""
    return {
        (name, task): file.prompt(task)
        for name, file in files.items()
        for task in file.metadata.task_names
    }
