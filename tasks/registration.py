"""Names for tasks that a configuration registers."""

from __future__ import annotations

import re

from mpt_jax.data.tasks import import_seqio
from mpt_jax.errors import UserError


def check_free(name: str) -> None:
    """Make sure that a task or mixture may be called `name`.

    Raises:
        UserError: seqio does not allow the name, or another task or mixture has it.
    """
    if not re.fullmatch(r"[\w.:]+", name):
        raise UserError(
            f"A task cannot be called {name!r}; expected letters, digits and any of _ . : only."
        )
    seqio = import_seqio()
    if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        raise UserError(
            f"There is a task or mixture {name!r} already; give this one another name, or start a new "
            "process if it is the same one with other settings."
        )
