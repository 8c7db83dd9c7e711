"""`mpt COMMAND`: one command for all stages, with gin flags like T5X's.

Nothing heavy is imported here: a command's module is loaded when the command is given. A stage module has
a plain function `run`, configured by gin, and may have `add_arguments(parser)` for flags of its own, which
become keyword arguments of `run`, and `gin_files(given)`, which takes those flags out of `given` that stand
for gin files and returns the files, to be read before all others, and `UNNEEDED`, names of macros that may
stay without a value. `run` takes what it needs of

- `model_dir`: from `--model_dir` or the macro MODEL_DIR;
- `task_modules`: from `--task_module`, a tuple of files or modules that register seqio tasks;
- `dry_run`: check and describe everything, train nothing;
- `config_text`: a function that gives the operative configuration as text;
- `gin_words`: the gin flags of the command line, to be handed on to other commands;
- `settings_of`: a function that gives the arguments that the configuration binds for another function;
- `launch`: a function that runs another command line (without `mpt`) in this process, raises its errors, and
  returns what its `run` does.
"""

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mpt_jax import processes
from mpt_jax.absent_tpu import keep_libtpu_quiet
from mpt_jax.errors import Stopped, UserError, unknown_name


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        module: where its `run` is.
        help: one line.
        gin_files: read where none is given.
        on_several: whether several processes may run it together.
    """

    module: str
    help: str
    gin_files: tuple[str, ...] = ()
    on_several: bool = False


COMMANDS = {
    "quickstart": Command(
        "mpt_jax.stages.run",
        "the whole job on the embedded model and tasks, in minutes on a CPU; no flags needed",
        ("quickstart.gin",),
        on_several=True,
    ),
    "run": Command(
        "mpt_jax.stages.run", "teach, distill, adapt and evaluate in sequence", on_several=True
    ),
    "pretrain": Command("mpt_jax.stages.pretrain", "train a small backbone from scratch"),
    "teach": Command(
        "mpt_jax.stages.teach", "train one teacher prompt for each source task", on_several=True
    ),
    "distill": Command(
        "mpt_jax.stages.distill", "distil the teachers into one shared prompt", on_several=True
    ),
    "adapt": Command(
        "mpt_jax.stages.adapt", "adapt the shared prompt to target tasks", on_several=True
    ),
    "evaluate": Command(
        "mpt_jax.stages.evaluate", "score the prompts of a run on a split", on_several=True
    ),
    "infer": Command(
        "mpt_jax.stages.infer",
        "texts in, texts out, with a task's prompt",
        ("models/embedded.gin", "runs/infer.gin"),
    ),
    "convert": Command("mpt_jax.stages.convert", "write a backbone in another form"),
    "import": Command(
        "mpt_jax.stages.import_prompts",
        "make a prompt file of PEFT's, prompt-tuning's or ATTEMPT's prompts",
        ("runs/import.gin",),
    ),
    "export": Command("mpt_jax.stages.export", "write prompts in a form that other programs read"),
    "add-task": Command(
        "mpt_jax.stages.add_task", "add task factors to a prompt file with the same shared prompt"
    ),
    "merge": Command("mpt_jax.stages.merge", "multiply shared prompt and task factors out"),
    "combine": Command(
        "mpt_jax.stages.combine", "add and subtract prompts: a new plain prompt without training"
    ),
    "params": Command(
        "mpt_jax.stages.params",
        "count what methods train and store, from shapes alone",
        ("runs/params.gin",),
    ),
    "paper": Command(
        "mpt_jax.stages.paper", "run a table of the MPT paper, and show it beside the published one"
    ),
    "compare": Command(
        "mpt_jax.stages.compare",
        "methods compared at an equal budget: searched, trained, tested once, with their costs",
    ),
    "plan": Command(
        "mpt_jax.stages.plan", "what a stage's step needs of devices that need not be here"
    ),
    "sweep": Command(
        "mpt_jax.stages.sweep",
        "source mixtures and settings of distillation, many side by side; resumable, for many workers",
    ),
    "tasks": Command("mpt_jax.stages.tasks", "list the registered tasks, with examples"),
    "show": Command(
        "mpt_jax.stages.show", "describe a prompt file, a checkpoint or a run directory"
    ),
}

USAGE = "usage: mpt COMMAND [--gin_file=FILE ...] [--gin.NAME=VALUE ...] [--model_dir=DIR] [flags]"

GIN_HELP = """configuration:
  --gin_file=FILE          read FILE; repeat for more, later ones override earlier. Searched in the
                           working directory, --gin_search_paths and the shipped files
  --gin.NAME=VALUE         set a macro (--gin.TRAIN_STEPS=100) or a parameter (--gin.teach.run.seed=1);
                           strings need quotes inside: --gin.MODEL_DIR="'runs/a'"
  --gin_search_paths=A,B   more folders to search; they and FILE may be addresses (gs://, s3://)

exit codes: 0 done, 1 something in the input must be mended, 2 wrong usage, 75 stopped by a signal with
everything saved (the same command goes on from there)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help_text())
        return 0 if arguments else 2
    try:
        with _plain_warnings(), processes.ends_to_be_repeated():
            _dispatch(arguments)
            return 0
    except UserError as error:
        print(f"mpt: error: {_message(error)}", file=sys.stderr)
        return processes.failed(1)
    except Stopped as stopped:
        print(f"mpt: {_message(stopped)}", file=sys.stderr)
        return stopped.exit_code
    except Exception as error:
        if not processes.one_of_several():
            raise
        traceback.print_exc()
        if not processes.may_be_of_another_process(error):
            return processes.failed(1)
        # Python's usual exit waits for the others, and JAX aborts it (134) if one is missing.
        print(f"mpt: {processes.LOST}", file=sys.stderr, flush=True)
        return 1


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings of mpt_jax are for its user: they need no line of code."""
    before = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        line: str | None = None,
    ) -> str:  # fmt: skip
        if category.__module__.startswith("mpt_jax."):
            return f"mpt: warning: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def _message(error: Exception) -> str:
    """Without what gin adds, which is of no use here."""
    return str(error).partition("\n  In call to configurable ")[0]


def _help_text() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [USAGE, "", "commands (mpt COMMAND --help for the flags of one):", *rows, "", GIN_HELP]
    )


def _dispatch(arguments: Sequence[str]) -> Any:
    from mpt_jax import configuration  # here, so that `mpt --help` needs nothing but Python

    flags, rest = configuration.split_flags(arguments)
    if not rest or rest[0].startswith("-"):
        raise UserError(f"no command given\n{USAGE}")
    name, *rest = rest
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    command = COMMANDS[name]
    prepare_process()
    module = importlib.import_module(command.module)
    parameters = inspect.signature(module.run).parameters
    given = vars(_parser(name, command, module, parameters).parse_args(rest))
    if (method_modules := given.pop("method_modules", None)) is not None:
        from mpt_jax.user_modules import load_modules

        load_modules(method_modules, "method")  # before the configuration names them
    joins = {flag: given.pop(flag) for flag in processes.FLAGS if flag in given}
    if (joins or processes.one_of_several()) and not command.on_several:
        able = ", ".join(name for name, command in COMMANDS.items() if command.on_several)
        raise UserError(f"mpt {name} is for one process; on several run {able}")
    if "jax" in sys.modules:
        keep_libtpu_quiet()
    processes.join(joins)
    if "jax" in sys.modules and not processes.one_of_several():
        from mpt_jax.host_memory import run_in_callers_thread

        run_in_callers_thread()

    macros, bindings = {}, []
    last = command.module.rpartition(".")[2]
    if (model_dir := given.pop("model_dir", None)) is not None:
        macros["MODEL_DIR"] = model_dir
        bindings.append(f"{last}.run.model_dir = %MODEL_DIR")
    if (task_modules := given.pop("task_modules", None)) is not None:
        bindings.append(f"{last}.run.task_modules = {tuple(task_modules)!r}")
    first = module.gin_files(given) if hasattr(module, "gin_files") else ()
    flags = dataclasses.replace(flags, files=(*first, *(flags.files or command.gin_files)))
    if "gin_words" in parameters:
        given["gin_words"] = configuration.joined_flags(flags)
    if "launch" in parameters:
        given["launch"] = _dispatch
    flags = dataclasses.replace(flags, bindings=(*bindings, *flags.bindings))
    configuration.load(flags, module, macros, getattr(module, "UNNEEDED", ()))
    if "settings_of" in parameters:
        given["settings_of"] = configuration.settings_of
    if "config_text" in parameters:
        given["config_text"] = configuration.operative_text
    configuration.check_arguments(module.run, given)
    return configuration.configured(module.run)(**given)


def _parser(
    name: str, command: Command, module: ModuleType, parameters: Collection[str]
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"mpt {name}",
        description=inspect.getdoc(module) or command.help,
        epilog=GIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # only what is given overrides gin
        allow_abbrev=False,
    )
    parser.add_argument(
        "--method_module",
        action="append",
        dest="method_modules",
        metavar="FILE_OR_MODULE",
        help="Python that registers methods of your own; repeat for more",
    )
    if "model_dir" in parameters:
        parser.add_argument("--model_dir", help="the run directory; sets the macro MODEL_DIR")
    if "task_modules" in parameters:
        parser.add_argument(
            "--task_module",
            action="append",
            dest="task_modules",
            metavar="FILE_OR_MODULE",
            help="Python that registers seqio tasks; repeat for more",
        )
    if "dry_run" in parameters:
        parser.add_argument(
            "--dry_run",
            action="store_true",
            help="check everything that can be checked, print the configuration, train nothing",
        )
        group = parser.add_argument_group("several processes, one command in each")
        for flag, (kind, text) in processes.FLAGS.items():
            options: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
            shown = text if command.on_several else argparse.SUPPRESS  # refused in words
            group.add_argument(f"--{flag}", help=shown, **options)
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    return parser


def prepare_process() -> None:
    """Settings that must stand before the first import of JAX or TensorFlow.

    JAX_COMPILATION_CACHE_DIR says where compiled programs are kept. All are kept, also the small ones of
    which there are many: a second start then compiles nothing.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpt_jax" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
