"""All methods by the names that files and configurations call them. A new method is a line here."""

from mpt_jax.errors import unknown_name
from mpt_jax.methods.bitfit import BitFit
from mpt_jax.methods.dept import DePT
from mpt_jax.methods.full import Full
from mpt_jax.methods.method import Method
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.methods.ulpt import ULPT

METHODS: dict[str, type[Method]] = {
    method.kind: method for method in (PromptTuning, MPT, ULPT, DePT, BitFit, Full)
}


def method_named(kind: str) -> type[Method]:
    """The class of a method.

    Raises:
      UserError: there is none of that name, with the nearest names.
    """
    if kind not in METHODS:
        raise unknown_name("method", kind, METHODS)
    return METHODS[kind]
