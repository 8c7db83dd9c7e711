"""Adds and subtracts prompts of one backbone (task prompt vectors): a new plain prompt, untrained.

    mpt combine --prompt=runs/teach:mnli=1 --prompt=runs/teach:qnli=1 --prompt=runs/teach:rte=-1 \\
        --task_name=new --output=new.safetensors
    mpt combine --prompt=distilled.safetensors#mnli=0.5 --prompt=distilled.safetensors#qnli=0.8 \\
        --task_name=new --output=new.safetensors

The result is base + sum of WEIGHT * (prompt - base), where the base is what the prompts were trained
from. Weights that sum to 1 need none. Prompts of MPT files with one and the same shared prompt have
that as their base, if no other is given.

The result answers by itself (`mpt infer`), and training can start from it: `mpt adapt` takes it as
TEACHER_DIR with METHOD="'spot'".
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.arithmetic import combine
from mpt_jax.methods.formats.factors import SHARED
from mpt_jax.methods.prompt_file import PromptFile, save_prompt_file
from mpt_jax.methods.prompt_sources import load_prompts
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.methods.references import digest
from mpt_jax.places import exists
from mpt_jax.stages.prompts import find
from mpt_jax.terminal import Output
from mpt_jax.working_copy import new_output, refuse_existing_output

FORM = "SOURCE[:NAME][#TASK]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        action="append",
        dest="prompts",
        required=True,
        metavar=f"{FORM}=WEIGHT",
        help="a prompt and its weight, which may be negative; repeat for more. SOURCE is a prompt file "
        "or a run directory, NAME one of its files as `mpt show` lists them, TASK one of the file's tasks",
    )
    parser.add_argument("--base", metavar=FORM, help="the prompt that these were trained from")
    parser.add_argument("--task_name", required=True, help="what the new prompt's task is called")
    parser.add_argument("--output", required=True, help="a new file that ends in .safetensors")


class _Chosen(NamedTuple):
    """One prompt: what the user wrote, its file, its task (None: the shared prompt), its numbers [P, D]."""

    text: str
    file: PromptFile
    task: str | None
    prompt: np.ndarray

    @property
    def record(self) -> dict[str, Any]:
        return {"prompt": self.text, "task": self.task, "sha256": digest(self.prompt)}


def run(prompts: Sequence[str], task_name: str, output: str, base: str | None = None) -> None:
    """Writes a prompt file of the kind `prompt_tuning` with one task.

    Args:
        prompts: "SOURCE[:NAME][#TASK]=WEIGHT" each.
        task_name: of the new prompt.
        output: of the new file.
        base: "SOURCE[:NAME][#TASK]"; None where the weights sum to 1, or all prompts are of MPT files
            with the very same shared prompt, which is the base then.

    Raises:
        UserError: no such prompt, prompts of different backbones or shapes, methods whose prompts are no
            matrix, weights that need a base, or `output` exists.
    """
    refuse_existing_output(output)
    pairs = [_weighted(text) for text in prompts]
    chosen, weights = [_choose(text) for text, _ in pairs], [weight for _, weight in pairs]
    given = _choose(base) if base is not None else _common_shared(chosen)
    _check(chosen if given is None else [*chosen, given])
    combined = combine(
        [one.prompt for one in chosen], weights, None if given is None else given.prompt
    )
    origin = {
        "prompts": [
            {**one.record, "weight": weight} for one, weight in zip(chosen, weights, strict=True)
        ],
        "base": None if given is None else given.record,
    }
    about = chosen[0].file.metadata
    with new_output(output) as place:
        save_prompt_file(
            place, {"prompt": combined[None]}, kind=PromptTuning.kind, task_names=(task_name,),
            backbone_fingerprint=about.backbone_fingerprint, backbone_name=about.backbone_name,
            vocabulary_fingerprint=about.vocabulary_fingerprint, scores={"combined_from": origin},
            backbone_precision=about.backbone_precision,
        )  # fmt: skip
    said = "none, the weights sum to 1" if given is None else given.text
    if given is not None and base is None:
        said = f"the shared prompt that all of them have (SHA-256 {digest(given.prompt)[:16]}...)"
    length, width = combined.shape
    Output(soft_wrap=True).print(
        f"{output}: a plain prompt of {length} x {width} for {task_name}, of {len(chosen)} prompts\n"
        f"base: {said}",
        markup=False,
    )


def _weighted(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    try:
        if name:
            return name, float(weight)
    except ValueError:
        pass
    raise UserError(
        f"--prompt={text}: expected {FORM}=WEIGHT, as in runs/teach:mnli=1 or all.safetensors#mnli=-0.5."
    )


def _choose(text: str) -> _Chosen:
    """The prompt that `SOURCE[:NAME][#TASK]` means."""
    place, task = text, None
    if not exists(text) and "#" in text:
        place, _, task = text.rpartition("#")
    file = load_prompts(_path(place))
    if not file.is_matrix or (file.metadata.task_names or task is not None):
        prompt = file.prompt(task)  # raises for what is no matrix
        return _Chosen(text, file, task or file.metadata.task_names[0], prompt)
    return _Chosen(text, file, None, file.arrays[SHARED])


def _path(place: str) -> Path:
    """The file of `SOURCE[:NAME]`. A colon may be part of the path: what exists is the source."""
    ends = [i for i, letter in enumerate(place) if letter == ":" and exists(place[:i])]
    name = None
    source = place
    if not exists(place) and ends:
        source, name = place[: ends[0]], place[ends[0] + 1 :]
    found = find(source)
    if name is not None and name not in found:
        raise unknown_name(f"prompt file in {source}", name, found)
    if name is None and len(found) > 1:
        listed = "".join(f"\n  {source}:{known}" for known in list(found)[:10])
        more = f"\n  ... and {len(found) - 10} more" if len(found) > 10 else ""
        raise UserError(f"{source} holds {len(found)} prompt files; choose one by{listed}{more}")
    return found[name] if name is not None else next(iter(found.values()))


def _common_shared(chosen: Sequence[_Chosen]) -> _Chosen | None:
    """The shared prompt, where all prompts are of MPT files that have the same one."""
    if not all(SHARED in one.file.arrays for one in chosen):
        return None
    if len({digest(one.file.arrays[SHARED]) for one in chosen}) != 1:
        return None
    first = chosen[0]
    return _Chosen(first.text.partition("#")[0], first.file, None, first.file.arrays[SHARED])


def _check(chosen: Sequence[_Chosen]) -> None:
    """All prompts have to be of one backbone and vocabulary."""
    first = chosen[0]
    for one in chosen:
        if one.file.metadata.backbone_fingerprint is None:
            raise UserError(
                f"{one.text} does not say which backbone it is for, as a form of another program. "
                "`mpt import` makes a prompt file of it."
            )
        for what in ("backbone_fingerprint", "vocabulary_fingerprint"):
            here, there = (getattr(other.file.metadata, what) for other in (first, one))
            if here != there:
                raise UserError(
                    f"{first.text} has the {what} {here}, {one.text} has {there}. Only prompts of one "
                    "backbone can be combined."
                )
