"""What a pickle says, without doing it: nothing is imported, and nothing is called.

A pickle is a program for a stack machine. Opcodes that only build containers and plain values are
followed here; where the program names a class or function it becomes a :class:`Symbol`, and only
those on a list may be named at all. Where it would call one, the call is kept as a :class:`Call`.

A value may hold another one twice, that one a third twice, and so on: a short pickle then describes
more than can be looked through. So nothing here compares, hashes or prints a value of unknown depth.
"""

import pickletools
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mpt_jax.errors import UserError


@dataclass(frozen=True)
class Symbol:
    """A class or function that the pickle names, e.g. "torch.FloatStorage"."""

    name: str


@dataclass(frozen=True)
class Call:
    """A call that the pickle asks for, and that did not happen."""

    symbol: Symbol
    arguments: tuple


@dataclass(frozen=True)
class Persistent:
    """Something that lies outside of the pickle, by the id that the pickle has for it."""

    id: Any


ORDERED_DICT = Symbol("collections.OrderedDict")
_MARK = object()
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_WITH_VALUE = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def parse(data: bytes, allowed: Collection[str], what: str) -> Any:
    """The value that the pickle describes, made of plain values, Symbols, Calls and Persistents.

    An OrderedDict becomes a dict; attributes set on one are dropped.

    Args:
      allowed: the symbols that may be named.
      what: the file, for messages.

    Raises:
      UserError: another symbol (named), an opcode that is not needed for data, or a broken pickle.
    """
    try:
        return _Machine(allowed, what).run(data)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{what} holds a broken pickle ({error!r}).") from error


class _Machine:
    def __init__(self, allowed: Collection[str], what: str):
        self.allowed, self.what = allowed, what
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in opcodes that are refused anyway
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name == "STOP":
                    break
                self.step(opcode.name, argument)
        (result,) = self.stack
        return result

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _VALUES:
            stack.append(_VALUES[name])
        elif name in _WITH_VALUE:
            stack.append(argument)
        elif name in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "SETITEM":
            self.fill(self.pop(2))
        elif name == "SETITEMS":
            self.fill(self.pop_to_mark())
        elif name == "APPEND":
            self.extend(self.pop(1))
        elif name == "APPENDS":
            self.extend(self.pop_to_mark())
        elif name == "GLOBAL":
            stack.append(self.symbol(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            names = self.pop(2)
            stack.append(self.symbol(".".join(names)))
        elif name == "BINPERSID":
            stack.append(Persistent(*self.pop(1)))
        elif name == "REDUCE":
            stack.append(self.call(*self.pop(2)))
        elif name == "BUILD":
            self.pop(1)
            if not isinstance(stack[-1], dict):
                raise ValueError("attributes set on what is no dict")
        else:
            raise UserError(
                f"{self.what} uses the pickle opcode {name}, which tensors do not need; it is not read."
            )

    def symbol(self, name: str) -> Symbol:
        if name not in self.allowed:
            raise UserError(
                f"{self.what} names {name}, which is no part of a tensor. Nothing was run, and the file "
                "is not read: a pickle that names such things can run any code when it is loaded."
            )
        return Symbol(name)

    def call(self, symbol: Any, arguments: Any) -> Any:
        if not isinstance(symbol, Symbol) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        if symbol == ORDERED_DICT:
            if arguments:
                raise ValueError("an OrderedDict that is not filled item by item")
            return {}
        return Call(symbol, arguments)

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items appended to what is no list")
        self.stack[-1].extend(items)

    def fill(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise ValueError("items set on what is no dict")
        if not all(isinstance(key, str | int) for key in items[::2]):
            raise ValueError("a key that is neither text nor a number")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the stack is empty")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]
