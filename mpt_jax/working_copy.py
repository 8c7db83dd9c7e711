"""What is written piece by piece at an address: a folder of this machine, and a bucket that follows it.

A run directory in a bucket is worked on in a local folder, where Orbax, TensorBoard and all else find a file
system that can append, rename and lock. The bucket is told at certain moments: a checkpoint is saved, the run
ends. Then the changed files are uploaded, and those that *mark* something as whole come last: the record
of a checkpoint, run.json. So what is in the bucket is whole or does not count, whenever the process dies.
Orbax cannot write to s3:// itself; like this, both kinds of bucket are treated alike.
"""

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mpt_jax.errors import UserError
from mpt_jax.places import Bucket, Object, cache_folder, exists, is_address
from mpt_jax.scratch_folders import remove_abandoned, scratch_folder

_CHECKPOINT = re.compile(r"((?:.*/)?checkpoints/(?:.*/)?\d+)/(.+)")
_CHECKPOINT_MARKER = "record/metadata"
_RUN_MARKERS = ("run.json", "manifest.json")
_PASSING = re.compile(r"(^|/)\.|\.tmp$|\.unfinished(/|$)|\.orbax-checkpoint-tmp")
_AT_ONCE = 8
_TRIES = 5  # for a listing of which nothing was removed before it was fetched
T = TypeVar("T")


class WorkingCopy:
    """A local folder whose files go to an address; `working_copy` makes one.

    Args:
      bucket: the address.
      path: the local folder.
      wanted: which files are fetched from the bucket, by name.
      writes: False where another process of the run tells the bucket.
      before_push: called before anything is uploaded.
      listing: what there is, of which some is wanted.
    """

    def __init__(
        self, bucket: Bucket, path: Path, wanted: Callable[[str], bool] = lambda name: True,
        writes: bool = True, before_push: Callable[[], None] = lambda: None,
        listing: Callable[[Bucket], Mapping[str, Object]] = Bucket.objects,
    ):  # fmt: skip
        self.bucket, self.path, self._wanted, self._writes = bucket, path, wanted, writes
        self._before_push, self._listing = before_push, listing
        self._here: dict[str, tuple[int, int]] = {}  # size and time of the files that both have
        self._there: dict[str, Object] = {}

    def pull(self) -> None:
        """Makes the local folder what the bucket holds; half a checkpoint is left out.

        Others may write there meanwhile: where an object went after the listing, there is another one.
        """
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                self._pull()
                return
        raise UserError(
            f"{self.bucket.address}: what is there is removed before it can be fetched; which process does?"
        )

    def _pull(self) -> None:
        found = self._listing(self.bucket)
        whole = {name for name in found if _is_whole(name, found)}
        if self._writes:
            for name in filter(self._wanted, sorted(found.keys() - whole)):
                self.bucket.remove(name)  # a kill left it
        wanted = {
            name: found[name]
            for name in whole
            if name and not _PASSING.search(name) and self._wanted(name)
        }
        changed = [name for name, one in wanted.items() if self._there.get(name) != one]
        for name in self._there.keys() - wanted.keys():
            (self.path / name).unlink(missing_ok=True)
            self._here.pop(name, None)
        _each(self._fetch, changed)
        self._there = wanted

    def push(self) -> None:
        """Makes the bucket what the local folder holds."""
        if not self._writes:
            return
        now = _files(self.path)
        changed = sorted(name for name, state in now.items() if self._here.get(name) != state)
        gone = sorted(self._here.keys() - now.keys())
        if changed or gone:
            self._before_push()
        for group in _by_rank(changed):
            _each(self._upload, group)
            self._here |= {name: now[name] for name in group}
        for group in reversed(list(_by_rank(gone))):  # what marks a thing as whole goes first
            _each(self.bucket.remove, group)
        for name in gone:
            del self._here[name]

    def shown(self, path: Path) -> str:
        below = path.relative_to(self.path).as_posix()
        return self.bucket.address if below == "." else self.bucket.at(below)

    def _fetch(self, name: str) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.bucket.in_words():
            try:
                self.bucket.files.get_file(self.bucket.at(name), str(target))
            except FileNotFoundError:
                target.unlink(missing_ok=True)
                raise
        self._here[name] = _state(target)

    def _upload(self, name: str) -> None:
        with self.bucket.in_words():
            self.bucket.files.put_file(str(self.path / name), self.bucket.at(name))


_open_copies: list[WorkingCopy] = []


