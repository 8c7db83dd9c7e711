"""The runs of `mpt compare`, each a command line of `mpt` in a folder of its own.

MODEL_DIR/sources/teach, distill, evaluate         unless they are given
MODEL_DIR/methods/<method>/search                  adapt: all candidates in one program
MODEL_DIR/methods/<method>/train, evaluate         adapt with the best candidate; the test split
MODEL_DIR/transfer/<sources>/distill, train, evaluate
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpt_jax.errors import unknown_name
from mpt_jax.stages.command_runs import Run, fields, texts
from mpt_jax.stages.compare_setup import Setup
from mpt_jax.stages.starts import FROM_DISTILLED, FROM_TEACHERS
from mpt_jax.stages.variants import Variant

Expand = Callable[[str], tuple[str, ...]]  # a task or mixture -> its tasks


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which runs there are; those behind the search follow from what it chooses.

    Attributes:
        setup: what is compared.
        root: MODEL_DIR.
        expand: gives a mixture's tasks.
    """

    setup: Setup
    root: Path
    expand: Expand

    @property
    def teach(self) -> Run | None:
        """None where it is given or no method needs it."""
        setup = self.setup
        starts = {variant.start for variant in setup.chosen}
        distills = self._distills and setup.distilled_dir is None
        if setup.teachers_dir is not None or not (distills or starts & set(FROM_TEACHERS)):
            return None
        tasks = self.expand(setup.sources)
        settings = {
            "MIXTURE_OR_TASK_NAME": setup.sources, "PROMPT_LENGTH": setup.prompt_length,
            "TEACH_STEPS": setup.teach_steps, "TEACH_BATCH_SIZE": setup.teach_rows,
            "EVAL_PERIOD": setup.source_eval_period,
        }  # fmt: skip
        return Run(
            "teach", "sources/teach", self.root / "sources/teach", texts(settings), (), tasks,
            len(tasks), len(tasks) * setup.teach_rows, setup.teach_steps,
        )  # fmt: skip

    @property
    def distill(self) -> Run | None:
        """None where it is given or no method needs it."""
        setup = self.setup
        if not self._distills or setup.distilled_dir is not None:
            return None
        names = tuple(dict.fromkeys(v.source for v in setup.chosen if v.start in FROM_DISTILLED))
        return self._distill("sources/distill", setup.sources, names)

    @property
    def sources(self) -> tuple[Run, ...]:
        """All that is made before the methods: the source stage and its scores."""
        made = tuple(run for run in (self.teach, self.distill) if run is not None)
        folders = [f for f in (self.teachers_folder, self.distilled_folder) if f is not None]
        if not folders:
            return ()
        return (*made, self._evaluate("sources", "sources/evaluate", folders, made))

    @property
    def teachers_folder(self) -> str | None:
        made = self.teach
        return self.setup.teachers_dir if made is None else made.place

    @property
    def distilled_folder(self) -> str | None:
        made = self.distill
        return self.setup.distilled_dir if made is None else made.place

    def search(self, variant: Variant) -> Run:
        """All candidates of a method, on validation data."""
        search = self.setup.search
        rates, ratios = search.grid(variant)
        grid = {
            "adapt.rate_grid.learning_rates": rates, "adapt.rate_grid.factor_ratios": ratios,
            "adapt/fleet.Training.tolerate_divergence": True, "SHOTS": search.shots,
            "SEEDS": search.seeds, "ADAPT_STEPS": search.steps, "EVAL_PERIOD": search.eval_period,
        }  # fmt: skip
        references = {
            "adapt.run.variants": "@adapt.rate_grid()",
            "adapt.rate_grid.variants": "(@cell/adapt.Variant(),)",
        }
        return self._adapt(
            f"methods/{variant.name}/search", variant, search.mixture_or_task_name, grid, references,
            self._needs(variant), copies=len(rates) * len(ratios) * len(search.shots) * len(search.seeds),
        )  # fmt: skip

    def train(self, variant: Variant) -> Run:
        """A method with the rates that the search chose, which `variant` has."""
        return self._train(
            f"methods/{variant.name}/train", variant, self.setup.targets, self._needs(variant)
        )

    def test(self, variant: Variant) -> Run:
        """The scores of what `train` made."""
        train = self.train(variant)
        name = f"methods/{variant.name}/evaluate"
        return self._evaluate(name, name, [train.place], (train,))

    def transfer(self, variant: Variant) -> dict[str, tuple[Run, Run, Run]]:
        """distill, adapt and evaluate for each part of the source tasks.

        Args:
            variant: the method of the transfer with its chosen rates.
        """
        found: dict[str, tuple[Run, Run, Run]] = {}
        transfer = self.setup.transfer
        if transfer is None:
            return found
        for label, mixture in transfer.sources.items():
            folder = "transfer/" + re.sub(r"[^\w.-]+", "_", label)
            distill = self._distill(f"{folder}/distill", mixture, (variant.source,))
            train = self._train(
                f"{folder}/train", variant, transfer.mixture_or_task_name, (distill,),
                SOURCE_DIR=distill.place,
            )  # fmt: skip
            name = f"{folder}/evaluate"
            test = self._evaluate(name, name, [train.place], (train,))
            found[label] = (distill, train, test)
        return found

    @property
    def _distills(self) -> bool:
        return any(variant.start in FROM_DISTILLED for variant in self.setup.chosen)

    def _needs(self, variant: Variant) -> tuple[Run, ...]:
        wanted = []
        if variant.start in FROM_TEACHERS:
            wanted.append(self.teach)
        if variant.start in FROM_DISTILLED:
            wanted.append(self.distill)
        return tuple(run for run in wanted if run is not None)

    def _distill(self, name: str, mixture: str, variants: tuple[str, ...]) -> Run:
        setup, teach = self.setup, self.teach
        known = {variant.name: variant for variant in setup.distilled}
        settings: dict[str, Any] = {
            "MIXTURE_OR_TASK_NAME": mixture, "PROMPT_LENGTH": setup.prompt_length,
            "RANK": setup.rank, "DISTILL_STEPS": setup.distill_steps,
            "DISTILL_BATCH_SIZE": setup.distill_rows, "EVAL_PERIOD": setup.source_eval_period,
            "TEACHER_DIR": self.teachers_folder,
        }  # fmt: skip
        scopes = []
        for number, variant in enumerate(variants):
            if variant not in known:
                raise unknown_name("distilled variant", variant, known)
            scopes.append(f"source{number}/distill.Variant")
            settings |= fields(scopes[-1], known[variant])
        listed = {"distill.run.variants": f"({''.join(f'@{scope}(), ' for scope in scopes)})"}
        return Run(
            "distill", name, self.root / name, {**texts(settings), **listed},
            () if teach is None else (teach,), self.expand(mixture), len(variants),
            len(variants) * setup.distill_rows, setup.distill_steps,
        )  # fmt: skip

    def _train(
        self, name: str, variant: Variant, targets: str, needs: tuple[Run, ...], **more: Any
    ) -> Run:
        setup = self.setup
        own = {
            "SHOTS": setup.shots, "SEEDS": setup.seeds, "ADAPT_STEPS": setup.steps,
            "EVAL_PERIOD": setup.eval_period, **more,
        }  # fmt: skip
        references = {"adapt.run.variants": "(@cell/adapt.Variant(),)"}
        copies = len(setup.shots) * len(setup.seeds)
        return self._adapt(name, variant, targets, own, references, needs, copies)

    def _adapt(
        self, name: str, variant: Variant, targets: str, own: Mapping[str, Any],
        references: Mapping[str, str], needs: tuple[Run, ...], copies: int,
    ) -> Run:  # fmt: skip
        setup, tasks = self.setup, self.expand(targets)
        of_member = len(tasks) if variant.multi_target else 1
        settings = {
            "TARGET_MIXTURE_OR_TASK_NAME": targets, "PROMPT_LENGTH": setup.prompt_length,
            "RANK": setup.rank, "PER_CLASS": setup.per_class, "METHOD": None,
            "ADAPT_BATCH_SIZE": setup.rows * of_member,
            "TEACHER_DIR": self.teachers_folder, "SOURCE_DIR": self.distilled_folder, **own,
            **fields("cell/adapt.Variant", variant),
        }  # fmt: skip
        return Run(
            "adapt", name, self.root / name, {**texts(settings), **references}, needs, tasks,
            copies * len(tasks) // of_member, copies * len(tasks) * setup.rows,
            int(settings["ADAPT_STEPS"]),
        )  # fmt: skip

    def _evaluate(self, title: str, name: str, folders: list[str], needs: tuple[Run, ...]) -> Run:
        settings = {
            "SOURCES": tuple(folders), "SPLIT": self.setup.split,
            "MAX_EXAMPLES": self.setup.max_examples, "evaluate.run.title": title,
        }  # fmt: skip
        return Run("evaluate", name, self.root / name, texts(settings), needs)
