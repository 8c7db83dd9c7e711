"""The prompt file: one member's trained prompts as one ``.safetensors`` that says what it belongs to.

The tensors are one member's parameters as the method names them, so MPT's shared prompt and task
factors are stored apart: a further task costs P*R + R*D numbers. The file's metadata has one
entry, ``mpt_jax_prompt``, a JSON object with the fields of :class:`PromptMetadata`.
"""

import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.method import Method, Params, Sizes
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning

FORMAT_VERSION = 1
METADATA_KEY = "mpt_jax_prompt"
KINDS: dict[str, type[Method]] = {kind.kind: kind for kind in (PromptTuning, MPT)}


class PromptFileError(UserError):
    """A prompt file that cannot be written, read, or used with this backbone."""


@dataclass(frozen=True)
class PromptMetadata:
    """What a prompt file says about itself.

    Attributes:
      kind: the method, ``Method.kind``.
      task_names: K names, in the order of the tensors' task axis.
      length: P. width: D. rank: R of MPT's factors, None for methods without factors.
      backbone_fingerprint, backbone_name: the frozen model that the prompts were trained on.
      vocabulary_fingerprint: of the vocabulary that its token ids come from.
      scores: {task name: {"split/metric": value}} or whatever the run wrote.
      step: training step of the parameters. source_run: directory of the run that wrote them.
      shapes: of the tensors. tool_version: of the writing mpt_jax.
    """

    kind: str
    task_names: tuple[str, ...]
    length: int
    width: int
    rank: int | None
    backbone_fingerprint: str
    backbone_name: str
    vocabulary_fingerprint: str
    scores: Mapping[str, Any]
    step: int | None
    source_run: str | None
    shapes: Mapping[str, tuple[int, ...]]
    tool_version: str
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class PromptFile:
    """A prompt file's tensors (one member's parameters, fp32) and metadata."""

    arrays: dict[str, Float[np.ndarray, "..."]]
    metadata: PromptMetadata

    def prompt(self, task: str | None = None) -> Float[np.ndarray, "P D"]:
        """The finished prompt of a task; the name may be left out where the file holds one task.

        Raises:
          UserError: for a task that the file does not hold, with the nearest names.
        """
        names = self.metadata.task_names
        if task is None:
            if len(names) != 1:
                raise UserError(f"The prompt file holds the tasks {list(names)}; name one of them.")
            task = names[0]
        if task not in names:
            raise unknown_name("task of the prompt file", task, names)
        compose = KINDS[self.metadata.kind].compose
        return np.asarray(compose(self.arrays, names.index(task)))


def save_prompt_file(
    path: str | os.PathLike[str],
    arrays: Params,
    *,
    kind: str,
    task_names: Sequence[str],
    backbone_fingerprint: str,
    backbone_name: str,
    vocabulary_fingerprint: str,
    scores: Mapping[str, Any] | None = None,
    step: int | None = None,
    source_run: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one member's prompts. The file appears whole or not at all.

    Args:
      path: file name ending in ``.safetensors``; its folder is made where missing.
      arrays: one member's parameters at its own length, as ``Method.export(params, m)`` returns
        them.
      kind: ``Method.kind``.
      task_names: as many as the parameters hold tasks.
      overwrite: replace a file that is there already.

    Raises:
      PromptFileError: where the file exists (and not ``overwrite``), or arrays, kind and task names
        do not fit together.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise PromptFileError(f"{path} has to end in .safetensors.")
    if path.exists() and not overwrite:
        raise PromptFileError(f"{path} exists; pass overwrite=True, or choose another name.")
    tensors = {
        name: np.ascontiguousarray(np.asarray(array, np.float32)) for name, array in arrays.items()
    }
    shapes = {name: array.shape for name, array in tensors.items()}
    sizes = _sizes(path, kind, shapes)
    if len(task_names) != sizes.tasks or len(set(task_names)) != sizes.tasks:
        raise PromptFileError(
            f"{path}: {sizes.tasks} prompts need as many different task names, got "
            f"{list(task_names)}."
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
    )
    # One key only: safetensors does not keep the order of several, and files should be
    # reproducible.
    header = {METADATA_KEY: json.dumps(asdict(metadata), sort_keys=True)}
    _write_atomically(path, safetensors.numpy.save(tensors, header))
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
    if not path.is_file():
        raise PromptFileError(f"No prompt file at {path}.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise PromptFileError(
            f"{path} is truncated or not a safetensors file ({error}); copy or export it again."
        ) from error
    if METADATA_KEY not in header:
        raise PromptFileError(
            f"{path} is a safetensors file, but not one of mpt_jax's prompt files: its metadata lacks "
            f"{METADATA_KEY!r} (tensors: {sorted(arrays)}). A PEFT adapter has to be imported first."
        )
    metadata = _parse_metadata(path, header[METADATA_KEY])
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != metadata.shapes:
        raise PromptFileError(
            f"{path} was changed after it was written: its tensors are {shapes}, its metadata says "
            f"{dict(metadata.shapes)}."
        )
    if expect_width is not None and metadata.width != expect_width:
        raise PromptFileError(
            f"{path} holds prompts of width {metadata.width} (backbone {metadata.backbone_name}), but "
            f"this backbone has width {expect_width}."
        )
    if expect_backbone is not None and metadata.backbone_fingerprint != expect_backbone:
        raise PromptFileError(
            f"{path} was trained on the backbone {metadata.backbone_name} with fingerprint "
            f"{metadata.backbone_fingerprint}, but this run's backbone has fingerprint "
            f"{expect_backbone}. Use the backbone that the prompts were trained on, or train them anew."
        )
    return PromptFile(arrays=arrays, metadata=metadata)


def _sizes(path: Path, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    if kind not in KINDS:
        raise unknown_name("prompt method", kind, KINDS)
    sizes = KINDS[kind].sizes(shapes)
    if sizes is None:
        raise PromptFileError(
            f"{path}: {dict(shapes)} are not one member's parameters of {kind}; pass what "
            "Method.export(params, m) returns."
        )
    return sizes


def _parse_metadata(path: Path, text: str) -> PromptMetadata:
    try:
        fields = json.loads(text)
        if (version := fields["format_version"]) != FORMAT_VERSION:
            raise PromptFileError(
                f"{path} has the format version {version}; this mpt_jax ({_tool_version()}) reads "
                f"version {FORMAT_VERSION}, the file was written by {fields.get('tool_version')}."
            )
        fields["task_names"] = tuple(fields["task_names"])
        fields["shapes"] = {name: tuple(shape) for name, shape in fields["shapes"].items()}
        return PromptMetadata(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PromptFileError(
            f"{path} has unreadable metadata ({error!r}): {text[:200]}"
        ) from error


def _tool_version() -> str:
    try:
        return importlib.metadata.version("mpt_jax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
