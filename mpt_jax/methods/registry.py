"""All methods by the names that files and configurations call them.

A new method is a line here. A user's own module registers its method without one, see
:func:`register`.
"""

from typing import TypeVar

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.adapter import Adapter
from mpt_jax.methods.attempt import Attempt
from mpt_jax.methods.bitfit import BitFit
from mpt_jax.methods.dept import DePT
from mpt_jax.methods.full import Full
from mpt_jax.methods.lora import LoRA
from mpt_jax.methods.method import Method
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.methods.ulpt import ULPT

METHODS: dict[str, type[Method]] = {
    method.kind: method
    for method in (PromptTuning, MPT, Attempt, ULPT, DePT, BitFit, Full, Adapter, LoRA)
}

AnyMethod = TypeVar("AnyMethod", bound=type[Method])


def register(method: AnyMethod) -> AnyMethod:
    """Makes a method known by its ``kind``, to be used as a class decorator.

    Raises:
      UserError: another method has the name.
    """
    if (known := METHODS.setdefault(method.kind, method)) is not method:
        raise UserError(
            f"The method name {method.kind!r} of {method.__module__}.{method.__qualname__} is taken by "
            f"{known.__module__}.{known.__qualname__}; give the class another `kind`."
        )
    return method


def method_named(kind: str) -> type[Method]:
    """The class of a method.

    Raises:
      UserError: there is none of that name, with the nearest names.
    """
    if kind not in METHODS:
        unknown = unknown_name("method", kind, METHODS)
        raise UserError(f"{unknown} (--method_module=FILE loads methods of your own)")
    return METHODS[kind]
