"""Opening the examples that a stage works on: tasks and mixtures, splits, lengths, token stores."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpt_jax.data import tasks
from mpt_jax.data.examples import Examples
from mpt_jax.data.families import TaskFamily, register_families
from mpt_jax.data.fill import fill_store
from mpt_jax.data.splits import examples_for
from mpt_jax.data.vocabularies import Vocabulary
from mpt_jax.places import cache_folder, is_address

DEFAULT_MODULES = ("mpt_jax.tasks.embedded",)


def default_store_root() -> Path:
    """Token stores are found again by what they hold, so that all runs of a user share them."""
    return cache_folder() / "token_stores"


@dataclasses.dataclass(frozen=True)
class Data:
    """Where examples come from.

    Attributes:
        feature_lengths: most tokens of "inputs" (the prompt not counted) and of "targets".
        store_root: folder of the token stores; None for the user's cache. At an address they are
            shared by all hosts, each of which has a copy in its cache.
        split_rules: task name -> rule of `mpt_jax.data.splits` (e.g. "halved_validation" for sets
            without a public test split); tasks that are not named have the rule of their family, or
            the "official" splits.
        families: tasks that are registered with the backbone's vocabulary.
    """

    feature_lengths: Mapping[str, int]
    store_root: str | None = None
    split_rules: Mapping[str, str] = dataclasses.field(default_factory=dict)
    families: tuple[TaskFamily, ...] = ()

    def register(self, task_modules: tuple[str, ...], vocabulary: Vocabulary) -> None:
        """Registers the shipped tasks and the user's, and the families with the backbone's vocabulary."""
        tasks.load_task_modules((*DEFAULT_MODULES, *task_modules))
        register_families(self.families, vocabulary)

    def open(self, task: str, role: str) -> Examples:
        """The examples of `task` that serve as `role`: "train", "validation" or "test"."""
        given = self.store_root
        shared = given if given is not None and is_address(given) else None
        root = default_store_root() if given is None or shared else Path(given)
        root.mkdir(parents=True, exist_ok=True)
        of_families = {name: rule for f in self.families for name, rule in f.split_rules().items()}
        rule = self.split_rules.get(task, of_families.get(task, "official"))
        return examples_for(
            rule, role, lambda split: fill_store(task, split, self.feature_lengths, root, shared)
        )

    def tasks_of(
        self, mixture_or_task_name: str | Sequence[str], vocabulary: Vocabulary
    ) -> tuple[str, ...]:
        """The tasks of a mixture (or the one task), or of several, all of the backbone's vocabulary.

        Raises:
            UserError: an unknown name, or a task whose token ids mean something else.
        """
        given = mixture_or_task_name
        wanted = (given,) if isinstance(given, str) else tuple(given)
        names = tuple(dict.fromkeys(name for one in wanted for name in tasks.expand(one)))
        for name in names:
            tasks.check_vocabulary(name, vocabulary)
        return names
