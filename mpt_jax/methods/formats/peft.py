"""Adapter folders of Hugging Face's PEFT: prompt tuning, multitask prompt tuning, and LoRA.

A folder holds `adapter_config.json` and the tensors in `adapter_model.safetensors` (older ones:
`adapter_model.bin`). `tasks.json` is ours: PEFT knows its tasks by number alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Shaped

from mpt_jax.errors import unknown_name
from mpt_jax.methods.formats import peft_lora
from mpt_jax.methods.formats.foreign import foreign_prompts
from mpt_jax.methods.formats.torch_archive import read_archive
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_file import PromptFile, PromptFileError
from mpt_jax.methods.prompt_method import PromptMethod
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.methods.tensor_file import read_tensors
from mpt_jax.whole_files import file_names, new_folder, write_whole

WHAT = "a PEFT adapter folder with adapter_config.json"
CONFIG, WEIGHTS, PICKLED, TASKS = (
    "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "tasks.json",
)  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """One of PEFT's methods in terms of ours.

    Attributes:
      method: ours.
      tensors: PEFT's name -> ours.
      multitask: whether the tensors have room for several tasks.
    """

    method: type[PromptMethod]
    tensors: Mapping[str, str]
    multitask: bool


ADAPTERS = {
    "PROMPT_TUNING": Adapter(PromptTuning, {"prompt_embeddings": "prompt"}, multitask=False),
    "MULTITASK_PROMPT_TUNING": Adapter(
        MPT,
        {"prompt_embeddings": "shared", "prefix_task_cols": "u", "prefix_task_rows": "v"},
        multitask=True,
    ),
}


def recognises(path: Path) -> bool:
    """Whether `path` is an adapter's folder or the file of its tensors."""
    return (path / CONFIG).is_file() or (
        path.name in (WEIGHTS, PICKLED) and (path.parent / CONFIG).is_file()
    )


def read(path: Path) -> PromptFile:
    """The prompts for the encoder, or LoRA's updates.

    An adapter may hold prompts for the decoder behind those for the encoder (two "transformer
    submodules", PEFT's default for T5). They are left out, with a note: T5's decoder gets no prompt
    here, nor in PEFT's own `generate`.

    Raises:
      UserError: another method's adapter, one for other than encoder-decoder models, tensors that do
        not fit the configuration, or a damaged file.
    """
    folder = path if path.is_dir() else path.parent
    config = _read_config(folder / CONFIG)
    found = _read_weights(folder)
    if config["peft_type"] == peft_lora.PEFT_TYPE:
        (task,) = _task_names(folder, 1) or [folder.resolve().name]
        return peft_lora.read(folder, config, found, task)
    adapter = ADAPTERS[config["peft_type"]]
    if set(found) != set(adapter.tensors):
        raise PromptFileError(
            f"{folder}: the tensors of a {config['peft_type']} adapter are {sorted(adapter.tensors)}, but "
            f"this one holds {sorted(found)}; layers that were trained beside the prompt are not read."
        )
    arrays = {ours: found[theirs] for theirs, ours in adapter.tensors.items()}
    if not adapter.multitask:
        arrays = {name: array[None] for name, array in arrays.items()}
    sizes = adapter.method.sizes({name: array.shape for name, array in arrays.items()})
    if sizes is None:
        shapes = {name: array.shape for name, array in found.items()}
        raise PromptFileError(f"{folder}: the tensors' shapes {shapes} do not fit each other.")
    length, submodules = _length(folder, config, sizes.length)
    for key, size in (("token_dim", sizes.width), ("num_tasks", sizes.tasks)):
        if isinstance(config.get(key), int) and config[key] != size:
            raise PromptFileError(
                f"{folder}: {key} is {config[key]} in {CONFIG}, but {size} by the tensors' shapes."
            )
    notes = []
    if submodules == 2:
        arrays = {k: np.asarray(a) for k, a in adapter.method.cut(arrays, length).items()}
        notes.append(
            f"{folder} holds {length} slots for the encoder and {length} for the decoder; only the "
            "encoder's are taken."
        )
    names = _task_names(folder, sizes.tasks)
    if names is None:
        names = [folder.resolve().name]
        if sizes.tasks > 1:
            names = [f"task{k}" for k in range(sizes.tasks)]
            notes.append(
                f"{folder} does not name its {sizes.tasks} tasks; they are called task0 ..."
            )
    base = config.get("base_model_name_or_path")
    return foreign_prompts(
        folder, arrays, kind=adapter.method.kind, task_names=names, notes=notes,
        base_model=base if isinstance(base, str) else None,
    )  # fmt: skip


