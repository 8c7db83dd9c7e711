"""What devices send each other in one step."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from mpt_jax.planning.program_text import CompiledText, Instruction

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
TO_OTHER_SLICES = "send to other slices"  # of a TPU's, over the data centre's network


class Collective(NamedTuple):
    """One collective instruction.

    Attributes:
        kind: one of KINDS, or TO_OTHER_SLICES.
        times: that it runs in a step.
        sizes: bytes of each array of its result, on one device.
        shape: of the result, as text.
    """

    kind: str
    times: int
    sizes: tuple[int, ...]
    shape: str

    @property
    def bytes(self) -> int:
        """Of all its results in a step."""
        return self.times * sum(self.sizes)


def collectives(program: CompiledText) -> list[Collective]:
    """Every collective of a program, loops multiplied out.

    Raises:
        ValueError: one is in a loop whose number of rounds the program does not say.
    """
    found = []
    for instruction, times in program.instructions():
        kind = _kind(instruction)
        if kind is None:
            continue
        if times is None:
            raise ValueError(
                f"{instruction.name} runs in a loop that does not count between constants, so nobody "
                "can say how often."
            )
        found.append(Collective(kind, times, _results(kind, instruction), instruction.shape))
    return found


@dataclasses.dataclass(frozen=True)
class Total:
    """How many collectives of one kind run in a step, and the bytes of their results on one device."""

    count: int
    bytes: int


def by_kind(found: Iterable[Collective]) -> dict[str, Total]:
    """The totals of each kind that occurs."""
    totals: dict[str, Total] = {}
    for one in found:
        before = totals.get(one.kind, Total(0, 0))
        totals[one.kind] = Total(before.count + one.times, before.bytes + one.bytes)
    return totals


def _kind(instruction: Instruction) -> str | None:
    """None for what sends nothing to other devices."""
    kind = instruction.kind.removesuffix("-start")
    if kind in KINDS:
        return kind
    # What a program of several slices has besides its collectives within each.
    if kind == "send" and '"xla_megascale_runtime"' in instruction.rest:
        return TO_OTHER_SLICES
    return None


def _results(kind: str, instruction: Instruction) -> tuple[int, ...]:
    """Sizes of the results; the "-start" of gathers and permutes shows its operands as well."""
    sizes = instruction.array_bytes
    if kind == TO_OTHER_SLICES:
        return (sizes[0],)  # after it come a number and a token
    if instruction.kind == f"{kind}-start" and kind in ("all-gather", "collective-permute"):
        operands = len(instruction.operands)
        return tuple(sizes[operands : 2 * operands])
    return tuple(sizes)
