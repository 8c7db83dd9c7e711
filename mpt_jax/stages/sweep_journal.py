"""The ledger of a sweep in a bucket: Optuna's journal, each entry an object whose name is its number.

A bucket has no append, but an object can be made on condition that there is none of its name. So of several
workers that write entry n one succeeds, and the others go on with n + 1. Nothing has to be locked, and
nobody who dies leaves anything half done.
"""

import contextlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mpt_jax.errors import UserError
from mpt_jax.places import Bucket

_AT_ONCE = 16
_FEW = 8  # entries that are read one by one; for more the folder is listed


class BucketJournal:
    """A journal backend as `optuna.storages.JournalStorage` takes it.

    Args:
        address: of a folder that holds nothing else.

    Raises:
        UserError: it cannot be reached, or its store does not know the condition.
    """

    def __init__(self, address: str):
        self._bucket = Bucket(address)
        self._next = 0
        for _ in range(2):
            try:
                self._bucket.write("begun", b"", new=True)
            except FileExistsError:
                return
        raise UserError(
            f"the store of {address} writes an object again that was to be written only if new, so workers "
            "cannot share a ledger there: give --storage, a database"
        )

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """The entries from a number on."""
        texts: list[bytes] = []
        with contextlib.suppress(FileNotFoundError):
            while len(texts) < _FEW:
                texts.append(self._read(log_number_from + len(texts)))
        if len(texts) == _FEW:
            numbers = sorted(int(name) for name in self._bucket.names() if name.isdecimal())
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                texts += pool.map(self._read, numbers[log_number_from + _FEW :])
        self._next = log_number_from + len(texts)
        return [json.loads(text) for text in texts]

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        """Writes entries behind all that are there."""
        for log in logs:
            text = json.dumps(log).encode()
            while not self._write(text):
                self._next += 1
            self._next += 1

    def _write(self, text: bytes) -> bool:
        with contextlib.suppress(FileExistsError):
            self._bucket.write(_name(self._next), text, new=True)
            return True
        # It may be this very one: the answer of the first try was lost. No two workers' entries are the same.
        return self._read(self._next) == text

    def _read(self, number: int) -> bytes:
        return self._bucket.read(_name(number))


def _name(number: int) -> str:
    return f"{number:08d}"
