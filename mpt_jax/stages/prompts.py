"""The prompt files of run directories: writing a fleet's, finding and reading a run's."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mpt_jax import fetched
from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.bank import AnyBank, Bank
from mpt_jax.methods.method import stack_members
from mpt_jax.methods.network_bank import NetworkBank
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.prompt_file import PromptFile, save_prompt_file
from mpt_jax.methods.prompt_method import PromptMethod
from mpt_jax.methods.prompt_sources import is_foreign, load_prompts
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models.t5_config import T5Config
from mpt_jax.stages.backbone import Backbone
from mpt_jax.stages.fleet import Program, Trained
from mpt_jax.working_copy import shown

FOLDER = "prompts"


def save_fleet(
    directory: Path,
    backbone: Backbone,
    program: Program,
    trained: Trained,
) -> list[Path]:
    """Writes each member's prompt file as `prompts/<member>.safetensors`; the first process does.

    A resumed run writes the same numbers into the same files again.
    """
    paths: list[Path] = []
    if jax.process_index() != 0:
        return paths
    for number, member in enumerate(program.members):
        method = program.bank.methods[member.method]
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
                source_run=shown(directory),
                settings=method.settings,
                backbone_precision=backbone.config.precision,
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
    source = fetched.prompts(source)
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
    files = {name: load_prompt(path, backbone) for name, path in find(source).items()}
    note_precisions(source, files.values(), backbone)
    return files


def load_prompt(path: Path, backbone: Backbone) -> PromptFile:
    """The prompts of one file, checked against the backbone.

    Raises:
        UserError: they cannot be read, or they are of another backbone.
    """
    return load_prompts(
        path, expect_backbone=backbone.fingerprint, expect_width=backbone.config.emb_dim
    )


def note_precisions(source: str | Path, files: Iterable[PromptFile], backbone: Backbone) -> None:
    """Says on standard error where prompts were trained on the backbone in another precision.

    That is allowed: a prompt trained in one is mostly as good in another.
    """
    own = backbone.config.precision
    others = Counter(
        file.metadata.backbone_precision
        for file in files
        if file.metadata.backbone_fingerprint is not None
    )
    for precision, count in sorted(others.items()):
        if precision != own and jax.process_index() == 0:
            print(
                f"note: {count} prompt file(s) in {source} were trained on the backbone in {precision}, "
                f"and run on it in {own}: scores may differ a little (docs/precision.md)",
                file=sys.stderr,
            )


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
    """Every task's finished prompt [p, D] by (file name, task); of files that hold such prompts."""
    return {
        (name, task): file.prompt(task)
        for name, file in files.items()
        if file.is_matrix
        for task in file.metadata.task_names
    }


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Files that run together.

    Attributes:
        bank: of all their parameters.
        params: these.
        places: (file name, task) -> the virtual ids that stand before its texts, and its member.
    """

    bank: AnyBank
    params: Any
    places: Mapping[tuple[str, str], tuple[np.ndarray, int]]


def load_banks(files: Mapping[str, PromptFile], config: T5Config) -> list[Loaded]:
    """Files of any methods as banks: all finished prompts in one, the others with their like.

    Args:
        config: the backbone's shape.

    Raises:
        UserError: parameters that do not fit the backbone.
    """
    loaded = []
    if matrices := finished(files):
        bank, params, ids = plain_bank(
            {f"{name}\n{task}": prompt for (name, task), prompt in matrices.items()},
            config.vocab_size,
        )
        places = {(name, task): (ids[f"{name}\n{task}"], 0) for name, task in matrices}
        loaded.append(Loaded(bank, params, places))
    groups: dict[str, dict[str, PromptFile]] = {}
    for name, file in files.items():
        if not file.is_matrix:
            about = file.metadata
            like = f"{about.kind} {about.settings} {len(about.task_names)} {about.shapes}"
            # Whole networks one after another: their members do not share a batch anyway.
            key = like if about.length else name
            groups.setdefault(key, {})[name] = file
    return loaded + [_together(group, config) for group in groups.values()]


def _together(files: Mapping[str, PromptFile], config: T5Config) -> Loaded:
    """Files of one method, settings and shape."""
    first = next(iter(files.values()))
    method = first.method(len(files), config)
    bank: AnyBank
    if isinstance(method, PromptMethod):
        bank = Bank((method,), config.vocab_size)
    elif isinstance(method, NetworkMethod):
        for name, file in files.items():
            method.check_shapes(file.arrays, name)
        bank = NetworkBank(method)
    params = {method.name: stack_members([file.arrays for file in files.values()])}
    places = {
        (name, task): (bank.virtual_ids(0, m, k), m)
        for m, (name, file) in enumerate(files.items())
        for k, task in enumerate(file.metadata.task_names)
    }
    return Loaded(bank, params, places)
