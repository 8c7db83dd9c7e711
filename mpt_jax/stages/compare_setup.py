"""What `mpt compare` compares, and how each method's learning rate is searched: an equal budget for all."""

import dataclasses
from collections.abc import Mapping

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.stages import distill
from mpt_jax.stages.variants import Variant


@dataclasses.dataclass(frozen=True)
class Search:
    """The search of learning rates, on validation data and few-shot draws of its own.

    Every method tries the same number of candidates, for the same number of steps and rows.

    Attributes:
        mixture_or_task_name: the tasks on which candidates are tried.
        rates: learning rates by the name of a variant or of a method, or for all "network", "factors"
            and "prompts" (methods that change the network, that train factors beside a prompt, others).
        ratios: factor rates as multiples of the learning rate, by the same names; 1 for those that are
            not named.
        shots, seeds: of the draws; the seeds are others than the comparison's.
        steps: of each candidate.
        eval_period: steps between evaluations.
    """

    mixture_or_task_name: str
    rates: Mapping[str, tuple[float, ...]]
    ratios: Mapping[str, tuple[float, ...]]
    shots: tuple[int | None, ...]
    seeds: tuple[int, ...]
    steps: int
    eval_period: int

    def grid(self, variant: Variant) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The variant's learning rates, and the ratios of its factor rates to them.

        Raises:
            UserError: there are none for it.
        """
        kind = "network" if variant.changes_network else "prompts"
        names = (variant.name, variant.method, "factors" if variant.has_factors else kind, kind)
        rates = next((self.rates[name] for name in names if name in self.rates), ())
        ratios = next((self.ratios[name] for name in names if name in self.ratios), (1.0,))
        if not rates or (variant.has_factors and not ratios):
            raise UserError(
                f"the search has no learning rates for {variant.name}: give SEARCH_RATES an entry of one "
                f"of the names {', '.join(map(repr, dict.fromkeys(names)))}."
            )
        return tuple(rates), tuple(ratios) if variant.has_factors else (1.0,)

    def candidates(self, variant: Variant) -> int:
        """How many settings of the variant are tried."""
        rates, ratios = self.grid(variant)
        return len(rates) * len(ratios)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A method from a part of the source tasks only, beside the same from all of them.

    Attributes:
        sources: what it is called in the report -> the source tasks.
        mixture_or_task_name: target tasks, of those that are compared.
        method: of the comparison; one that starts from the distilled prompt.
    """

    sources: Mapping[str, str]
    mixture_or_task_name: str
    method: str = "mpt"


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is compared.

    Attributes:
        variants: all that can be named.
        methods: those that are compared, or one name; all if None.
        distilled: the variants of distill that methods may start from.
        sources, targets: seqio tasks or mixtures.
        prompt_length, rank: P and R.
        shots, seeds, per_class: as of adapt.
        teach_steps, distill_steps, steps: of teachers, shared prompts, and every method on targets.
        teach_rows, distill_rows: rows of each teacher, and of each shared prompt, in a step.
        rows: of each target task in a step; a member of several tasks has so many for each.
        source_eval_period, eval_period: steps between evaluations.
        search: of the learning rates.
        teachers_dir, distilled_dir: finished runs of teach and distill to start from, instead of making
            them.
        transfer: from a part of the source tasks; None leaves it out.
        split, max_examples: as of evaluate.
    """

    variants: tuple[Variant, ...]
    distilled: tuple[distill.Variant, ...]
    sources: str
    targets: str
    prompt_length: int
    teach_steps: int
    distill_steps: int
    steps: int
    rows: int
    search: Search
    methods: str | tuple[str, ...] | None = None
    rank: int = 1
    shots: tuple[int | None, ...] = (16,)
    seeds: tuple[int, ...] = (0, 1, 2)
    per_class: tuple[str, ...] = ()
    teach_rows: int = 32
    distill_rows: int = 32
    source_eval_period: int = 1000
    eval_period: int = 1000
    teachers_dir: str | None = None
    distilled_dir: str | None = None
    transfer: Transfer | None = None
    split: str = "test"
    max_examples: int | None = None

    @property
    def chosen(self) -> tuple[Variant, ...]:
        """The variants that are compared, in the order in which they are named.

        Raises:
            UserError: an unknown name.
        """
        known = {variant.name: variant for variant in self.variants}
        if self.methods is None:
            return tuple(known.values())
        names = (self.methods,) if isinstance(self.methods, str) else self.methods
        for name in names:
            if name not in known:
                raise unknown_name("method", name, known)
        return tuple(known[name] for name in dict.fromkeys(names))

    def check(self) -> None:
        """Checks that the budgets are equal, and that no choice is made on what is reported.

        Raises:
            UserError: they are not, seeds are shared, or the transfer names no method of the comparison.
        """
        counts = {variant.name: self.search.candidates(variant) for variant in self.chosen}
        if not counts:
            raise UserError("no method is named: METHOD is empty.")
        if len(set(counts.values())) > 1:
            raise UserError(
                f"the search is to have an equal budget, but the methods have different numbers of "
                f"candidates: {counts}. Give SEARCH_RATES and SEARCH_RATIOS grids of one size."
            )
        if shared := sorted(set(self.seeds) & set(self.search.seeds)):
            raise UserError(
                f"SEEDS and SEARCH_SEEDS share {shared}: rates would be chosen on the draws that are "
                "reported. Give the search seeds of its own."
            )
        if self.transfer is not None and self.transfer.method not in counts:
            raise unknown_name("method of the transfer", self.transfer.method, counts)
