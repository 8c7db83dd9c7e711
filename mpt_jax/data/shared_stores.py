"""Token stores in a bucket: filled on one host, found there by all others.

The manifest is uploaded last, so a store without one does not count. Two hosts that fill the same store at
the same time do no harm: its name says all that its content depends on.
"""

from mpt_jax.data.store import MANIFEST, TokenStore
from mpt_jax.fetched import local_copy
from mpt_jax.places import Bucket, join
from mpt_jax.working_copy import WorkingCopy


def fetch_store(root: str, name: str) -> TokenStore | None:
    """The store of that name at the address `root`, if there is a whole one.

    Raises:
        UserError: the address cannot be reached, or the store is damaged.
    """
    address = join(root, name)
    if MANIFEST not in Bucket(address).objects():
        return None
    return TokenStore(local_copy(address, "token store"))


def publish_store(store: TokenStore, root: str) -> None:
    """Uploads a store to the address `root`, unless it is there.

    Raises:
        UserError: the address cannot be reached, or not be written.
    """
    bucket = Bucket(join(root, store.folder.name))
    if MANIFEST not in bucket.objects():
        WorkingCopy(bucket, store.folder).push()
