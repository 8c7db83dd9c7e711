"""The gin edge: from command-line flags to a resolved configuration, and back to text.

Only `mpt_jax.cli` and tests import this module; library code takes plain arguments. gin files use
dynamic registration (`from __gin__ import dynamic_registration`), as T5X's do.
"""

import ast
import functools
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import gin

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.gin_files import find, names_binding, reading


@dataclass(frozen=True)
class GinFlags:
    """What the command line says about the configuration, in the order given.

    Attributes:
      files: `--gin_file`, each a path, an address or a name below a search path; later ones override earlier.
      bindings: `--gin.NAME=VALUE` as "NAME=VALUE"; they override all files.
      search_paths: `--gin_search_paths`, folders between the working directory and the shipped ones.
    """

    files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()


def split_flags(arguments: Sequence[str]) -> tuple[GinFlags, list[str]]:
    """Takes the gin flags out of a command line, and returns them and what is left.

    `--gin_file=F`, `--gin_file F`, `--gin.NAME=VALUE`, `--gin.NAME VALUE` and
    `--gin_search_paths=A,B` (or `A:B`) may come in any order, also before the subcommand's own flags.
    """
    files: list[str] = []
    bindings: list[str] = []
    search_paths: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if not (flag.startswith("--gin.") or flag in ("--gin_file", "--gin_search_paths")):
            rest.append(word)
            continue
        if not equals:
            try:
                value = next(words)
            except StopIteration:
                raise UserError(f"flag {flag} needs a value, as in {flag}=VALUE") from None
        if flag == "--gin_file":
            files.append(value)
        elif flag == "--gin_search_paths":
            search_paths += [path for path in re.split(",|:(?!//)", value) if path]
        else:
            bindings.append(f"{flag.removeprefix('--gin.')} = {value}")
    return GinFlags(tuple(files), tuple(bindings), tuple(search_paths)), rest


def joined_flags(flags: GinFlags) -> tuple[str, ...]:
    """The words of a command line from which `split_flags` makes `flags`."""
    paths = [f"--gin_search_paths={','.join(flags.search_paths)}"] if flags.search_paths else []
    files = [f"--gin_file={name}" for name in flags.files]
    bindings = [
        f"--gin.{name.strip()}={value.strip()}"
        for name, _, value in (binding.partition("=") for binding in flags.bindings)
    ]
    return (*paths, *files, *bindings)


def load(
    flags: GinFlags,
    stage: ModuleType,
    macros: Mapping[str, Any] = MappingProxyType({}),
    unneeded: Collection[str] = (),
) -> None:
    """Replaces the process's gin configuration by what the flags say, checks it and locks it.

    Args:
      flags: files and bindings.
      stage: the module whose `run` will be called; bindings may name it by its last part
        (`--gin.teach.run.patience=3`), also where no file imports it.
      macros: values of macros that have flags of their own, bound whether or not a file uses them.
      unneeded: macros that are None where they would be required.

    Raises:
      UserError: unknown file, module, function, parameter or macro (with the nearest names), text that
        gin cannot read (with its place), or a required macro without a value (with the files that ask
        for it).
    """
    gin.clear_config()
    places = [find(name, flags.search_paths) for name in flags.files]
    with reading(flags.search_paths) as read:
        for place in places:
            _explained(place, functools.partial(gin.parse_config_file, place))
    for name, value in macros.items():
        gin.parse_config(f"{name} = {value!r}")
    known_macros = _macros_bound() | set(_macros_used())
    for binding in flags.bindings:
        _bind(binding, stage, known_macros)
    for name in _missing().intersection(unneeded):
        gin.parse_config(f"{name} = None")
    _check_required(read)
    _explained("the configuration", gin.finalize)


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the arguments that the loaded configuration binds for it."""
    try:
        return gin.get_configurable(function)
    except ValueError:  # no file and no flag names it: then all of its defaults hold
        with gin.unlock_config():
            return gin.external_configurable(function, module=function.__module__)


def settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that the loaded configuration binds for `function`, as it would be given them."""
    return gin.get_bindings(configured(function), resolve_references=True)


def check_arguments(function: Callable[..., Any], given: Collection[str]) -> None:
    """Checks that `function`, and all that the configuration calls, get what they cannot do without.

    Args:
      function: what will be called through `configured`.
      given: names of the arguments that the caller gives.

    Raises:
      UserError: names each missing argument, and how to bind it.
    """
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    bound = gin.get_bindings(configured(function), resolve_references=False)
    lines = [f"  --gin.{name}.{n}=VALUE" for n in _required(function) - bound.keys() - set(given)]
    for reference in gin.config.iterate_references(gin.config._CONFIG):
        if reference.evaluate and not reference.selector.startswith("gin."):
            bound = gin.get_bindings(reference.scoped_selector, resolve_references=False)
            missing = _required(reference.configurable.wrapped) - bound.keys()
            lines += [f"  --gin.{reference.scoped_selector}.{n}=VALUE" for n in missing]
    if lines:
        naming = names_binding(name)
        files = f" that does ({', '.join(naming)})" if naming else " that does"
        raise UserError(
            f"these have no value; give each, or a --gin_file{files}:\n"
            + "\n".join(sorted(set(lines)))
        )


