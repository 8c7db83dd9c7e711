"""A mixture of registered tasks, named in gin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mpt_jax.data.tasks import expand, import_seqio
from mpt_jax.errors import UserError
from mpt_jax.tasks.registration import check_free


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Tasks of any family under one name (`TaskFamily`); it stands behind theirs in `families`.

    Attributes:
        name: of the mixture.
        tasks: names of tasks and of other mixtures.
    """

    name: str
    tasks: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))  # hashable, where gin gives a list

    def split_rules(self) -> Mapping[str, str]:
        return {}

    def register(self, vocabulary: Any) -> None:
        """Adds the mixture, each task at the same rate.

        Raises:
            UserError: no tasks, or an unknown one, with the nearest names.
        """
        del vocabulary  # its tasks have theirs
        check_free(self.name)
        if not self.tasks:
            raise UserError(f"The mixture {self.name!r} has no tasks; name at least one.")
        members = dict.fromkeys(task for name in self.tasks for task in expand(name))
        import_seqio().MixtureRegistry.add(self.name, list(members), default_rate=1.0)
