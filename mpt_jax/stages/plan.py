"""Plan a run before renting: compile a stage's real step for devices that need not be here.

    mpt plan distill --gin_file=models/t5_v1_1_xl.gin --gin_file=runs/distill.gin --model=t5-v1_1-xl \\
        --gin.TRAIN_STEPS=10000 --tasks=6 --topology=v5e:4x4 --topology=v5p:2x2x4

No weights and no examples are read: shapes suffice. For TPUs this needs libtpu (`pip install
'mpt_jax[plan]'`), and no TPU. The exit code is 1 if a step does not fit.
"""

import argparse
import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt_jax import fetched
from mpt_jax.errors import UserError
from mpt_jax.models.formats.loading import open_weights
from mpt_jax.models.segment_attention import check_attention
from mpt_jax.models.t5_config import T5Config
from mpt_jax.models.t5_sizes import SIZES, size_named
from mpt_jax.partitioning import DATA, MODEL, make_mesh
from mpt_jax.places import exists
from mpt_jax.planning.topologies import Topology, prepare, topology_named
from mpt_jax.stages import plan_tables
from mpt_jax.stages.backbone import EMBEDDED, EMBEDDED_FOLDER, BackboneSource
from mpt_jax.stages.plan_search import search
from mpt_jax.stages.plan_step import plan_step
from mpt_jax.stages.planned import Planned, Request, Setting
from mpt_jax.terminal import Output

STAGES = ("teach", "distill", "adapt")
FORM_HELP = {
    "table": "for people (the default)",
    "json": "for programs",
    "markdown": "for documents",
}

