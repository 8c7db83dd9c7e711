"""What is asked of `mpt plan`, and what it answers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mpt_jax.models.t5_config import T5Config
from mpt_jax.stages.design import Design
from mpt_jax.stages.training import Training


@dataclasses.dataclass(frozen=True)
class Request:
    """What is planned, whatever the devices.

    Attributes:
        stage: its name.
        designs: its `designs`.
        settings: what `designs` is given besides.
        model: the backbone's name.
        config: its shape and how it runs.
        tasks: names.
        training: of the stage.
        feature_lengths: most tokens of "inputs" and "targets".
        rows_per_replica: rows on each position along `data`; None leaves the configured batch size.
        utilisation: share of the peak that the hours are reckoned with.
    """

    stage: str
    designs: Callable[..., list[Design]]
    settings: Mapping[str, Any]
    model: str
    config: T5Config
    tasks: Sequence[str]
    training: Training
    feature_lengths: Mapping[str, int]
    rows_per_replica: int | None = None
    utilisation: float = 0.4


@dataclasses.dataclass(frozen=True)
class Setting:
    """What may be chosen freely: it changes no number, only memory and time.

    Attributes:
        data, model: devices along the mesh's axes.
        remat: see `T5Config`.
        accumulate: parts of a batch.
    """

    data: int
    model: int
    remat: str
    accumulate: int


@dataclasses.dataclass(frozen=True)
class Planned:
    """What came of it; bytes and FLOPs are of one device and one step unless said otherwise.

    Attributes:
        program: the step's name where a stage has several.
        members: of the fleet.
        rows, inputs, targets: B, T and L of the largest batch.
        arguments, temporaries: None where the compiler refused.
        memory: of a device.
        verdict: "fits", or why it does not.
        useful_flops, executed_flops: matmul; the second with what rematerialisation repeats.
        seconds_at_peak: of the executed ones, None where the chip's peak is unknown.
        collectives: kind -> count and bytes of results.
        largest_gather: bytes of the largest all-gather's result.
        host_memory: bytes of each host, estimated.
        step_seconds, hours, device_hours: with the stated utilisation, of the whole run.
        reason: why this setting, where it was chosen.
    """

    stage: str
    program: str
    model: str
    topology: str
    chip: str
    devices: int
    hosts: int
    setting: Setting
    members: int
    rows: int
    inputs: int
    targets: int
    arguments: int | None
    temporaries: int | None
    memory: float
    verdict: str
    useful_flops: float
    executed_flops: float
    seconds_at_peak: float | None
    collectives: Mapping[str, Mapping[str, int]]
    largest_gather: int
    host_memory: float
    compile_seconds: float
    compile_cpu_seconds: float
    steps: int
    utilisation: float
    step_seconds: float | None
    hours: float | None
    device_hours: float | None
    reason: str = ""

    @property
    def fits(self) -> bool:
        return self.verdict == "fits"
