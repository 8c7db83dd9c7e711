"""Stores in a bucket: filled on one host, found there by all others.

The manifest is uploaded last, so a store without one does not count. Two hosts that fill the same store at
the same time do no harm: its name says all that its content depends on.
"""

from pathlib import Path

from mpt_jax.data.store import MANIFEST
from mpt_jax.fetched import local_copy
from mpt_jax.places import Bucket, join
from mpt_jax.working_copy import WorkingCopy


def is_published(root: str, name: str) -> bool:
    """Whether a whole store of that name is at the address `root`.

    Raises:
        UserError: the address cannot be reached.
    """
    return MANIFEST in Bucket(join(root, name)).objects()


def fetch_store(root: str, name: str, what: str) -> Path | None:
    """The folder of the store of that name at the address `root`, if there is a whole one.

    Args:
        what: of the store, for messages.

    Raises:
        UserError: the address cannot be reached.
    """
    return local_copy(join(root, name), what) if is_published(root, name) else None


def publish_store(folder: Path, root: str) -> None:
    """Uploads a store to the address `root`, unless it is there.

    Raises:
        UserError: the address cannot be reached, or not be written.
    """
    if not is_published(root, folder.name):
        WorkingCopy(Bucket(join(root, folder.name)), folder).push()