def operative_text() -> str:
    """The values that configured calls really used, defaults included, as text that gin reads again."""
    return gin.operative_config_str()


def macro(name: str, default: Any = None) -> Any:
    """The value of macro `name` in the loaded configuration."""
    try:
        return gin.query_parameter(f"%{name}")
    except ValueError:
        return default


def _required(function: Callable[..., Any]) -> set[str]:
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind in plain and p.default is p.empty}


def _macros_bound() -> set[str]:
    return {scope for scope, selector in gin.config._CONFIG if selector == "gin.macro"}


def _macros_used() -> Iterator[str]:
    references = gin.config.iterate_references(gin.config._CONFIG, to=gin.get_configurable("macro"))
    return (reference.scoped_selector.removesuffix("/gin.macro") for reference in references)


def _bind(binding: str, stage: ModuleType, known_macros: set[str]) -> None:
    name = binding.partition("=")[0].strip()
    if "." not in name and name not in known_macros:
        raise UserError(f"--gin.{name}: {unknown_name('gin macro', name, known_macros)}")
    if _is_bare_text(value := binding.partition("=")[2].strip()):
        raise UserError(
            f"--gin.{name}: got {value}; strings need quotes inside: --gin.{name}=\"'{value}'\""
        )
    package, _, last = stage.__name__.rpartition(".")
    statements = sorted(gin.config._IMPORTS, key=lambda statement: statement.module)
    imports = [s.format() for s in statements if not s.module.startswith("__gin__")]
    header = ["from __gin__ import dynamic_registration", *imports, f"from {package} import {last}"]
    _explained(
        f"--gin.{name}",
        lambda: gin.parse_config("\n".join([*header, binding])),
    )
    # gin records every text's import statements: of each keep one, or every flag doubles their number.
    different = {statement.format(): statement for statement in gin.config._IMPORTS}
    gin.config._IMPORTS.intersection_update(different.values())


def _is_bare_text(value: str) -> bool:
    """Whether it is a word, a path or an address without quotes, which gin would explain by its parser."""
    try:
        ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return re.fullmatch(r"[\w./:~+-]+", value) is not None
    return False


def _missing() -> set[str]:
    """Macros that are asked for and have no value."""
    bound = _macros_bound()
    required = {
        name for name in bound if _is_required(gin.config._CONFIG[(name, "gin.macro")]["value"])
    }
    return required | (set(_macros_used()) - bound)


def _check_required(read: Sequence[Path]) -> None:
    missing = _missing()
    if not missing:
        return
    lines = []
    for name in sorted(missing):
        pattern = re.compile(rf"^\s*{re.escape(name)}\s*=|%{re.escape(name)}\b", re.MULTILINE)
        files = [str(path) for path in dict.fromkeys(read) if pattern.search(path.read_text())]
        lines.append(f"  {name}, asked for in {', '.join(files)}; give --gin.{name}=VALUE")
    raise UserError(
        "required macros have no value (strings need quotes inside: --gin.NAME=\"'text'\"):\n"
        + "\n".join(lines)
    )


def _is_required(value: Any) -> bool:
    if not isinstance(value, gin.config.ConfigurableReference):
        return False
    return value.scoped_selector == "gin.REQUIRED/gin.constant"


def _explained(where: str, action: Callable[[], Any]) -> Any:
    """Runs a gin call and turns what it raises into a UserError that names `where`."""
    try:
        return action()
    except UserError:
        raise
    # gin lets through whatever an import or a value raises; all of it is the configuration's fault.
    except Exception as error:
        raise UserError(f"{where}: {_nearest_names(error) or error}") from error


def _nearest_names(error: Exception) -> str | None:
    """A message with the nearest names, where `error` is gin's for a name that it does not know."""
    text = str(error)
    if found := re.search(r"Couldn't resolve selector (\S+); <module '([^']+)'", text):
        members = vars(sys.modules[found[2]]).items()
        known = [n for n, value in members if inspect.isroutine(value) or inspect.isclass(value)]
        message = unknown_name(f"name in {found[2]}", found[1].rpartition(".")[2], known)
    elif found := re.search(r"Configurable '(\S+)' doesn't have a parameter named '(\w+)'", text):
        function = gin.config._REGISTRY.get_match(found[1])
        known = list(inspect.signature(function.wrapped).parameters) if function else []
        message = unknown_name(f"parameter of {found[1]}", found[2], known)
    elif found := re.search(r"'(\w+)' was not provided by an import statement", text):
        # gin records a file's imports when it has read it to the end, so look at the file itself.
        file = re.search(r'In file "([^"]+)"', text)
        source = Path(file[1]).read_text() if file else ""
        known = re.findall(r"^(?:from (?!__gin__)|import ).*?(\w+)\s*$", source, re.MULTILINE)
        message = unknown_name("module (is an import missing in the gin file?)", found[1], known)
    else:
        return None
    place = text[text.rfind("\n  In ") :].rstrip() if "\n  In " in text else ""
    return f"{message}{place}"
