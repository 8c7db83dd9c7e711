"""What `mpt sweep` takes from Optuna: storages and samplers. Imported when a ledger is opened."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.places import is_address, is_bucket, join
from mpt_jax.stages.sweep_journal import BucketJournal
from mpt_jax.stages.sweep_setup import Setup


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


def default_ledger(model_dir: str) -> str:
    """Where a sweep's ledger is that was given none: a SQLite file, or a journal in the bucket."""
    return join(model_dir, ".ledger" if is_address(model_dir) else "ledger.sqlite")


def open_storage(storage: str | None, model_dir: str) -> Any:
    """A database (URL), a journal (file or address), or the sweep's own ledger (None)."""
    storages = import_optuna().storages
    url = storage or default_ledger(model_dir)
    if is_bucket(url):
        return storages.JournalStorage(BucketJournal(url))
    if storage is None:
        url = f"sqlite:///{Path(url).absolute()}"
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
