"""`mpt plan --auto`: mesh shape, rematerialisation and accumulation by trying, the cheapest first."""

import dataclasses

from mpt_jax.errors import UserError
from mpt_jax.models.t5_config import REMAT_POLICIES
from mpt_jax.planning.costs import weight_bytes
from mpt_jax.planning.topologies import Topology
from mpt_jax.stages.plan_step import estimated_seconds, plan_step, prepare_steps
from mpt_jax.stages.planned import Planned, Request, Setting

MOST_PARTS = 8


def search(request: Request, topology: Topology, model_axis: int | None = None) -> list[Planned]:
    """The steps in the cheapest setting in which all of them fit, or in the last one tried.

    Args:
        model_axis: devices along `model`; every power of two that divides the devices is tried if None.

    Raises:
        UserError: no setting divides the batch and the backbone over the devices.
    """
    candidates, skipped = _candidates(request, topology, model_axis)
    if not candidates:
        raise UserError(
            f"{topology.name}: no mesh shape fits: {'; '.join(skipped) or 'nothing divides'}."
        )
    tried, plans = list(skipped), []
    for seconds, setting in candidates:
        reason = f"{_words(setting)} is the {_best(topology, seconds)}"
        plans = plan_step(request, topology, setting, "; ".join([reason, *tried]))
        wrong = [plan.verdict for plan in plans if not plan.fits]
        if not wrong:
            return plans
        tried.append(f"{_words(setting)} does not fit ({wrong[0]})")
    reason = "; ".join(["nothing fits", *tried])
    return [dataclasses.replace(plan, reason=reason) for plan in plans]


def _candidates(
    request: Request, topology: Topology, model_axis: int | None
) -> tuple[list[tuple[float, Setting]], list[str]]:
    """Settings by the estimated time of a row, and why whole mesh shapes were left out."""
    devices, chip = len(topology.devices), topology.chip
    found: list[tuple[float, float, int, Setting]] = []
    skipped: list[str] = []
    axes = [model_axis] if model_axis else [2**n for n in range(devices.bit_length())]
    for model in axes:
        if devices % model:
            continue
        part = weight_bytes(request.config) / model
        if part > chip.memory:
            skipped.append(
                f"model={model} leaves {part / 1e9:.1f} GB of weights on {chip.memory / 1e9:.0f} GB"
            )
            continue
        for remat in REMAT_POLICIES:
            for parts in range(1, MOST_PARTS + 1):
                setting = Setting(devices // model, model, remat, parts)
                try:
                    steps = prepare_steps(request, topology, setting)
                except UserError:
                    continue
                seconds = sum(estimated_seconds(topology, setting, step.work) for step in steps)
                rows = sum(step.work.shape.rows for step in steps)
                found.append((seconds / rows, seconds, parts, setting))
    found.sort(key=lambda one: (one[0], one[2]))
    return [(seconds, setting) for _, seconds, _, setting in found], skipped


def _best(topology: Topology, seconds: float) -> str:
    if topology.chip.peak is None:
        return "first that fits; nothing says which is the fastest, as the chip's figures are not known"
    return f"cheapest that fits (at least {1e3 * seconds:.3g} ms a step)"


def _words(setting: Setting) -> str:
    parts = f", {setting.accumulate} parts" if setting.accumulate > 1 else ""
    return f"data={setting.data} model={setting.model} remat={setting.remat}{parts}"
