"""LoRA in PEFT's adapter folders: names of tensors, and what of PEFT's configuration is understood."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mpt_jax.methods.formats.foreign import foreign_prompts
from mpt_jax.methods.prompt_file import PromptFile, PromptFileError
from mpt_jax.models.formats.hf_names import hf_tensor, path_of

KIND, PEFT_TYPE = "lora", "LORA"
FACTORS = {"lora_a": "lora_A", "lora_b": "lora_B"}
_TENSOR = re.compile(r"base_model\.model\.(.+)\.(lora_[AB])\.weight")
# What PEFT can do besides, with the values under which it does not.
_PLAIN: dict[str, Any] = {
    "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False,
    "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "layers_to_transform": None,
}  # fmt: skip


def read(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    task: str,
) -> PromptFile:  # fmt: skip
    """The parameters of :class:`mpt_jax.methods.lora.LoRA`.

    Args:
      config: of adapter_config.json.
      tensors: by PEFT's names.
      task: what its one task is called.

    Raises:
      UserError: a variant of LoRA that is not ours, or tensors that are not a T5's.
    """
    for key, plain in _PLAIN.items():
        if config.get(key) not in (plain, None):
            raise PromptFileError(
                f"{folder}: {key} is {config[key]!r}; only plain LoRA is read, where it is {plain!r}."
            )
    arrays = {}
    targets = set()
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        path = None if match is None else path_of(f"{match[1]}.weight")
        if match is None or path is None or not path.endswith("/kernel") or tensor.ndim != 2:
            raise PromptFileError(
                f"{folder}: the tensor {name} {tensor.shape} is not LoRA's of a layer of T5 that can be "
                "read; expected names like base_model.model.encoder.block.0.layer.0.SelfAttention.q."
                "lora_A.weight."
            )
        layer = path.removesuffix("/kernel")
        targets.add(layer.rpartition("/")[2])
        arrays[f"{layer}/{match[2].lower()}"] = tensor.T
    rank, alpha = config.get("r"), config.get("lora_alpha")
    wrong = [
        name
        for name, array in arrays.items()
        if array.shape[1 if name.endswith("lora_a") else 0] != rank
    ]
    if wrong or not arrays or not isinstance(alpha, int | float):
        raise PromptFileError(
            f"{folder}: r is {rank!r} and lora_alpha {alpha!r} by its configuration, which does not fit "
            f"the {len(arrays)} tensors"
            + (f", e.g. {wrong[0]} {arrays[wrong[0]].shape}." if wrong else ".")
        )
    base = config.get("base_model_name_or_path")
    return foreign_prompts(
        folder, arrays, kind=KIND, task_names=[task],
        base_model=base if isinstance(base, str) else None,
        settings={"rank": rank, "alpha": float(alpha), "targets": sorted(targets)},
    )  # fmt: skip


def configuration(prompts: PromptFile) -> dict[str, Any]:
    """What adapter_config.json says of LoRA."""
    settings = prompts.metadata.settings
    modules = {_tensor(name).rsplit(".", 3)[1] for name in prompts.arrays}
    return {
        "r": settings["rank"],
        "lora_alpha": settings["alpha"],
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        **_PLAIN,
    }


def tensors(prompts: PromptFile) -> dict[str, np.ndarray]:
    """Under PEFT's names, [out, in] as torch has them."""
    return {_tensor(name): array.T for name, array in prompts.arrays.items()}


def _tensor(name: str) -> str:
    layer, _, factor = name.rpartition("/")
    hf = hf_tensor(f"{layer}/kernel").name.removesuffix(".weight")
    return f"base_model.model.{hf}.{FACTORS[factor]}.weight"
