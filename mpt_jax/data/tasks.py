"""The user's seqio tasks and mixtures: loading, looking up, listing, mixing rates.

seqio brings TensorFlow, so it is imported inside the functions that need it and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mpt_jax.data.vocabularies import Vocabulary, from_seqio
from mpt_jax.errors import UserError, unknown_name
from mpt_jax.optional_imports import without
from mpt_jax.user_modules import load_modules

MIXING_CAP = 2**18  # T5's limit on examples-proportional rates (Raffel et al. 2020)


def import_seqio() -> types.ModuleType:
    """seqio, imported quietly and with TensorFlow kept off the accelerators.

    Raises:
        UserError: seqio is not installed.
    """
    if "seqio" in sys.modules:
        return sys.modules["seqio"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_chatter(), without("sklearn"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside TensorFlow are nobody's here
        try:
            seqio = importlib.import_module("seqio")
        except ModuleNotFoundError as error:
            raise UserError(
                f"Tasks are read through seqio, but the module {error.name!r} is not installed: "
                "`pip install seqio`. Only training from filled token stores works without it."
            ) from error
        tensorflow = importlib.import_module("tensorflow")
        # TensorFlow would take all of a GPU's memory, and it only reads text here.
        tensorflow.config.set_visible_devices([], "GPU")
    return seqio


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps back what compiled code writes to the standard error, and shows it only after a failure.

    TensorFlow reports on CPUs and missing GPUs before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def load_task_modules(names: Iterable[str | os.PathLike[str]]) -> None:
    """Import the Python files or dotted modules that register seqio tasks, each once.

    Raises:
        UserError: a file or module is missing, or fails; with its file, line and exception.
    """
    import_seqio()
    load_modules(names, "task")


def _exception_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def get_task(name: str) -> Any:
    """The registered `seqio.Task`.

    Raises:
        UserError: unknown, with the nearest names; or a mixture's name.
    """
    seqio = import_seqio()
    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    if name in seqio.MixtureRegistry.names():
        members = ", ".join(expand(name))
        raise UserError(f"{name!r} is a mixture, expected one task; its tasks are {members}.")
    raise _unknown(name)


def _unknown(name: str) -> UserError:
    seqio = import_seqio()
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    error = unknown_name("task or mixture", name, known)
    return UserError(f"{error} (is the module that registers it named on the command line?)")


def expand(name: str) -> tuple[str, ...]:
    """The names of the tasks in a mixture (sorted, sub-mixtures too), or of the one task."""
    seqio = import_seqio()
    if name in seqio.MixtureRegistry.names():
        return tuple(task.name for task in seqio.MixtureRegistry.get(name).tasks)
    if name in seqio.TaskRegistry.names():
        return (name,)
    raise _unknown(name)


def mixture_rates(name: str) -> dict[str, float]:
    """The rates that a mixture was registered with, per task, made to sum to 1."""
    seqio = import_seqio()
    tasks = expand(name)
    if tasks == (name,):
        return {name: 1.0}
    mixture = seqio.MixtureRegistry.get(name)
    try:
        rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    except Exception as error:  # a rate may be any function of the user's
        raise UserError(
            f"The rates of mixture {name!r} could not be had: {_exception_line(error)}. Register "
            "it with numbers, or use examples-proportional rates."
        ) from error
    return _normalised(rates, f"mixture {name!r}")


def examples_proportional_rates(
    counts: Mapping[str, int], cap: int = MIXING_CAP
) -> dict[str, float]:
    """Rates in proportion to the number of examples of each task, `cap` counting at most."""
    return _normalised({task: float(min(n, cap)) for task, n in counts.items()}, "the tasks")


def _normalised(rates: dict[str, float], what: str) -> dict[str, float]:
    total = sum(rates.values())
    if total <= 0 or min(rates.values()) < 0:
        raise UserError(f"Mixing rates of {what} are {rates}; expected none below 0 and a sum > 0.")
    return {task: rate / total for task, rate in rates.items()}


def task_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a task's inputs and targets.

    Raises:
        UserError: the task lacks one of the two features, or their vocabularies differ.
    """
    features = get_task(name).output_features
    missing = {"inputs", "targets"} - set(features)
    if missing:
        raise UserError(
            f"Task {name!r} has the output features {sorted(features)}; an encoder-decoder needs "
            "'inputs' and 'targets'. Add them to its registration."
        )
    inputs, targets = (from_seqio(features[f].vocabulary) for f in ("inputs", "targets"))
    if inputs.fingerprint() != targets.fingerprint():
        raise UserError(
            f"Task {name!r} reads inputs with {inputs.describe()} and targets with "
            f"{targets.describe()}; T5 has one for both. Mend its output_features."
        )
    return inputs


