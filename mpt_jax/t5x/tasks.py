"""seqio tasks with a prompt in front: the registered ones, plus one last preprocessing step.

Task k of a list gets the virtual ids V + k * P ... V + k * P + P - 1 in front of its inputs, once for
each example. So T5X packs, mixes, batches and evaluates them as any tasks; metrics, postprocessors
and vocabulary are the original's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from mpt_jax.data.tasks import get_task
from mpt_jax.errors import UserError

PREFIX = "mpt_"


def prompted_mixture(
    tasks: Sequence[str],
    prompt_length: int,
    vocab_size: int,
    *,
    only: Sequence[str] | None = None,
    rate: float | Callable[[seqio.Task], float] = 1.0,
    name: str = "mpt_tasks",
) -> str:
    """Registers the tasks with their prompts, and a mixture of them.

    gin files call it wherever T5X asks for MIXTURE_OR_TASK_NAME; with the same arguments it may be
    called any number of times.

    Args:
        tasks: registered seqio tasks in the order of the prompts, which is the order of the module's
            `tasks` and of a prompt file's task names.
        prompt_length: P.
        vocab_size: V, the rows of the model's embedding table (in T5 more than the vocabulary has
            ids), which is the first virtual id.
        only: those that the mixture shall hold; all when None.
        rate: the mixture's rate of every task, or a function of the task, e.g.
            `seqio.mixing_rate_num_examples`.
        name: the mixture's.

    Returns:
        `name`. The tasks are called "mpt_" and their own name.

    Raises:
        UserError: an unknown task, one named twice, one without inputs, a vocabulary with ids from
            `vocab_size` on, or a name that is registered for something else.
    """
    tasks = list(tasks)
    if not tasks or len(set(tasks)) != len(tasks):
        raise UserError(f"TASKS is {tasks}; expected at least one task, and each once.")
    chosen = tasks if only is None else list(only)
    unknown = sorted(set(chosen) - set(tasks))
    if unknown or not chosen:
        raise UserError(f"The mixture's tasks are {chosen}; expected some of TASKS, {tasks}.")
    for k, task in enumerate(tasks):
        first = vocab_size + k * prompt_length
        _register(get_task(task), range(first, first + prompt_length), vocab_size)
    members = [PREFIX + task for task in chosen]
    if name in seqio.MixtureRegistry.names():
        found = [task.name for task in seqio.MixtureRegistry.get(name).tasks]
        if sorted(found) != sorted(members):
            raise UserError(
                f"Mixture {name!r} is registered with {found}, now asked for with {members}. Give "
                "each its own name (tasks.prompted_mixture.name)."
            )
        return name
    seqio.MixtureRegistry.add(name, members, default_rate=rate)
    return name


def _register(task: seqio.Task, ids: range, vocab_size: int) -> None:
    name = PREFIX + task.name
    if "inputs" not in task.output_features:
        raise UserError(
            f"Task {task.name!r} has the output features {sorted(task.output_features)}; the prompt "
            "goes in front of 'inputs'."
        )
    known = task.output_features["inputs"].vocabulary.vocab_size
    if known > vocab_size:
        raise UserError(
            f"Task {task.name!r} has a vocabulary of {known} ids, but virtual ids start at "
            f"{vocab_size}. VOCAB_SIZE has to be the rows of the model's embedding table."
        )
    if name in seqio.TaskRegistry.names():
        last = seqio.TaskRegistry.get(name).preprocessors[-1]
        if not isinstance(last, PromptInFront) or last.ids != ids:
            raise UserError(
                f"A task {name!r} is registered already, with another prompt or none; its name "
                f"is needed for {task.name!r}."
            )
        return
    steps = [_leaving_room(step, len(ids)) for step in task.preprocessors]
    derived = task.replace(name=name, preprocessors=[*steps, PromptInFront(ids)])
    seqio.TaskRegistry.add_provider(name, derived)


class PromptInFront:
    """The last preprocessing step: a prompt's virtual ids, then the inputs."""

    def __init__(self, ids: range):
        self.ids = ids

    def __call__(
        self, dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None
    ) -> tf.data.Dataset:
        length = (sequence_length or {}).get("inputs")
        if length is not None and length <= len(self.ids):
            raise UserError(
                f"TASK_FEATURE_LENGTHS gives the inputs {length} tokens, and the prompt has "
                f"{len(self.ids)}: no room for text. In T5X the prompt counts."
            )
        ids = np.array(self.ids, np.int32)

        def in_front(example: dict[str, Any]) -> dict[str, Any]:
            inputs = example["inputs"]
            return {**example, "inputs": tf.concat([tf.cast(ids, inputs.dtype), inputs], axis=0)}

        return dataset.map(in_front, num_parallel_calls=tf.data.AUTOTUNE)


def _leaving_room(step: Any, length: int) -> Any:
    """The step with the prompt's length taken off the inputs' where it cuts to a length.

    Else a step like `append_eos_after_trim` would fill the row with text, and the prompt would
    push the text's end and its EOS out of it.
    """
    if isinstance(step, seqio.CacheDatasetPlaceholder):
        return step
    if "sequence_length" not in inspect.signature(step).parameters:
        return step

    @functools.wraps(step)
    def shortened(dataset, *, sequence_length=None, **others):
        if sequence_length and sequence_length.get("inputs") is not None:
            left = max(sequence_length["inputs"] - length, 0)
            sequence_length = {**sequence_length, "inputs": left}
        return step(dataset, sequence_length=sequence_length, **others)

    return shortened
