"""What a seqio task's examples depend on, as one hash.

It sees the code of the functions that the user wrote for the task (source, preprocessors), the plain
values and functions that they use, and the content of files that they name or that lie in a folder
`data` beside their module. A change in any of them gives another hash and so a new token store. It
cannot see what a function reads from elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

# Their functions are known by name; following them further would lead through all of TensorFlow.
_FOREIGN = sys.stdlib_module_names | {
    "absl", "beartype", "jax", "jaxtyping", "keras", "numpy", "seqio", "tensorflow",
    "tensorflow_datasets", "tensorflow_text",
}  # fmt: skip
_WHOLE_FILE_BYTES = 64 << 20


def source_identity(task: Any, split: str) -> str:
    """A hash (hex) of what decides the examples of `split` of a `seqio.Task`."""
    walk = _Walk()
    walk.visit(task.source)
    if hasattr(task.source, "tfds_dataset"):
        walk.visit(str(task.source))  # name and version
    walk.visit([task.preprocessors, {k: vars(f) for k, f in task.output_features.items()}])
    if hasattr(task.source, "_split_to_filepattern"):  # seqio's file sources; patterns, not paths
        walk.visit(list(task.source.list_shards(split)))
    return walk.digest.hexdigest()


class _Walk:
    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: set[int] = set()
        self._folders: set[str] = set()
        self._keep: list[Any] = []  # an id is only unique while its object lives

    def visit(self, value: Any) -> None:
        """Feed `value` into the hash; what is not understood counts by its type's name only."""
        if isinstance(value, str | os.PathLike):
            self._add("text", os.fspath(value))
            self._visit_file(os.fspath(value))
        elif isinstance(value, bytes | int | float | complex | None):
            self._add("value", repr(value))
        elif self._first_time(value):
            self._visit_object(value)

    def _add(self, *words: str) -> None:
        self.digest.update(("\0".join(words) + "\n").encode(errors="surrogateescape"))

    def _first_time(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen.add(id(value))
        self._keep.append(value)
        return True

    def _visit_object(self, value: Any) -> None:
        self._add("object", type(value).__module__, type(value).__qualname__)
        if isinstance(value, dict):
            for key, item in value.items():
                self.visit(key)
                self.visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                self.visit(item)
        elif isinstance(value, set | frozenset):
            for item in sorted(value, key=repr):
                self.visit(item)
        elif isinstance(value, np.ndarray):
            self.visit([str(value.dtype), value.shape, value.tolist()])
        elif isinstance(value, functools.partial):
            self.visit([value.func, value.args, value.keywords])
        elif isinstance(value, types.MethodType):
            self.visit([value.__func__, value.__self__])
        elif isinstance(value, types.FunctionType):
            self._visit_function(value)
        elif isinstance(value, type):
            self._add(value.__module__, value.__qualname__)
        elif hasattr(value, "__wrapped__"):  # functools.cache
            self.visit(value.__wrapped__)
        elif not isinstance(value, types.ModuleType):
            self._visit_attributes(value)

    def _visit_attributes(self, value: Any) -> None:
        plain = str | bytes | int | float | tuple | list | dict | os.PathLike
        for name, item in sorted(getattr(value, "__dict__", {}).items()):
            if isinstance(item, plain | types.FunctionType | functools.partial):
                self._add("attribute", name)
                self.visit(item)

    def _visit_function(self, function: types.FunctionType) -> None:
        self._add(function.__module__ or "", function.__qualname__)
        self.visit([function.__defaults__, function.__kwdefaults__])
        # seqio's decorators keep the user's function in a closure, so closures are always followed.
        for cell in function.__closure__ or ():
            try:
                self.visit(cell.cell_contents)
            except ValueError:  # a cell that is still empty
                self._add("empty")
        # A decorator's wrapper bears the name of what it wraps; its globals tell whose code it is.
        if _is_foreign(function.__module__) or _is_foreign(function.__globals__.get("__name__")):
            return
        self._visit_code(function.__code__)
        self._visit_data_folder(function.__globals__.get("__file__"))
        names = sorted(_names(function.__code__))
        for name in names:
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            self._add("global", name)
            if isinstance(value, types.ModuleType) and not _is_foreign(value.__name__):
                # `module.function` has both words among the names; seen in the module, it counts.
                self.visit([vars(value)[n] for n in names if n in vars(value)])
            else:
                self.visit(value)

    def _visit_code(self, code: types.CodeType) -> None:
        if (source := _source(code)) is not None:
            self._add("source", source)
        else:
            constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
            self._add("code", code.co_code.hex(), repr(constants))

    def _visit_file(self, name: str | bytes) -> None:
        if not re.search(r"[./]", os.fsdecode(name)):  # a word, as most texts in a task's rows
            return
        try:
            path = Path(os.fsdecode(name))
            if not path.is_file():
                return
            status = path.stat()
            if status.st_size <= _WHOLE_FILE_BYTES:
                self._add("file", hashlib.sha256(path.read_bytes()).hexdigest())
            else:
                self._add("file", str(status.st_size), str(status.st_mtime_ns))
        except (OSError, ValueError):  # too long or otherwise unfit for a file name: only text
            return

    def _visit_data_folder(self, module_file: str | None) -> None:
        folder = Path(module_file or "").parent / "data"
        if module_file and folder.is_dir() and str(folder) not in self._folders:
            self._folders.add(str(folder))
            for path in sorted(folder.iterdir()):
                self._add("data", path.name)
                self._visit_file(str(path))


@functools.cache  # a look at every module that is loaded, for each of a task's splits again
def _source(code: types.CodeType) -> str | None:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # typed at a prompt: there is no file
        return None


def _is_foreign(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _FOREIGN


def _names(code: types.CodeType) -> set[str]:
    """Names that a function's code and the functions inside it look up."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))
