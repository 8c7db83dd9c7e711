"""The error that a user can mend, and the wording of the most frequent one: a name that nobody knows."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something in the user's input, files or configuration is wrong and can be mended there.

    The message says what was got, what was expected and where to mend it. `mpt` prints it without a
    traceback and exits with code 1.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for `name`, with the nearest of the `known` names.

    >>> str(unknown_name("task", "glue_rt", ["glue_rte", "glue_cola"]))
    "unknown task 'glue_rt'; did you mean 'glue_rte'?"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    if near:
        hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif names:
        shown = ", ".join(names[:12])
        hint = f"known are: {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    else:
        hint = "none is known"
    return UserError(f"unknown {kind} {name!r}; {hint}")


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved, and the same command goes on from there.

    `mpt` exits with code 75 (EX_TEMPFAIL: "try again"), so that a scheduler can tell it from failure.
    """

    exit_code = 75
