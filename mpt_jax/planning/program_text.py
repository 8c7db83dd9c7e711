"""Reading a compiled program's HLO text: its instructions, and how often each runs in one call.

XLA's own cost analysis counts a loop's body once. Here it counts as often as the loop goes round.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_KNOWN_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|b?f\d+\w*|[suc]\d+)\[([\d,]*)\]")
_OPERAND = re.compile(r"%?([\w.\-]+)(?=[,)])")
_SKIPPED = ("-done", "-update")  # the ends of what a "-start" began


class Instruction(NamedTuple):
    """One line of the program.

    Attributes:
        name: unique in its computation.
        shape: of the result, as text.
        kind: the operation.
        rest: operands and attributes, as text.
        root: whether it is its computation's result.
    """

    name: str
    shape: str
    kind: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        return _OPERAND.findall(self.rest.split("), ")[0] + ")")

    @property
    def array_bytes(self) -> list[int]:
        """Of each array in the result."""
        sizes = []
        for dtype, dims in _ARRAY.findall(self.shape):
            count = 1
            for dim in filter(None, dims.split(",")):
                count *= int(dim)
            bits = re.search(r"\d+", dtype)
            sizes.append(count * (int(bits[0]) if bits else 8) // 8)
        return sizes


Computation = dict[str, Instruction]


class CompiledText:
    """A compiled module.

    Raises:
        ValueError: the text has no entry computation.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        inside: Computation | None = None
        for line in text.splitlines():
            if inside is None:
                if found := _COMPUTATION.match(line):
                    inside = self.computations[found[2]] = {}
                    self.entry = found[2] if found[1] else self.entry
            elif line.startswith("}"):
                inside = None
            elif found := _INSTRUCTION.match(line):
                inside[found[2]] = Instruction(
                    found[2], found[3], found[4], found[5], bool(found[1])
                )
        if not self.entry:
            raise ValueError("the compiled program's text has no ENTRY computation.")

    def instructions(self) -> Iterator[tuple[Instruction, int | None]]:
        """Every instruction with the number of times that it runs in one call of the program.

        None stands for an instruction in a loop that does not count between constants.
        """
        yield from self._run(self.entry, 1)

    def _run(self, computation: str, times: int | None) -> Iterator[tuple[Instruction, int | None]]:
        for instruction in self.computations[computation].values():
            yield instruction, times
            if instruction.kind.endswith(_SKIPPED):
                continue
            each = times
            if instruction.kind == "while":
                rounds = self.trip_count(computation, instruction)
                each = None if times is None or rounds is None else times * rounds
            for name in self._called(instruction):
                yield from self._run(name, each)

    def _called(self, instruction: Instruction) -> list[str]:
        names = _CALLED.findall(instruction.rest)
        for group in _BRANCHES.findall(instruction.rest):
            names += [name.strip().lstrip("%") for name in group.split(",")]
        return [name for name in names if name in self.computations]

    def trip_count(self, computation: str, loop: Instruction) -> int | None:
        """How often a loop of `computation` goes round; None if that is not written in the program."""
        if known := _KNOWN_COUNT.search(loop.rest):
            return int(known[1])
        counter, end = self._comparison(self.computations[_attribute(loop, "condition")])
        if counter is None or end is None:
            return None
        start = self._constant(self.computations[computation], loop.operands[0], counter)
        step = self._increment(self.computations[_attribute(loop, "body")], counter)
        if start is None or step is None or step < 1:
            return None
        return max(0, -(-(end - start) // step))

    def _comparison(self, condition: Computation) -> tuple[int | None, int | None]:
        """Which element of a loop's state is compared, and the constant that it stays below."""
        (root,) = [i for i in condition.values() if i.root]
        wanted = [condition[name] for name in root.operands if name in condition]
        constants = [_integer(i) for i in wanted if i.kind == "constant"]
        elements = [i for i in wanted if i.kind == "get-tuple-element"]
        if root.kind == "fusion":
            called = self.computations[_attribute(root, "calls")]
            (root,) = [i for i in called.values() if i.root]
            constants += [_integer(i) for i in called.values() if i.kind == "constant"]
        below = root.kind == "compare" and "direction=LT" in root.rest
        if not below or len(constants) != 1 or len(elements) != 1:
            return None, None
        return _index(elements[0]), constants[0]

    def _constant(self, computation: Computation, name: str, index: int) -> int | None:
        """The integer in an element of a tuple, if it is a constant."""
        state = computation.get(name)
        while state is not None and state.kind == "opt-barrier":
            state = computation.get(state.operands[0])
        if state is None or state.kind != "tuple":
            return None
        element = computation.get(state.operands[index])
        while element is not None and element.kind in (
            "copy",
            "bitcast",
            "copy-done",
            "copy-start",
        ):
            element = computation.get(element.operands[0])
        return _integer(element) if element is not None and element.kind == "constant" else None

    def _increment(self, body: Computation, index: int) -> int | None:
        """What the body adds to an element of its state, if it is a constant."""
        (root,) = [i for i in body.values() if i.root]
        if root.kind != "tuple":
            return None
        place = body
        added = place.get(root.operands[index])
        while added is not None and added.kind in ("copy", "bitcast", "copy-done", "copy-start"):
            added = place.get(added.operands[0])
        constants = []
        if added is not None and added.kind == "fusion":
            outer = [place[name] for name in added.operands if name in place]
            constants = [_integer(i) for i in outer if i.kind == "constant"]
            place = self.computations[_attribute(added, "calls")]
            (added,) = [i for i in place.values() if i.root]
        if added is None or added.kind != "add":
            return None
        inner = [place[name] for name in added.operands if name in place]
        constants += [_integer(i) for i in inner if i.kind == "constant"]
        return constants[0] if len(constants) == 1 else None


def _attribute(instruction: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", instruction.rest)
    if not found:
        raise ValueError(f"{instruction.name} has no {name}.")
    return found[1]


def _index(element: Instruction) -> int:
    found = re.search(r"index=(\d+)", element.rest)
    assert found, element
    return int(found[1])


def _integer(constant: Instruction) -> int | None:
    found = re.match(r"(-?\d+)\)", constant.rest)
    return int(found[1]) if found else None