def check_vocabulary(name: str, backbone: Vocabulary) -> None:
    """Make sure that a task's ids are the backbone's.

    Raises:
        UserError: they are not; with both vocabularies.
    """
    own = task_vocabulary(name)
    if not backbone.accepts(own):
        raise UserError(
            f"Task {name!r} is registered with {own.describe()}, but the backbone has "
            f"{backbone.describe()}. Register the task with the backbone's vocabulary, or choose "
            "the backbone that the task was written for."
        )


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of a task's data set beside its examples.

    A task's source has it as its attribute `about`, where somebody cared to say.

    Attributes:
        title: the data set's name in prose.
        origin: where these examples are read.
        sizes: split -> examples in the published data set.
        split_rule: how train, validation and test come from the splits.
        licence: under what terms it is published.
        homepage: where it is published.
        citation: BibTeX.
    """

    title: str
    origin: str
    sizes: Mapping[str, int]
    split_rule: str
    licence: str
    homepage: str
    citation: str


def about_task(name: str) -> About | None:
    """What is known of a task's data set; None where nobody said it."""
    about = getattr(get_task(name).source, "about", None)
    return about if isinstance(about, About) else None


@dataclasses.dataclass(frozen=True)
class TaskSummary:
    """What `mpt tasks` shows of a task or mixture. `problem` says why there is no example."""

    name: str
    splits: tuple[str, ...]
    metrics: tuple[str, ...]
    members: tuple[str, ...] = ()
    inputs_text: str | None = None
    targets_text: str | None = None
    problem: str | None = None


def list_tasks(name: str | None = None) -> list[TaskSummary]:
    """Registered tasks, by name, each with its first example; then mixtures.

    Args:
        name: only this task, or this mixture and its tasks; all when None.

    Raises:
        UserError: an unknown name, with the nearest names.
    """
    seqio = import_seqio()
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    wanted = known if name is None else {name, *expand(name)}
    tasks = sorted(wanted.intersection(seqio.TaskRegistry.names()))
    mixtures = sorted(wanted.intersection(seqio.MixtureRegistry.names()))
    return [_summary(seqio.TaskRegistry.get(task)) for task in tasks] + [
        TaskSummary(mixture, splits=(), metrics=(), members=expand(mixture)) for mixture in mixtures
    ]


def _summary(task: Any) -> TaskSummary:
    from mpt_jax.data.fill import TaskExamples  # it looks tasks up here

    metrics = [getattr(f, "__name__", repr(f)) for f in task.metric_fns]
    metrics += [type(metric).__name__ for metric in own_metric_objects(task)]
    summary = TaskSummary(task.name, (), tuple(metrics))
    try:
        summary = dataclasses.replace(summary, splits=tuple(task.splits))
        split = "train" if "train" in summary.splits else summary.splits[0]
        example = next(iter(TaskExamples(task, split, task_vocabulary(task.name))))
    except Exception as error:  # one broken task must not hide the others
        return dataclasses.replace(summary, problem=_exception_line(error))
    return dataclasses.replace(
        summary, inputs_text=example.inputs_text, targets_text=example.targets_text
    )


def own_metric_objects(task: Any) -> list[Any]:
    """The metric objects a task was registered with; seqio appends a wrapper for each function."""
    objects = list(task.metric_objs)
    return objects[: len(objects) - len(task.metric_fns)]
