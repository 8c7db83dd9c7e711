"""Compiling a step for devices and asking the executable what it needs."""

import dataclasses
import re
import time
from typing import Any

import jax

from mpt_jax.planning.collectives import Collective, collectives
from mpt_jax.planning.program_text import CompiledText


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What one device needs for a step.

    Attributes:
        arguments: bytes of weights, state and batch; they stay.
        temporaries: bytes of everything else at the step's peak, results that are not written over
            arguments included.
        code: bytes of the program itself.
        collectives: of a step.
        seconds: that lowering and compiling took.
        cpu_seconds: of this process meanwhile.
    """

    arguments: int
    temporaries: int
    code: int
    collectives: tuple[Collective, ...]
    seconds: float
    cpu_seconds: float

    @property
    def memory(self) -> int:
        return self.arguments + self.temporaries


@dataclasses.dataclass(frozen=True)
class Refused:
    """The compiler found that the program does not fit.

    Attributes:
        reason: in its words.
        seconds: until it did.
        cpu_seconds: likewise.
    """

    reason: str
    seconds: float
    cpu_seconds: float


def compile_step(step: Any, *arguments: Any) -> Compiled | Refused:
    """Compiles a jitted step for shapes that say where they lie."""
    wall, cpu = time.perf_counter(), time.process_time()

    def spent() -> tuple[float, float]:
        return time.perf_counter() - wall, time.process_time() - cpu

    lowered = step.lower(*arguments)
    try:
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        return Refused(_first_sentence(str(error)), *spent())
    seconds = spent()
    memory = executable.memory_analysis()
    assert memory is not None
    text = executable.as_text()
    assert text is not None
    return Compiled(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.generated_code_size_in_bytes,
        tuple(collectives(CompiledText(text))),
        *seconds,
    )


def _first_sentence(message: str) -> str:
    first = message.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
    return re.sub(r"\s+", " ", first).strip()
