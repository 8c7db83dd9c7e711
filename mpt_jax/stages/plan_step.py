"""One stage's step on one topology: compiled from shapes, and what it needs in numbers."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mpt_jax.errors import UserError
from mpt_jax.methods.bank import AnyBank
from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.placement import placed_shapes
from mpt_jax.models.t5 import Transformer
from mpt_jax.models.t5_config import T5Config
from mpt_jax.partitioning import batch_sharding, make_mesh, replicated
from mpt_jax.planning.collectives import by_kind
from mpt_jax.planning.costs import Work, step_seconds
from mpt_jax.planning.matmul_flops import Shape
from mpt_jax.planning.measured import Compiled, Refused, compile_step
from mpt_jax.planning.topologies import Topology
from mpt_jax.stages.design import Design, build_step, parameter_shapes_of
from mpt_jax.stages.planned import Planned, Request, Setting
from mpt_jax.stages.training import Training
from mpt_jax.training.distillation import TEACHER_TOKENS
from mpt_jax.training.step import init_state

ENCODER_MULTIPLE, DECODER_MULTIPLE = 8, 4  # of the length buckets, see data/buckets.py
PROCESS_BYTES = 1.0e9  # Python with JAX, and TensorFlow while token stores are filled
BATCHES_HELD = 6  # four ahead, one in use, one being built


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A step that could be compiled."""

    design: Design
    training: Training
    config: T5Config
    mesh: Mesh
    batch: Mapping[str, jax.ShapeDtypeStruct]
    work: Work


def prepare_steps(request: Request, topology: Topology, setting: Setting) -> list[Prepared]:
    """The stage's steps with everything but compilation.

    Raises:
        UserError: the setting does not fit the backbone, the batch or the devices.
    """
    mesh = make_mesh((setting.data, setting.model), topology.devices)
    config = dataclasses.replace(request.config, remat=setting.remat)
    training = dataclasses.replace(request.training, accumulate=setting.accumulate)
    network = Transformer(config, mesh=mesh)
    found = []
    for design in request.designs(network, request.tasks, training, mesh, **request.settings):
        rows = _rows(request, design.bank.members, setting)
        batch = _batch(request, design, rows, mesh)
        shape = Shape(
            rows, batch["encoder_input_tokens"].shape[1], batch["decoder_input_tokens"].shape[1]
        )
        work = Work(
            config, shape,
            teacher=TEACHER_TOKENS in batch,
            of_weights=any(method.logical_axes() for method in design.bank.methods),
        )  # fmt: skip
        found.append(Prepared(design, training, config, mesh, batch, work))
    return found


def plan_step(
    request: Request, topology: Topology, setting: Setting, reason: str = ""
) -> list[Planned]:
    """Compiles the stage's steps, one for each of its designs."""
    return [
        _described(request, topology, setting, step, _compiled(step), reason)
        for step in prepare_steps(request, topology, setting)
    ]


def _compiled(prepared: Prepared) -> Compiled | Refused:
    design, mesh = prepared.design, prepared.mesh
    params = parameter_shapes_of(design.bank)
    step, optimizer, layout = build_step(design, params, prepared.training, mesh)
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer), params)
    frozen = design.objective.frozen(placed_shapes(prepared.config, mesh))
    return compile_step(step, _lay(state, layout), _lay_unplaced(frozen, mesh), prepared.batch)


def _lay(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def _lay_unplaced(tree: Any, mesh: Mesh) -> Any:
    """What lies nowhere yet (the teachers) has a copy on every device."""
    everywhere = replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding or everywhere
        ),
        tree,
    )


