"""Variants: the methods that adapt trains, as a configuration names and sets them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.methods.method import DoesNotFit, Method
from mpt_jax.methods.network_method import NetworkMethod
from mpt_jax.methods.registry import method_named
from mpt_jax.models.t5_config import T5Config


@dataclasses.dataclass(frozen=True)
class Variant:
    """One method of the comparison.

    Attributes:
        name: in file names and tables.
        method: what is trained, a name of `mpt_jax.methods.registry`.
        start: "vocabulary" (prompts from scratch), "shared" (the distilled shared prompt), "distilled"
            (the shared prompt with the mean task factors, the paper's start), "best_source" (the
            teacher with the lowest loss on the training examples, SPoT), "similar_source" (the teacher
            most similar to a prompt trained on the target before), "weighted_sources" (the mean of all
            teachers, weighted by that similarity or, without such a prompt, by trial), "sources" (the
            best source, with all teachers frozen beside it, ATTEMPT), or "backbone" (for methods that
            change the network: what computes the same as the backbone).
        source: the distilled variant that "shared" and "distilled" start from.
        learning_rate: of the plain or the shared prompt, or of what a method has instead; 0 keeps
            it frozen.
        factor_learning_rate: of task factors, and of what else a method trains beside a prompt.
        options: the method's own settings, e.g. {"rank": 8}.
        multi_target: one member learns all target tasks together (the paper's starred rows).
    """

    name: str
    method: str
    start: str
    learning_rate: float
    factor_learning_rate: float = 0.0
    source: str = "mpt"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    multi_target: bool = False

    def __post_init__(self):
        if self.learning_rate < 0 or self.factor_learning_rate < 0:
            raise UserError(f"variant {self.name}: learning rates are not below 0.")
        starts = method_named(self.method).starts
        if self.start not in starts:
            raise unknown_name(f"start of variant {self.name} ({self.method})", self.start, starts)

    @property
    def has_factors(self) -> bool:
        """Whether the factor rate is used."""
        return method_named(self.method).has_factors

    @property
    def changes_network(self) -> bool:
        return issubclass(method_named(self.method), NetworkMethod)

    def check_precision(self, weights: str | None) -> None:
        """Raises UserError if it cannot train on a backbone whose weights are kept so."""
        method = method_named(self.method)
        if issubclass(method, NetworkMethod):
            method.check_precision(weights)


def rate_grid(
    variants: Sequence[Variant],
    learning_rates: Sequence[float],
    factor_ratios: Sequence[float] = (1.0,),
) -> tuple[Variant, ...]:
    """Every variant at every learning rate, as variants named `<name>@<rate>`: a search in one fleet.

    Args:
        variants: whose own rates are replaced.
        learning_rates: of the plain or shared prompt.
        factor_ratios: factor rates as multiples of these, for variants with task factors
            (`<name>@<rate>x<ratio>`).
    """
    found = []
    for variant, rate in itertools.product(variants, learning_rates):
        ratios = factor_ratios if variant.has_factors else (0.0,)
        for ratio in ratios:
            suffix = f"x{ratio:g}" if variant.has_factors else ""
            found.append(
                dataclasses.replace(
                    variant,
                    name=f"{variant.name}@{rate:g}{suffix}",
                    learning_rate=rate,
                    factor_learning_rate=rate * ratio,
                )
            )
    return tuple(found)


def chosen_variants(
    variants: Sequence[Variant], methods: str | Sequence[str] | None
) -> tuple[Variant, ...]:
    """The variants that are meant, in the order in which they are named."""
    named = {variant.name: variant for variant in variants}
    if len(named) < len(variants) or not variants:
        raise UserError(f"variants need different names: {[v.name for v in variants]}.")
    if methods is None:
        return tuple(variants)
    wanted = (methods,) if isinstance(methods, str) else tuple(methods)
    if not wanted:
        raise UserError(f"METHOD names no method; known are {sorted(named)}.")
    for name in wanted:
        if name not in named:
            raise unknown_name("method", name, named)
    return tuple(named[name] for name in dict.fromkeys(wanted))


def build_method(
    variant: Variant, members: int, tasks: int, length: int, rank: int, config: T5Config,
    name: str | None = None,
) -> Method:  # fmt: skip
    """The method of a variant, for so many members of so many tasks.

    Args:
        length, rank: P and MPT's R, unless the variant's options say otherwise.
        name: of the method in its bank; what it is called everywhere if None.

    Raises:
        DoesNotFit: there is no such method on this backbone.
        UserError: wrong options, wherever it is made.
    """
    kind = method_named(variant.method)
    options = {"rank": rank, **variant.options} if variant.method == "mpt" else variant.options
    try:
        kind.check_options(options)
        return kind.build(
            name=name or variant.method, members=members, tasks=tasks, config=config,
            **{"length": length, **options},
        )  # fmt: skip
    except (TypeError, ValueError, DoesNotFit) as error:
        names = ", ".join(kind.options()) or "none"
        reason = str(error).removesuffix(".")
        kind_of_error = DoesNotFit if isinstance(error, DoesNotFit) else UserError
        raise kind_of_error(
            f"variant {variant.name}: options {dict(options)}: {reason}. The options of "
            f"{variant.method} are: {names}."
        ) from error