@contextlib.contextmanager
def working_copy(
    address: str | os.PathLike[str],
    *,
    wanted: Callable[[str], bool] = lambda name: True,
    writes: bool = True,
    before_push: Callable[[], None] = lambda: None,
    listing: Callable[[Bucket], Mapping[str, Object]] = Bucket.objects,
) -> Iterator[WorkingCopy]:
    """A local folder with what is at `address`, for the length of a `with` block.

    What changed is uploaded at `tell_bucket` and at the end, also when the block fails.

    Args:
      wanted: which files are fetched, by name; all others stay where they are.
      writes: False: the bucket is never changed.
      before_push: called before anything is uploaded.
      listing: finds what is there, where a whole folder's listing could be long.

    Raises:
      UserError: the bucket cannot be reached.
    """
    bucket = Bucket(address)
    with _own_folder(bucket.address.rpartition("/")[2]) as folder:
        copy = WorkingCopy(bucket, folder, wanted, writes, before_push, listing)
        copy.pull()
        _open_copies.append(copy)
        try:
            yield copy
        finally:
            _open_copies.remove(copy)
            copy.push()


def tell_bucket(path: Path) -> None:
    """Uploads what changed in the working copy that `path` lies in; without one there is nothing to do."""
    if (copy := _copy_of(path)) is not None:
        copy.push()


def ask_bucket(path: Path) -> None:
    """Fetches what others changed, into the working copy that `path` lies in, if in one."""
    if (copy := _copy_of(path)) is not None:
        copy.push()
        copy.pull()


def is_working_copy(path: Path) -> bool:
    """Whether `path` lies in a folder that stands for an address."""
    return _copy_of(path) is not None


def shown(path: str | os.PathLike[str]) -> str:
    """A path as its user knows it: the address that a working copy stands for."""
    copy = _copy_of(Path(path))
    return str(path) if copy is None else copy.shown(Path(path))


def refuse_existing_output(path: str | os.PathLike[str]) -> None:
    """Raises UserError where something is at `path` already, which may be an address."""
    if exists(path) or (not is_address(path) and Path(path).is_symlink()):
        raise UserError(f"{path} exists; nothing is overwritten, name a new place.")


@contextlib.contextmanager
def new_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write a new file or folder in a `with` block; at an address it appears when that ends well.

    Raises:
      UserError: something is there already.
    """
    if not is_address(path):
        yield Path(path)
        return
    refuse_existing_output(path)
    bucket = Bucket(path)
    with _own_folder("output") as folder:
        made = folder / bucket.address.rpartition("/")[2]
        yield made
        # All of a folder's files, hidden ones too: the names of Zarr's begin with a dot.
        files = [path for path in (made, *made.rglob("*")) if path.is_file()]

        def upload(path: Path) -> None:
            name = "" if path == made else path.relative_to(made).as_posix()
            with bucket.in_words():
                bucket.files.put_file(str(path), bucket.at(name))

        _each(upload, files)


def _copy_of(path: Path) -> WorkingCopy | None:
    return next((c for c in reversed(_open_copies) if path.is_relative_to(c.path)), None)


def _is_whole(name: str, found: Iterable[str]) -> bool:
    match = _CHECKPOINT.fullmatch(name)
    return match is None or f"{match[1]}/{_CHECKPOINT_MARKER}" in found


def _by_rank(names: Iterable[str]) -> Iterator[list[str]]:
    """Names in groups: plain files, records of checkpoints, records of runs."""
    ranks: tuple[list[str], ...] = ([], [], [])
    for name in names:
        match = _CHECKPOINT.fullmatch(name)
        if match is not None:
            ranks[match[2] == _CHECKPOINT_MARKER].append(name)
        else:
            ranks[2 if name.rpartition("/")[2] in _RUN_MARKERS else 0].append(name)
    yield from ranks


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not _PASSING.search(name) and path.is_file():
            found[name] = _state(path)
    return found


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _each(function: Callable[[T], object], items: Iterable[T]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(function, items))


@contextlib.contextmanager
def _own_folder(name: str) -> Iterator[Path]:
    """A new folder of that name in the cache, removed at the end."""
    root = cache_folder() / "working"
    root.mkdir(parents=True, exist_ok=True)
    remove_abandoned(root.iterdir())
    with scratch_folder(root / uuid.uuid4().hex[:12]) as place:
        (folder := place / name).mkdir()
        yield folder