def _rows(request: Request, members: int, setting: Setting) -> int:
    per_replica = request.rows_per_replica
    rows = (
        request.training.rows_per_member * members
        if per_replica is None
        else per_replica * setting.data
    )
    if rows % members or rows % setting.data or (rows // setting.data) % setting.accumulate:
        raise UserError(
            f"a batch of {rows} rows for {members} members does not divide over {setting.data} devices "
            f"along 'data' and {setting.accumulate} parts; choose a BATCH_SIZE (or --rows_per_replica) "
            "that does."
        )
    return rows


def _batch(
    request: Request, design: Design, rows: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """The largest batch of the run: every row as long as examples may be."""
    packed = request.training.packed_lengths
    if packed is None:
        text, target = request.feature_lengths["inputs"], request.feature_lengths["targets"]
        T = _multiple(_prompt_length(design.bank) + text, ENCODER_MULTIPLE)
        L = _multiple(target, DECODER_MULTIPLE)
    else:
        T, L = packed
    arrays = {
        "encoder_input_tokens": np.zeros((rows, T), np.int32),
        "decoder_loss_weights": np.zeros((rows, L), np.float32),
    }
    names = ("decoder_input_tokens", "decoder_target_tokens", "member_ids", "task_ids")
    arrays |= {name: np.zeros((rows, L), np.int32) for name in names}
    if packed is not None:
        arrays["encoder_segment_ids"] = np.zeros((rows, T), np.int32)
        arrays["decoder_segment_ids"] = np.zeros((rows, L), np.int32)
    shapes = {name: (array.shape, array.dtype) for name, array in design.extend(arrays).items()}
    for name, field in design.recorded.items():
        positions = {"encoder": T, "decoder": L}[field.side]
        shapes[name] = ((rows, positions, *field.shape), field.dtype)
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }


def _prompt_length(bank: AnyBank) -> int:
    return max(
        len(bank.virtual_ids(i, m))
        for i, method in enumerate(bank.methods)
        for m in range(method.members)
    )


def _multiple(length: int, of: int) -> int:
    return -(-length // of) * of


def _described(
    request: Request, topology: Topology, setting: Setting, prepared: Prepared,
    compiled: Compiled | Refused, reason: str,
) -> Planned:  # fmt: skip
    chip, work, steps = topology.chip, prepared.work, prepared.training.steps
    devices = setting.data * setting.model
    executed = work.executed / devices
    at_peak = executed / chip.peak if chip.peak else None
    seconds = at_peak / request.utilisation if at_peak else None
    fitting = isinstance(compiled, Compiled)
    found = compiled.collectives if isinstance(compiled, Compiled) else ()
    memory = compiled.memory if isinstance(compiled, Compiled) else None
    verdict = "fits"
    if isinstance(compiled, Refused):
        verdict = compiled.reason
    elif memory is not None and memory > chip.memory:
        verdict = f"needs {memory / 1e9:.1f} GB of {chip.memory / 1e9:.0f} GB"
    return Planned(
        stage=request.stage, program=prepared.design.name, model=request.model,
        topology=topology.name, chip=chip.name, devices=devices, hosts=topology.hosts,
        setting=setting, members=prepared.design.bank.members,
        rows=work.shape.rows, inputs=work.shape.inputs, targets=work.shape.targets,
        arguments=compiled.arguments if isinstance(compiled, Compiled) else None,
        temporaries=compiled.temporaries if isinstance(compiled, Compiled) else None,
        memory=chip.memory, verdict=verdict,
        useful_flops=work.useful / devices, executed_flops=executed, seconds_at_peak=at_peak,
        collectives={kind: dataclasses.asdict(total) for kind, total in by_kind(found).items()},
        largest_gather=max(
            (max(one.sizes) for one in found if one.kind == "all-gather"), default=0
        ),
        host_memory=_host_memory(topology, prepared, memory if fitting else None),
        compile_seconds=compiled.seconds, compile_cpu_seconds=compiled.cpu_seconds,
        steps=steps, utilisation=request.utilisation, step_seconds=seconds,
        hours=seconds * steps / 3600 if seconds else None,
        device_hours=seconds * steps / 3600 * devices if seconds else None,
        reason=reason,
    )  # fmt: skip


def _host_memory(topology: Topology, prepared: Prepared, device_memory: int | None) -> float:
    """Of one host at its peak: weights come one at a time, the vocabulary's table stays in float32."""
    config = prepared.config
    largest = max(math.prod(shape) for shape in parameter_shapes(config).values())
    table = config.vocab_size * config.emb_dim * 4
    batch = sum(math.prod(x.shape) * x.dtype.itemsize for x in prepared.batch.values())
    trained = sum(
        math.prod(x.shape) * 4 for x in jax.tree.leaves(parameter_shapes_of(prepared.design.bank))
    )
    # A weight as stored and as cast; the trained tree, its moments and the best so far in a checkpoint.
    total = PROCESS_BYTES + 2 * 4 * largest + table + BATCHES_HELD * batch / topology.hosts
    total += 4 * trained
    if topology.chip.name == "CPU" and device_memory is not None:
        total += device_memory * len(topology.devices) / topology.hosts
    return total


def estimated_seconds(topology: Topology, setting: Setting, work: Work) -> float:
    """What `costs.step_seconds` says of a setting."""
    return step_seconds(work, topology.chip, setting.data, setting.model, setting.accumulate)
