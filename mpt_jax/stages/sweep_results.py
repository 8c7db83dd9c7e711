"""From a sweep's ledger to what its report needs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mpt_jax.data import scoring
from mpt_jax.data.tasks import list_tasks
from mpt_jax.reporting.sweep.records import Sweep, TrialRecord
from mpt_jax.stages.backbone import BackboneSource
from mpt_jax.stages.data import Data
from mpt_jax.stages.fleet import limit
from mpt_jax.stages.sweep_runs import Plan
from mpt_jax.stages.sweep_space import Range
from mpt_jax.stages.sweep_trial import Trial


def gather(plan: Plan, trials: Sequence[Trial], data: Data, backbone: BackboneSource) -> Sweep:
    """The records of all trials, whoever trained them."""
    setup, settings = plan.setup, plan.settings
    frozen = backbone.open()
    targets: dict[str, dict[str, Any]] = {}
    for task in plan.targets:
        examples = limit(data.open(task, "validation"), setup.validation_examples)
        majority = scoring.majority_score(task, examples)
        (summary,) = list_tasks(task)
        targets[task] = {
            "metric": summary.metrics[0] if summary.metrics else "none",
            "majority": next(iter(majority.values()), None),
            "examples": len(examples),
        }
    used = dict.fromkeys(t.setting.sources for t in trials if t.setting is not None)
    about = {
        name: value
        for name, value in setup.told.items()
        if name not in ("sources", "targets") or isinstance(value, str)
    }
    return Sweep(
        backbone={
            "name": frozen.name, "fingerprint": frozen.fingerprint,
            "parameters": frozen.num_parameters,
        },
        base=dataclasses.asdict(settings.base),
        axes={
            name: dataclasses.asdict(values) if isinstance(values, Range) else list(values)
            for name, values in settings.axes.items()
        },
        mixtures={name: list(settings.mixtures[name]) for name in used},
        targets=targets,
        about=about,
        trials=[
            TrialRecord(
                number=trial.number, state=trial.state, setting=dataclasses.asdict(trial.setting),
                rows=[dict(row) for row in trial.rows], source_score=trial.source_score,
                seconds=trial.seconds, reason=trial.reason,
            )
            for trial in trials
            if trial.setting is not None
        ],
    )  # fmt: skip
