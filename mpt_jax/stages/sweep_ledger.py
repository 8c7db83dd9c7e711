"""The ledger of a sweep: an Optuna study that any number of workers share, on one machine or several.

A worker asks for a population (trials that compile alike) and tells all of them. A trial is waiting,
running, done, pruned or failed; which setting it has, who works on it and what came out stands in its user
attributes, so that the ledger alone is enough for a report.
"""

import contextlib
import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.places import exists, is_address, is_bucket, join
from mpt_jax.stages.sweep_optuna import (
    default_ledger,
    import_optuna,
    make_sampler,
    open_storage,
    with_fixed,
)
from mpt_jax.stages.sweep_setup import Setup
from mpt_jax.stages.sweep_space import COMPILED, Range, Setting, Settings
from mpt_jax.stages.sweep_trial import DONE, FAILED, RUNNING, STATES, WAITING, Trial, trial_of
from mpt_jax.stages.sweep_workers import GRACE_SECONDS, locked

CLAIM_SECONDS = 2.0  # longer than two workers that claim the same trials are apart
FIRST_SEED = 1  # the step of the only intermediate value
MOST_REPEATS = 50  # settings drawn again in a row: then there are no others
_BEAT = "beat of "


class Ledger:
    """An open ledger.

    Args:
        storage: a database URL that Optuna takes, or the place of a journal; None for
            `ledger.sqlite` in MODEL_DIR, or a journal there at an address.
        model_dir: MODEL_DIR.
        setup, settings: the sweep.
        joins: False only looks at it.

    Raises:
        UserError: Optuna is missing, the storage cannot be opened, or it holds another sweep or none.
    """

    def __init__(
        self, storage: str | None, model_dir: str, setup: Setup, settings: Settings, *, joins: bool = True
    ):  # fmt: skip
        self._optuna = import_optuna()
        self._setup, self._settings = setup, settings
        if not joins:
            place = storage or default_ledger(model_dir)
            if (is_bucket(place) or not is_address(place)) and not exists(place):
                raise UserError(f"there is no sweep: {place} does not exist")
            self.study = self._open(storage, model_dir)
            if "sweep" not in self.study.user_attrs:
                raise UserError(f"there is no sweep in the ledger {place}")
            self._check_same()
            return
        # Two workers that open a new ledger at once would both make its tables, and fill its queue.
        with locked(join(model_dir, ".ledger.lock")):
            self.study = self._open(storage, model_dir)
            if "sweep" not in self.study.user_attrs:
                self.study.set_user_attr("sweep", self._told())
            self._check_same()
            workers = self.study.user_attrs.get("workers", 0)
            self.study.set_user_attr("workers", workers + 1)
            if setup.sampler == "grid":
                self._enqueue(settings.grid())
        self._sampler = make_sampler(setup, workers)

    # What stands in it.

    def trials(self) -> list[Trial]:
        """All, in order."""
        return [trial_of(t) for t in self._frozen()]

    @property
    def base(self) -> Setting:
        return self._settings.base

    def beats(self) -> dict[str, float]:
        """Worker -> when it last said that it is alive; 0 when it has gone."""
        attributes = self.study.user_attrs.items()
        return {n.removeprefix(_BEAT): v for n, v in attributes if n.startswith(_BEAT)}

    def left(self, trials: Sequence[Trial]) -> int:
        """How many are still to be asked for."""
        if self._setup.sampler == "grid":
            return sum(trial.state == WAITING for trial in trials)
        begun = sum(trial.state != WAITING for trial in trials)
        return max(int(self._setup.trials or 0) - begun, 0)

    # Work.

    def beat(self, worker: str, when: float) -> None:
        self.study.set_user_attr(_BEAT + worker, when)

    def ask(self, worker: str) -> list[list[Trial]]:
        """The next trials, as populations: one, or more where another worker asked at the same time."""
        asked: list[tuple[int, Setting]] = []
        in_vain = 0
        while len(asked) < self._setup.population and in_vain < MOST_REPEATS:
            trials = self.trials()
            waiting = [t.setting for t in trials if t.state == WAITING and t.setting is not None]
            if not self.left(trials):
                break
            compiled = asked[0][1].compiled if asked else None
            if waiting and compiled not in (None, waiting[0].compiled):
                break
            found = self._ask(worker, compiled)
            in_vain = 0 if found is not None else in_vain + 1
            if found is not None:
                asked.append(found)
        populations: dict[Any, list[int]] = {}
        for number, setting in asked:
            populations.setdefault(setting.compiled, []).append(number)
        return [self._make_population(numbers) for numbers in populations.values()]

    def stale(self, is_alive: Callable[[str], bool]) -> list[list[Trial]]:
        """Running trials whose worker is gone: whole populations, finished members included."""
        # A population keeps members that failed and were queued again: its run directories have them.
        trials = [trial_of(t) for t in self._frozen(retried=True)]
        lost = [t for t in trials if t.state == RUNNING and not self._has_worker(t, is_alive)]
        names = dict.fromkeys(t.population for t in lost if t.population)
        found = [[t for t in trials if t.population == name] for name in names]
        orphans: dict[Any, list[int]] = {}
        for trial in lost:
            if not trial.population and trial.setting is not None:
                orphans.setdefault(trial.setting.compiled, []).append(trial.number)
            elif not trial.population:
                self.discard(trial.number)
        return found + [self._make_population(numbers) for numbers in orphans.values()]

    def claim(self, population: Sequence[Trial], worker: str) -> bool:
        """Takes a stale population over; False if another worker was as quick, and has it.

        A storage has no common way to compare and set. So both write their names, wait until the other
        must have written, and the one whose name is there has it.
        """
        running = [trial for trial in population if trial.state == RUNNING]
        for trial in running:
            with contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
                self.note(trial.number, taken_from=trial.worker, worker=worker)
        time.sleep(CLAIM_SECONDS)
        return all(self.trials_by_number()[trial.number].worker == worker for trial in running)

    def trials_by_number(self) -> dict[int, Trial]:
        return {trial.number: trial for trial in self.trials()}

    def note(self, number: int, **attributes: Any) -> None:
        """Writes down something about a running trial."""
        for name, value in attributes.items():
            self.study._storage.set_trial_user_attr(self._id(number), name, value)

    def note_first(self, number: int, score: float) -> None:
        """Writes down a running trial's score with its first seed, as Optuna's intermediate value."""
        self.study._storage.set_trial_intermediate_value(self._id(number), FIRST_SEED, score)

    def prunes(self, number: int) -> bool:
        """Whether a trial is not among the share that is kept, of all that have a first score by now.

        Optuna's own pruners do not fit populations: the median compares with finished trials only, and
        successive halving keeps whoever happens to be looked at first.
        """
        scores = {
            t.number: t.intermediate_values[FIRST_SEED]
            for t in self._frozen()
            if FIRST_SEED in t.intermediate_values
        }
        better = sum(score > scores[number] for score in scores.values())
        return better >= math.ceil(self._setup.keep * len(scores))

    def tell(self, number: int, state: str, score: float | None = None) -> None:
        """Ends a trial. One that another worker has ended stays as it is."""
        states = {name: key for key, name in STATES.items()}
        values = score if state == DONE else None
        state_of_trial = self._optuna.trial.TrialState[states[state]]
        self.study.tell(number, values, state=state_of_trial, skip_if_finished=True)

    def discard(self, number: int) -> None:
        """Ends a trial that is one too many; it counts for nothing."""
        self.note(number, discarded=True)
        self.tell(number, FAILED)

    def retry_failed(self) -> int:
        """Puts the failed trials into the queue again, and returns how many."""
        failed = [t for t in self.trials() if t.state == FAILED and t.setting is not None]
        # Finished trials cannot be changed: a note of the study takes them out.
        again = [*self.study.user_attrs.get("retried", []), *(t.number for t in failed)]
        self.study.set_user_attr("retried", again)
        self._put([t.setting for t in failed if t.setting is not None])
        return len(failed)

    # Inside.

    def _frozen(self, *, retried: bool = False) -> list[Any]:
        out = set() if retried else set(self.study.user_attrs.get("retried", []))
        found = self.study.get_trials(deepcopy=False)
        return [t for t in found if not t.user_attrs.get("discarded") and t.number not in out]

    def _by_id(self) -> dict[int, Any]:
        return {t.number: t for t in self.study.get_trials(deepcopy=False)}

    def _id(self, number: int) -> int:
        return self._by_id()[number]._trial_id

    def _has_worker(self, trial: Trial, is_alive: Callable[[str], bool]) -> bool:
        if trial.worker:
            return is_alive(trial.worker)
        # One that was just asked for has no name yet.
        age = datetime.datetime.now() - (trial.begun or datetime.datetime.min)
        return age.total_seconds() < GRACE_SECONDS

    def _ask(self, worker: str, compiled: tuple[Any, ...] | None) -> tuple[int, Setting] | None:
        """One trial; None for one that was drawn before, or if another worker took the last meanwhile."""
        self.study.sampler = self._sampler
        if compiled is not None and self._setup.sampler != "grid":
            fixed = {
                n: v for n, v in zip(COMPILED, compiled, strict=True) if n in self._settings.axes
            }
            self.study.sampler = with_fixed(self._sampler, fixed)
        trial = self.study.ask()
        trial.set_user_attr("worker", worker)
        setting = self._settings.of({n: self._suggest(trial, n) for n in self._settings.axes})
        trial.set_user_attr("setting", dataclasses.asdict(setting))
        if self._is_superfluous(trial.number, setting):
            self.discard(trial.number)
            return None
        return trial.number, setting

    def _is_superfluous(self, number: int, setting: Setting) -> bool:
        before = [t for t in self.trials() if t.number < number]
        if setting in [t.setting for t in before]:
            # Drawn again, or queued twice by workers that began at once on two machines.
            return True
        if self._setup.sampler == "grid":
            return setting not in self._settings.grid()  # drawn, because the queue was just emptied
        return len([t for t in before if t.state != WAITING]) >= int(self._setup.trials or 0)

    def _suggest(self, trial: Any, axis: str) -> Any:
        values = self._settings.axes[axis]
        if not isinstance(values, Range):
            return trial.suggest_categorical(axis, values)
        whole = isinstance(values.low, int) and isinstance(values.high, int)
        suggest = trial.suggest_int if whole else trial.suggest_float
        return suggest(axis, values.low, values.high, log=values.log)

    def _make_population(self, numbers: Sequence[int]) -> list[Trial]:
        name = f"p{numbers[0]:04d}"
        for number in numbers:
            self.note(number, population=name)
        known = self.trials_by_number()
        return [known[number] for number in numbers]

    def _enqueue(self, grid: Sequence[Setting]) -> None:
        known = {trial.setting for trial in self.trials()}
        self._put([setting for setting in grid if setting not in known])

    def _put(self, settings: Sequence[Setting]) -> None:
        for setting in settings:
            params = {name: getattr(setting, name) for name in self._settings.axes}
            self.study.enqueue_trial(params, user_attrs={"setting": dataclasses.asdict(setting)})

    def _open(self, storage: str | None, model_dir: str) -> Any:
        try:
            return self._optuna.create_study(
                storage=open_storage(storage, model_dir), study_name="sweep", direction="maximize",
                load_if_exists=True,
            )  # fmt: skip
        except UserError:
            raise
        except Exception as error:  # whatever a database driver raises
            raise UserError(
                f"the ledger {storage or model_dir} cannot be opened ({error}); --storage takes a URL as of "
                "SQLAlchemy (its driver must be installed), or the path or address of a journal"
            ) from error

    def _told(self) -> dict[str, Any]:
        axes = {
            name: dataclasses.asdict(values) if isinstance(values, Range) else list(values)
            for name, values in self._settings.axes.items()
        }
        return {**self._setup.told, "axes": axes}

    def _check_same(self) -> None:
        """The first worker writes down what the sweep is; later ones have to agree."""
        was = self.study.user_attrs.get("sweep", {})
        changed = [
            f"{n} was {was.get(n)}, is {v}" for n, v in self._told().items() if was.get(n) != v
        ]
        if changed:
            raise UserError(
                f"the ledger holds another sweep ({'; '.join(changed[:4])}): give another --model_dir "
                "(and --storage)."
            )