# Macros that a run needs and a plan does not.
UNNEEDED = (
    "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TEACHER_DIR", "SOURCE_DIR", "INITIAL_CHECKPOINT_PATH",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", choices=STAGES, help="whose step")
    parser.add_argument(
        "--topology",
        action="append",
        dest="topologies",
        required=True,
        help='TPUs, as v5e:4x4; "cpu:8"; or "device" for what is here. Repeat for more',
    )
    parser.add_argument(
        "--model", help=f"the backbone's shape: a folder, or one of {', '.join(SIZES)}"
    )
    parser.add_argument(
        "--tasks", type=int, help="number of tasks, where their names are not known"
    )
    parser.add_argument(
        "--rows_per_replica",
        type=int,
        help="rows of a batch on each position along `data`, instead of the configured batch size",
    )
    parser.add_argument(
        "--model_axis",
        type=int,
        help="devices along `model`, instead of the configured mesh shape",
    )
    parser.add_argument(
        "--auto",
        action="store_true",
        help="choose mesh shape, rematerialisation and accumulation: the cheapest that fits",
    )
    parser.add_argument(
        "--utilisation",
        type=float,
        help="share of the chip's peak that the hours are reckoned with (0.4)",
    )
    forms = parser.add_mutually_exclusive_group()
    for form in plan_tables.FORMS:
        forms.add_argument(
            f"--{form}", dest="form", action="store_const", const=form, help=FORM_HELP[form]
        )


def run(
    stage: str,
    topologies: Sequence[str],
    settings_of: Callable[[Callable[..., Any]], Mapping[str, Any]],
    model: str | None = None,
    tasks: int | None = None,
    rows_per_replica: int | None = None,
    model_axis: int | None = None,
    auto: bool = False,
    utilisation: float = 0.4,
    form: str = "table",
) -> None:
    """Compiles and reports.

    Args:
        stage: one of STAGES.
        topologies: names, see `mpt_jax.planning.topologies`.
        settings_of: gives the arguments that the configuration binds for a stage's `run`.
        model: a folder, or a name of `mpt_jax.models.t5_sizes`; the configured backbone if None.
        tasks: how many the stage has; needed where the configured backbone is not here.
        rows_per_replica: rows on each position along `data`.
        model_axis: devices along `model`.
        auto: choose what fits and costs least.
        utilisation: for the hours.
        form: "table", "json" or "markdown".

    Raises:
        UserError: a wrong argument, or, when all is printed, a step that does not fit.
    """
    for flag, value in (
        ("tasks", tasks), ("rows_per_replica", rows_per_replica), ("model_axis", model_axis)
    ):  # fmt: skip
        if value is not None and value < 1:
            raise UserError(f"--{flag} is {value}, expected 1 or more.")
    if not 0 < utilisation <= 1:
        raise UserError(
            f"--utilisation is {utilisation:g}, expected a share of the peak: above 0, up to 1."
        )
    prepare(topologies)
    module = importlib.import_module(f"mpt_jax.stages.{stage}")
    settings = dict(settings_of(module.run))
    missing = [name for name in ("training", "data", "prompt_length") if name not in settings]
    if missing:
        raise UserError(
            f"the configuration binds no {missing} of {stage}.run; give the stage's gin file, "
            f"--gin_file=runs/{stage}.gin."
        )
    source: BackboneSource = settings.get("backbone") or BackboneSource()
    taken = inspect.signature(module.designs).parameters.keys() - {"training"}
    name, config = _shape(model, source)
    request = Request(
        stage, module.designs, {key: settings[key] for key in taken & settings.keys()}, name, config,
        _tasks(tasks, settings, source), settings["training"], settings["data"].feature_lengths,
        rows_per_replica, utilisation,
    )  # fmt: skip
    console = Output(stderr=True)
    plans: list[Planned] = []
    for topology_name in topologies:
        topology = topology_named(topology_name)
        check_attention(config.attention, topology.devices[0].platform)
        if not console.is_terminal:  # where nothing turns, minutes of silence look like a fault
            console.print(f"compiling for {topology_name} ...", markup=False)
        with console.status(f"compiling for {topology_name}"):
            if auto:
                plans += search(request, topology, model_axis)
            else:
                setting = _configured(request, source, topology, model_axis)
                plans += plan_step(request, topology, setting)
    plan_tables.FORMS[form](plans)
    if wrong := [plan for plan in plans if not plan.fits]:
        raise UserError(
            f"{len(wrong)} of {len(plans)} steps do not fit: "
            + "; ".join(f"{plan.topology}: {plan.verdict}" for plan in wrong)
        )


def _shape(model: str | None, source: BackboneSource) -> tuple[str, T5Config]:
    """The backbone's name and shape, run as the configuration says."""
    if model is None and source.path is None:
        raise UserError(
            f"the configuration names no backbone; give --model, a folder or one of {list(SIZES)}."
        )
    name = model or source.path
    folder = EMBEDDED_FOLDER if name == EMBEDDED else fetched.backbone(name)
    if folder.is_dir():
        try:
            config = open_weights(folder).config
        except (OSError, ValueError) as error:
            raise UserError(f"The backbone in {folder} cannot be read: {error}") from error
    elif model is not None:
        if "/" in model or model.startswith("."):
            raise UserError(f"--model: there is no folder {model!r}.")
        config = size_named(model)
    else:
        raise UserError(
            f"the backbone {name!r} is no folder here; give --model, a folder or one of {list(SIZES)}."
        )
    return Path(name).name, dataclasses.replace(
        config, dtype=source.dtype, weights=source.weights, scan_layers=source.scan_layers,
        remat=source.remat, attention=source.attention,
    )  # fmt: skip


def _tasks(
    count: int | None, settings: Mapping[str, Any], source: BackboneSource
) -> tuple[str, ...]:
    if count is not None:
        return tuple(f"task{n}" for n in range(count))
    mixture = settings.get("mixture_or_task_name")
    if mixture is None or not (source.path == EMBEDDED or exists(source.path or "")):
        raise UserError("how many tasks? Give --tasks, or a MIXTURE_OR_TASK_NAME and a backbone.")
    data, vocabulary = settings["data"], source.open_vocabulary()
    data.register(settings.get("task_modules", ()), vocabulary)
    return data.tasks_of(mixture, vocabulary)


def _configured(
    request: Request, source: BackboneSource, topology: Topology, model_axis: int | None
) -> Setting:
    shape = source.mesh_shape if model_axis is None else (-1, model_axis)
    mesh = make_mesh(shape, topology.devices)
    return Setting(
        mesh.shape[DATA], mesh.shape[MODEL], request.config.remat, request.training.accumulate
    )
