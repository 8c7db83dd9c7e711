"""The user's own Python: files and modules that register seqio tasks or methods."""

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from mpt_jax.errors import UserError
from mpt_jax.fetched import local_copy


def load_modules(names: Iterable[str | os.PathLike[str]], what: str) -> None:
    """Imports Python files or dotted modules, each once.

    Args:
        names: paths that end in `.py`, or modules.
        what: that they register, in words: "task" or "method".

    Raises:
        UserError: a file or module is missing, or fails; with its file, line and exception.
    """
    for name in names:
        text = os.fspath(name)
        if text.endswith(".py") or os.sep in text:
            _load_file(local_copy(text, f"{what} file").resolve(), what)
        else:
            try:
                importlib.import_module(text)
            except Exception as error:
                raise _import_error(text, None, error, what) from error


def _load_file(path: Path, what: str) -> None:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UserError(
            f"No {what} file {path}. Expected a Python file that registers {what}s"
            + (f"; its folder has {', '.join(near[:8])}." if near else ".")
        )
    # Two files of one name stay two modules; in sys.modules, so that the code can be pickled.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"mpt_{what}_file_{path.stem}_{digest}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; expected a name that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _import_error(str(path), path, error, what) from error


def _import_error(name: str, path: Path | None, error: Exception, what: str) -> UserError:
    if isinstance(error, ModuleNotFoundError) and path is None and error.name is not None:
        if name == error.name or name.startswith(error.name + "."):
            return UserError(
                f"No {what} module {name!r}. Give the path of a .py file instead, or put the folder "
                "that holds the module on PYTHONPATH."
            )
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [f for f in frames if path is not None and f.filename == str(path)]
        own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
        frame = (inside or own or list(frames))[-1]
        place = f"{frame.filename}, line {frame.lineno}"
    return UserError(
        f"Importing the {what}s of {name} failed at {place}: {type(error).__name__}: {error}"
    )