def write(prompts: PromptFile, output: Path, base_model: str | None = None) -> list[str]:
    """Writes an adapter folder that PEFT loads on the same model; prompts for the encoder, one submodule.

    MPT keeps all its tasks in one adapter, by number (`task_ids`) in their order. Prompt tuning has
    one task in an adapter; several become a folder of adapters.

    Args:
      base_model: the model's name or path, for PEFT's `AutoPeftModel...`; others give the model.

    Raises:
      UserError: a method that PEFT lacks, or something is at `output` already.
    """
    kind, names = prompts.metadata.kind, prompts.metadata.task_names
    if kind == peft_lora.KIND:
        with new_folder(output) as folder:
            config = {"peft_type": peft_lora.PEFT_TYPE, **peft_lora.configuration(prompts)}
            _write_folder(folder, config, peft_lora.tensors(prompts), prompts, base_model)
        return [f"{', '.join(names)}: {output}"]
    types = {adapter.method.kind: peft_type for peft_type, adapter in ADAPTERS.items()}
    if kind not in types:
        raise PromptFileError(
            f"PEFT has no adapter for the method {kind}, only for {', '.join(types)} and {peft_lora.KIND}. "
            + (
                "`mpt merge` makes plain prompts of it."
                if prompts.is_matrix
                else "--format=hf writes whole models, of methods that are all in a T5's weights."
            )
        )
    peft_type = types[kind]
    multitask = ADAPTERS[peft_type].multitask
    with new_folder(output) as folder:
        if multitask or len(names) == 1:
            _write_adapter(folder, peft_type, prompts, base_model)
        else:
            for task, name in file_names(names).items():
                _write_adapter(folder / name, peft_type, prompts.take([task]), base_model)
    if multitask:
        return [f"task_ids {k}: {task}" for k, task in enumerate(names)]
    if len(names) == 1:
        return [f"{names[0]}: {output}"]
    return [f"{task}: {output / name}" for task, name in file_names(names).items()]


def _write_adapter(
    folder: Path, peft_type: str, prompts: PromptFile, base_model: str | None
) -> None:
    adapter, about = ADAPTERS[peft_type], prompts.metadata
    config: dict[str, Any] = {
        "peft_type": peft_type,
        "num_virtual_tokens": about.length,
        "token_dim": about.width,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",  # what is drawn is replaced by the tensors at once
    }
    tensors = {theirs: prompts.arrays[ours] for theirs, ours in adapter.tensors.items()}
    if adapter.multitask:
        config |= {"num_tasks": len(about.task_names), "num_ranks": about.rank}
    else:
        tensors = {name: array[0] for name, array in tensors.items()}
    _write_folder(folder, config, tensors, prompts, base_model)


def _write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray],
    prompts: PromptFile, base_model: str | None,
) -> None:  # fmt: skip
    about = prompts.metadata
    common = {
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
    }
    listed = {
        "tasks": list(about.task_names),
        "backbone_name": about.backbone_name,
        "backbone_fingerprint": about.backbone_fingerprint,
    }
    stored = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    # PEFT insists on the metadata.
    write_whole(folder / WEIGHTS, safetensors.numpy.save(stored, {"format": "pt"}))
    for name, content in ((CONFIG, common | dict(config)), (TASKS, listed)):
        write_whole(folder / name, (json.dumps(content, indent=2) + "\n").encode())


def _read_config(path: Path) -> dict[str, Any]:
    config = _read_json(path)
    if not isinstance(config, dict):
        raise PromptFileError(f"{path} is not the configuration of an adapter.")
    peft_type = config.get("peft_type")
    known = (*ADAPTERS, peft_lora.PEFT_TYPE)
    if peft_type not in known:
        raise unknown_name(f"PEFT method in {path},", str(peft_type), known)
    if config.get("task_type") not in ("SEQ_2_SEQ_LM", None):
        raise PromptFileError(
            f"{path}: task_type is {config['task_type']!r}, expected 'SEQ_2_SEQ_LM': the adapter is for "
            "another kind of model than T5."
        )
    return config


def _length(folder: Path, config: Mapping[str, Any], rows: int) -> tuple[int, int]:
    """P and the number of submodules, from the configuration and the tensors' number of slots."""
    length, submodules = config.get("num_virtual_tokens"), config.get("num_transformer_submodules")
    if not isinstance(length, int) or length < 1 or rows not in (length, 2 * length):
        raise PromptFileError(
            f"{folder}: num_virtual_tokens is {length!r}, but the tensors have {rows} slots; expected as "
            "many, or twice as many (encoder and decoder)."
        )
    if submodules not in (None, rows // length):
        raise PromptFileError(
            f"{folder}: num_transformer_submodules is {submodules!r}, but there are {rows} slots for "
            f"{length} virtual tokens."
        )
    return length, rows // length


def _read_weights(folder: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    if (folder / WEIGHTS).is_file() or not (folder / PICKLED).is_file():
        return read_tensors(folder / WEIGHTS)[1]
    found = read_archive(folder / PICKLED)
    return found if isinstance(found, dict) else {"a tensor without a name": found}


def _task_names(folder: Path, count: int) -> list[str] | None:
    """The names in our tasks.json; None where there is none."""
    if not (folder / TASKS).is_file():
        return None
    listed = _read_json(folder / TASKS)
    names = listed.get("tasks") if isinstance(listed, dict) else None
    if isinstance(names, list) and len(names) == count and all(isinstance(n, str) for n in names):
        if len(set(names)) == count:
            return names
    raise PromptFileError(
        f"{folder / TASKS} has to list {count} different task names under 'tasks', got {names!r:.200}."
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PromptFileError(f"{path} cannot be read ({error!r:.200}).") from error
