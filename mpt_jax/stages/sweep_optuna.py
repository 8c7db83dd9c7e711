"""What `mpt sweep` takes from Optuna: storages and samplers. Imported when a ledger is opened."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.stages.sweep_setup import Setup

DEFAULT_LEDGER = "ledger.sqlite"


def import_optuna() -> Any:
    """Optuna, without its messages about every trial.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "mpt sweep keeps its ledger with Optuna: pip install 'mpt_jax[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_storage(storage: str | None, root: Path) -> Any:
    """A database (URL), a journal file (path), or the sweep's own SQLite file (None)."""
    storages = import_optuna().storages
    url = f"sqlite:///{(root / DEFAULT_LEDGER).absolute()}" if storage is None else storage
    if "://" not in url:
        return storages.JournalStorage(storages.journal.JournalFileBackend(url))
    if url.startswith("sqlite"):
        waiting = {"connect_args": {"timeout": 120}}  # for other workers to have written
        return storages.RDBStorage(url, engine_kwargs=waiting)
    return storages.get_storage(url)


def make_sampler(setup: Setup, worker: int) -> Any:
    """Args: worker: how many were there before; two of them must not draw the same."""
    samplers, seed = import_optuna().samplers, setup.sampler_seed + 1_000_003 * worker
    if setup.sampler == "tpe":
        # Constant liar: a population asks for many trials before any of them is told.
        return _quiet(samplers.TPESampler, seed=seed, constant_liar=True)
    return samplers.RandomSampler(seed=seed)


def with_fixed(sampler: Any, fixed: Mapping[str, Any]) -> Any:
    """The sampler for trials that have these values."""
    return _quiet(import_optuna().samplers.PartialFixedSampler, dict(fixed), sampler)


def _quiet(make: Any, *args: Any, **options: Any) -> Any:
    """Optuna calls these experimental, at each use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", import_optuna().exceptions.ExperimentalWarning)
        return make(*args, **options)
