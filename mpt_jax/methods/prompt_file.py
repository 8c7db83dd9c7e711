"""The prompt file: what one member trained as one ``.safetensors`` that says what it belongs to.

The tensors are one member's parameters as the method names them, so MPT's shared prompt and task
factors are stored apart: a further task costs P*R + R*D numbers. A tensor may also be taken from
another prompt file (``references.py``). Methods that change the network have files of the same
make; they hold no prompts. The file's metadata has one entry, ``mpt_jax_prompt``, a
JSON object with the fields of :class:`PromptMetadata`.
"""

import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.method import Method, Params, Sizes
from mpt_jax.methods.prompt_method import PromptMethod
from mpt_jax.methods.references import Reference, digest, refer, resolve
from mpt_jax.methods.registry import method_named
from mpt_jax.methods.tensor_file import PromptFileError, check_finite, read_tensors
from mpt_jax.models.t5_config import T5Config
from mpt_jax.whole_files import write_whole

# Format versions: files without references, settings and a rounded backbone are as they always were.
WHOLE, REFERRING, WITH_SETTINGS, ROUNDED = 1, 2, 3, 4
FLOAT32 = "float32"
METADATA_KEY = "mpt_jax_prompt"


@dataclass(frozen=True)
class PromptMetadata:
    """What a prompt file says about itself.

    Attributes:
      kind: the method, ``Method.kind``.
      task_names: K names, in the order of the tensors' task axis.
      length: P. width: D. rank: R of MPT's factors. 0 (and None for R) where a method has none.
      backbone_fingerprint, backbone_name: the frozen model that the prompts were trained on; the
        fingerprint is None where another program's file does not tell.
      vocabulary_fingerprint: of the vocabulary that its token ids come from; None likewise.
      scores: {task name: {"split/metric": value}} or whatever the run wrote.
      step: training step of the parameters. source_run: directory of the run that wrote them.
      shapes: of the tensors. tool_version: of the writing mpt_jax.
      settings: what the method must be told besides, ``Method.settings``.
      backbone_precision: how that model's weights were kept and computed with, `T5Config.precision`;
        "float32" too where a file does not tell.
      references: tensor -> where it is taken from, for those that are not in the file itself.
    """

    kind: str
    task_names: tuple[str, ...]
    length: int
    width: int
    rank: int | None
    backbone_fingerprint: str | None
    backbone_name: str
    vocabulary_fingerprint: str | None
    scores: Mapping[str, Any]
    step: int | None
    source_run: str | None
    shapes: Mapping[str, tuple[int, ...]]
    tool_version: str
    format_version: int = WHOLE
    settings: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, Reference] = field(default_factory=dict)
    backbone_precision: str = FLOAT32

    def arguments(self) -> dict[str, Any]:
        """What :func:`save_prompt_file` has to be told to say the same of other arrays."""
        names = (
            "kind", "task_names", "backbone_fingerprint", "backbone_name", "vocabulary_fingerprint",
            "scores", "step", "source_run", "settings", "backbone_precision",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PromptFile:
    """A prompt file's tensors (one member's parameters, fp32) and metadata.

    Attributes:
      notes: what a reader of another program's file had to decide, for the user to know.
    """

    arrays: dict[str, Float[np.ndarray, "..."]]
    metadata: PromptMetadata
    notes: tuple[str, ...] = ()

    def prompt(self, task: str | None = None) -> Float[np.ndarray, "P D"]:
        """The finished prompt of a task; the name may be left out where the file holds one task.

        Raises:
          UserError: for a task that the file does not hold, with the nearest names, or a method whose
            prompts are no matrix.
        """
        names = self.metadata.task_names
        if task is None:
            if len(names) != 1:
                raise UserError(f"The prompt file holds the tasks {list(names)}; name one of them.")
            task = names[0]
        method = self.method()
        if not (isinstance(method, PromptMethod) and method.is_matrix):
            raise UserError(
                f"{method.kind} does not finish into one [P, D] matrix of its own, which is asked for "
                "here: it depends on the input, or changes more than the prompt."
            )
        return np.asarray(method.compose(self.arrays, self._index(task)))

    @property
    def is_matrix(self) -> bool:
        """Whether every task's prompt finishes into one matrix, see :meth:`prompt`."""
        return method_named(self.metadata.kind).is_matrix

    def method(self, members: int = 1, config: T5Config | None = None) -> Method:
        """The method that reads ``arrays``, for so many members.

        Args:
          config: the backbone's shape; needed by methods that change the network.
        """
        said = self.metadata
        settings = dict(said.settings) | ({} if said.rank is None else {"rank": said.rank})
        kind = method_named(said.kind)
        if issubclass(kind, PromptMethod):
            return kind(
                name=said.kind, members=members, tasks=len(said.task_names), length=said.length,
                width=said.width, **settings,
            )  # fmt: skip
        if config is None:
            raise UserError(f"{said.kind} changes the network; it has no prompts of its own.")
        return kind.build(
            name=said.kind, members=members, tasks=len(said.task_names), length=1, config=config,
            **settings,
        )  # fmt: skip

    def take(self, tasks: Sequence[str]) -> "PromptFile":
        """The file with some of its tasks, in the order given.

        Raises:
          UserError: for a task that the file does not hold, or one that is named twice.
        """
        if len(set(tasks)) != len(tasks):
            raise UserError(f"Each task can be taken once, got {list(tasks)}.")
        kind = method_named(self.metadata.kind)
        arrays = kind.take(self.arrays, [self._index(task) for task in tasks])
        metadata = replace(
            self.metadata,
            task_names=tuple(tasks),
            shapes={name: array.shape for name, array in arrays.items()},
        )
        return replace(self, arrays=arrays, metadata=metadata)

    def _index(self, task: str) -> int:
        names = self.metadata.task_names
        if task not in names:
            raise unknown_name("task of the prompt file", task, names)
        return names.index(task)


def save_prompt_file(
    path: str | os.PathLike[str],
    arrays: Params,
    *,
    kind: str,
    task_names: Sequence[str],
    backbone_fingerprint: str | None,
    backbone_name: str,
    vocabulary_fingerprint: str | None,
    scores: Mapping[str, Any] | None = None,
    step: int | None = None,
    source_run: str | None = None,
    settings: Mapping[str, Any] | None = None,
    backbone_precision: str = FLOAT32,
    references: Mapping[str, Path] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one member's prompts. The file appears whole or not at all.

    Args:
      path: file name ending in ``.safetensors``; its folder is made where missing.
      arrays: one member's parameters at its own length, as ``Method.export(params, m)`` returns
        them.
      kind: ``Method.kind``.
      task_names: as many as the parameters hold tasks.
      settings: ``Method.settings``.
      backbone_precision: ``T5Config.precision`` of the backbone as it was trained on.
      references: name of an array -> the prompt file, in or below the new one's folder, that holds
        the very same array; it is not written again.
      overwrite: replace a file that is there already.

    Raises:
      PromptFileError: where the file exists (and not ``overwrite``), no backbone is given, arrays,
        kind and task names do not fit together, or a referenced array is another one.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise PromptFileError(f"{path} has to end in .safetensors.")
    if path.exists() and not overwrite:
        raise PromptFileError(f"{path} exists; pass overwrite=True, or choose another name.")
    if backbone_fingerprint is None:
        raise PromptFileError(
            f"{path} cannot be written: another program's file does not say which backbone its prompts "
            "are for. `mpt import` makes a prompt file of it."
        )
    tensors = {
        name: np.ascontiguousarray(np.asarray(array, np.float32)) for name, array in arrays.items()
    }
    shapes = {name: array.shape for name, array in tensors.items()}
    sizes = _sizes(path, kind, shapes)
    shared = not sizes.length  # by all tasks
    if (not shared and sizes.tasks != len(task_names)) or len(set(task_names)) != len(task_names):
        raise PromptFileError(
            f"{path}: {sizes.tasks} prompts need as many different task names, got "
            f"{list(task_names)}."
        )
    referred = {name: refer(path, name, other) for name, other in (references or {}).items()}
    for name, reference in referred.items():
        if digest(tensors.pop(name)) != reference.sha256:
            raise PromptFileError(
                f"{path}: the array {name!r} is not the one in {(references or {})[name]}, so it cannot be "
                "taken from there."
            )
    metadata = PromptMetadata(
        kind=kind,
        task_names=tuple(task_names),
        length=sizes.length,
        width=sizes.width,
        rank=sizes.rank,
        backbone_fingerprint=backbone_fingerprint,
        backbone_name=backbone_name,
        vocabulary_fingerprint=vocabulary_fingerprint,
        scores=dict(scores or {}),
        step=step,
        source_run=source_run,
        shapes=shapes,
        tool_version=_tool_version(),
        format_version=(
            ROUNDED
            if backbone_precision != FLOAT32
            else WITH_SETTINGS
            if settings
            else REFERRING
            if referred
            else WHOLE
        ),
        settings=dict(settings or {}),
        backbone_precision=backbone_precision,
        references=referred,
    )
    # One key only: safetensors does not keep the order of several, and files should be
    # reproducible.
    header = {METADATA_KEY: _metadata_text(metadata)}
    write_whole(path, safetensors.numpy.save(tensors, header))
    return path


def load_prompt_file(
    path: str | os.PathLike[str],
    *,
    expect_backbone: str | None = None,
    expect_width: int | None = None,
) -> PromptFile:
    """Read a prompt file and check it.

    Args:
      expect_backbone: fingerprint of the backbone to use the prompts with; None skips the check.
      expect_width: that backbone's model width; None skips the check.

    Raises:
      PromptFileError: no such file, truncated, not written by mpt_jax, of a newer format, of
        another width, or trained on another backbone (both fingerprints are named).
    """
    path = Path(path)
    header, arrays = read_tensors(path)
    if METADATA_KEY not in header:
        raise PromptFileError(
            f"{path} is a safetensors file, but not one of mpt_jax's prompt files: its metadata lacks "
            f"{METADATA_KEY!r} (tensors: {sorted(arrays)}). A PEFT adapter is read where its "
            "adapter_config.json lies beside it."
        )
    metadata = _parse_metadata(path, header[METADATA_KEY])
    for name, reference in metadata.references.items():
        arrays[name] = resolve(path, name, reference)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != metadata.shapes:
        raise PromptFileError(
            f"{path} was changed after it was written: its tensors are {shapes}, its metadata says "
            f"{dict(metadata.shapes)}."
        )
    sizes = _sizes(path, metadata.kind, shapes)
    said = Sizes(
        len(metadata.task_names) if sizes.length else 0,
        metadata.length, metadata.width, metadata.rank,
    )  # fmt: skip
    if sizes != said:
        raise PromptFileError(
            f"{path}: (tasks, length, width, rank) are {tuple(sizes)} by its tensors and {said} by its "
            "metadata; it was changed after it was written."
        )
    check_finite(path, arrays)
    check_width(path, metadata, expect_width)
    if expect_backbone is not None and metadata.backbone_fingerprint != expect_backbone:
        raise PromptFileError(
            f"{path} was trained on the backbone {metadata.backbone_name} with fingerprint "
            f"{metadata.backbone_fingerprint}, but this run's backbone has fingerprint "
            f"{expect_backbone}. Use the backbone that the prompts were trained on, or train them anew."
        )
    return PromptFile(arrays=arrays, metadata=metadata)


def check_width(path: Path, metadata: PromptMetadata, expected: int | None) -> None:
    """Raises PromptFileError for prompts of another width than the backbone's; None skips the check."""
    if expected is not None and metadata.width not in (0, expected):
        raise PromptFileError(
            f"{path} holds prompts of width {metadata.width} (backbone {metadata.backbone_name}), but "
            f"this backbone has width {expected}."
        )


def _sizes(path: Path, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    sizes = method_named(kind).sizes(shapes)
    if sizes is None:
        raise PromptFileError(
            f"{path}: {dict(shapes)} are not one member's parameters of {kind}; pass what "
            "Method.export(params, m) returns."
        )
    return sizes


def _parse_metadata(path: Path, text: str) -> PromptMetadata:
    try:
        fields = json.loads(text)
        if (version := fields["format_version"]) not in range(WHOLE, ROUNDED + 1):
            raise PromptFileError(
                f"{path} has the format version {version}; this mpt_jax ({_tool_version()}) reads "
                f"versions {WHOLE} to {ROUNDED}, the file was written by "
                f"{fields.get('tool_version')}."
            )
        fields["task_names"] = tuple(fields["task_names"])
        fields["shapes"] = {name: tuple(shape) for name, shape in fields["shapes"].items()}
        fields["references"] = {
            name: Reference(str(reference["file"]), str(reference["sha256"]))
            for name, reference in fields.get("references", {}).items()
        }
        return PromptMetadata(**fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PromptFileError(
            f"{path} has unreadable metadata ({error!r}): {text[:200]}"
        ) from error


def _metadata_text(metadata: PromptMetadata) -> str:
    fields = asdict(metadata)
    for name in ("references", "settings"):  # earlier versions do not know them
        if not fields[name]:
            del fields[name]
    if metadata.format_version < ROUNDED:
        del fields["backbone_precision"]
    return json.dumps(fields, sort_keys=True)


def _tool_version() -> str:
    try:
        return importlib.metadata.version("mpt_jax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
