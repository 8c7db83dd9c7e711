"""Devices to plan for: TPUs that are not here, forced CPU devices, or what is here."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from mpt_jax.absent_tpu import ENVIRONMENT
from mpt_jax.errors import UserError
from mpt_jax.planning.chips import CHIPS, Chip

DEVICE = "device"
FORMS = (
    'expected a TPU\'s, as "v5e:4x4" or "v5p:2x2x4", several slices of one, as "2xv5e:4x4", "cpu:8", or '
    '"device" for what is here'
)
# Kinds of TPU: dimensions of the torus and chips of a pod (Google Cloud's pages, see chips.py). libtpu takes
# more, and then aborts the process.
_LARGEST = {
    "v3": (2, 1024), "v4": (3, 4096), "v5e": (2, 256), "v5p": (3, 8960), "v6e": (2, 256), "tpu7x": (3, 9216),
}  # fmt: skip
_MEGACORE = ("v4",)  # the two cores of a chip are one device, as Cloud's machines show them
_TPU = re.compile(
    rf"(?:(?P<slices>[1-9]\d*)x)?(?P<slice>(?P<kind>{'|'.join(_LARGEST)}):\d+(x\d+)*)"
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        name: as it was asked for.
        devices: of a mesh; TPUs may be mere descriptions.
        chip: what each of them can do.
        hosts: processes that the devices belong to.
    """

    name: str
    devices: Sequence[Any]
    chip: Chip

    @property
    def hosts(self) -> int:
        return len({device.process_index for device in self.devices})


def prepare(names: Sequence[str]) -> None:
    """Settings of this process that the topologies need; call it before JAX has looked for devices.

    Raises:
        UserError: a name of no known form, or too few CPU devices where JAX has counted them already.
    """
    for name in names:
        if not (name == DEVICE or re.fullmatch(r"cpu:[1-9]\d*", name) or _TPU.fullmatch(name)):
            raise _unknown(name)
    if any(map(_TPU.fullmatch, names)):
        # Several plans may run at once; no TPU is opened.
        for variable, value in (ENVIRONMENT | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}).items():
            os.environ.setdefault(variable, value)
    # A program from the cache would say nothing of how long compiling takes.
    jax.config.update("jax_enable_compilation_cache", False)
    wanted = max(
        (int(name.partition(":")[2]) for name in names if name.startswith("cpu:")), default=0
    )
    try:
        if DEVICE not in names:
            jax.config.update("jax_platforms", "cpu")
        if wanted:
            jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:  # JAX has looked for devices, as in a notebook or a test
        pass
    if wanted > len(jax.devices("cpu")):
        raise UserError(
            f"topology: got cpu:{wanted}, but this process has {len(jax.devices('cpu'))} CPU devices "
            "already; plan in a process of its own (`mpt plan`)."
        )


def topology_named(name: str) -> Topology:
    """The devices of a topology that `prepare` was told of.

    Raises:
        UserError: libtpu is missing, or knows no such topology.
    """
    if name == DEVICE:
        return _present(name, jax.devices())
    kind, _, size = name.partition(":")
    if kind == "cpu":
        return _present(name, jax.devices("cpu")[: int(size)])
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"topology {name}: compiling for a TPU without one needs libtpu (213 MB; Linux on x86-64): "
            "pip install 'mpt_jax[plan]'."
        )
    asked = _TPU.fullmatch(name)
    if asked is None:
        raise _unknown(name)
    _check_slice(name, asked["kind"], asked["slice"])
    options: dict[str, Any] = {}
    if asked["slices"]:
        options["num_slices"] = int(asked["slices"])
    if asked["kind"] in _MEGACORE:
        options["chip_config_name"] = "megacore"
    try:
        found = topologies.get_topology_desc(asked["slice"], platform="tpu", **options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"topology: libtpu knows no {name!r} ({error}); {FORMS}.") from error
    devices: list[Any] = list(found.devices)
    return Topology(name, devices, CHIPS[devices[0].device_kind])


def _unknown(name: str) -> UserError:
    return UserError(f"topology: got {name!r}, {FORMS}. Kinds: {', '.join(_LARGEST)}.")


def _check_slice(name: str, kind: str, of: str) -> None:
    """Raises UserError for a slice that no pod of its kind has."""
    dimensions, chips = _LARGEST[kind]
    sides = [int(side) for side in of.partition(":")[2].split("x")]
    while len(sides) > 2 and sides[-1] == 1:
        sides.pop()
    if len(sides) > dimensions:
        raise UserError(
            f"topology {name}: the chips of {kind} lie in {dimensions} dimensions, not {len(sides)}."
        )
    if math.prod(sides) > chips:
        raise UserError(
            f"topology {name}: a pod of {kind} has {chips} chips, not {math.prod(sides)}; several slices "
            f"work together as one machine: 2x{kind}:..."
        )


def _present(name: str, devices: Sequence[jax.Device]) -> Topology:
    first = devices[0]
    if first.platform == "cpu":
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Topology(name, devices, Chip("CPU", whole / len(devices)))
    if first.device_kind in CHIPS:
        return Topology(name, devices, CHIPS[first.device_kind])
    limit = (first.memory_stats() or {}).get("bytes_limit", 0)
    return Topology(name, devices, Chip(first.device_kind, float(limit)))
