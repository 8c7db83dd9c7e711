"""Counts what methods train and store, from shapes alone: no weights, no data.

    mpt params
    mpt params t5-base --tasks=8
    mpt params models/my-t5 --gin.METHOD="('mpt', 'bitfit')" --gin.PROMPT_LENGTH=20 --json

MODEL is a name of mpt_jax/models/t5_sizes.py, the folder of a backbone, or 'embedded'.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.method import DoesNotFit
from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.t5_config import T5Config
from mpt_jax.models.t5_sizes import SIZES, size_named
from mpt_jax.places import is_address
from mpt_jax.reporting.layout import NOTHING, Table
from mpt_jax.stages.backbone import EMBEDDED, BackboneSource
from mpt_jax.stages.variants import Variant, build_method, chosen_variants
from mpt_jax.terminal import Output

BYTES = 4  # of a number in a file: fp32


@dataclasses.dataclass(frozen=True)
class Row:
    """What one variant takes for K tasks on one model.

    Attributes:
        variant, method: its name, and the method's.
        multi_target: whether all tasks are learned together.
        trainable: numbers that are trained for all tasks.
        per_task: the same for one of them.
        share: of the backbone's numbers, per task; 0.01 is one per cent.
        files: prompt files, one for each member.
        file_numbers: numbers in each of them, without ATTEMPT's source prompts.
        file_bytes: of these numbers; the file has a header besides.
    """

    variant: str
    method: str
    multi_target: bool
    trainable: int
    per_task: float
    share: float
    files: int
    file_numbers: int
    file_bytes: int


@dataclasses.dataclass(frozen=True)
class NotPossible:
    """A variant that cannot exist on one model, and why."""

    variant: str
    method: str
    multi_target: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Model:
    """All variants on one model."""

    model: str
    parameters: int
    rows: tuple[Row | NotPossible, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", metavar="MODEL", help="sets the macro MODELS")
    parser.add_argument("--tasks", type=int, metavar="K", help="count for so many target tasks")
    parser.add_argument("--json", action="store_true", dest="as_json", help="for other programs")


def run(
    models: Sequence[str],
    variants: tuple[Variant, ...],
    methods: str | Sequence[str] | None = None,
    tasks: int = 1,
    prompt_length: int = 100,
    rank: int = 1,
    as_json: bool = False,
) -> None:
    """Prints trainable and stored numbers of every variant on every model.

    Args:
        models: names of `models.t5_sizes`, folders of backbones, or "embedded".
        variants: methods, as in `adapt.run`.
        methods: names of those that are counted, or one name; all if None.
        tasks: K, target tasks; a multi-target variant divides what its tasks share among them.
        prompt_length: P. rank: R of "mpt"'s factors.
        as_json: print JSON.

    Raises:
        UserError: an unknown model or variant, a number below 1, or the only variant cannot exist on a
            model; one of several is shown as not possible there.
    """
    for name, value in (("tasks", tasks), ("prompt_length", prompt_length), ("rank", rank)):
        if value < 1:
            raise UserError(f"params.run.{name} is {value}; expected 1 or more.")
    chosen = chosen_variants(variants, methods)
    names = (models,) if isinstance(models, str) else models
    counted = [_count(name, chosen, tasks, prompt_length, rank) for name in dict.fromkeys(names)]
    if as_json:
        settings = {"tasks": tasks, "prompt_length": prompt_length, "rank": rank}
        found = {**settings, "models": [dataclasses.asdict(model) for model in counted]}
        print(json.dumps(found, indent=1))
        return
    console = Output()
    for model in counted:
        console.print(_table(model, tasks, prompt_length).rich(console.width))
        for row in model.rows:
            if isinstance(row, NotPossible):
                console.print(f"not possible: {row.reason}", markup=False, soft_wrap=True)


def _count(
    name: str, variants: Sequence[Variant], tasks: int, length: int, rank: int
) -> Model:  # fmt: skip
    config = _config(name)
    parameters = sum(map(math.prod, parameter_shapes(config).values()))
    rows: list[Row | NotPossible] = []
    for variant in variants:
        try:
            rows.append(_row(variant, tasks, length, rank, config, parameters))
        except DoesNotFit as error:
            if len(variants) == 1:
                raise
            rows.append(NotPossible(variant.name, variant.method, variant.multi_target, str(error)))
    return Model(name, parameters, tuple(rows))


def _config(name: str) -> T5Config:
    if name in SIZES:
        return size_named(name)
    if name != EMBEDDED and not (is_address(name) or Path(name).is_dir()):
        raise unknown_name("model, or folder of a backbone", name, [*SIZES, EMBEDDED])
    return BackboneSource(name).open_config()


def _row(
    variant: Variant, tasks: int, length: int, rank: int, config: T5Config, parameters: int
) -> Row:
    together = tasks if variant.multi_target else 1
    method = build_method(variant, 1, together, length, rank, config)
    members = tasks // together
    per_task = method.count() / together
    stored = sum(map(math.prod, method.shapes().values()))
    return Row(
        variant.name, variant.method, variant.multi_target, members * method.count(), per_task,
        per_task / parameters, members, stored, BYTES * stored,
    )  # fmt: skip


def _table(model: Model, tasks: int, length: int) -> Table:
    for_all = f"{tasks} task" + ("s" if tasks > 1 else "")
    table = Table(
        f"{model.model}: {model.parameters:,} parameters; {for_all}, P = {length}",
        ["variant", f"for {for_all}", "a task", "share", "bytes of a file"],
        "Trained numbers; share: a task's, of the backbone's. A file has a header of some hundred bytes "
        "besides, and holds what stays frozen too, unless it refers to another file. ATTEMPT's hold P x D "
        "numbers more for each source prompt; how many there are is not known here.",
    )
    for row in model.rows:
        if isinstance(row, NotPossible):
            table.add(row.variant, "not possible", NOTHING, NOTHING, NOTHING)
            continue
        table.add(
            row.variant, f"{row.trainable:,}", f"{row.per_task:,.0f}", f"{row.share:.4%}",
            f"{row.file_bytes:,}",
        )  # fmt: skip
    return table
