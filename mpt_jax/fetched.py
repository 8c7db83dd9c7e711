"""What is read at an address, as files of this machine: fetched once into the user's cache.

A fetch is a folder that is named by the address and by what the listing said of each object, so a changed
object is another fetch. It gets its name when all of it is there: half a download never counts, and what of
it was whole is kept for the next try.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mpt_jax.errors import UserError
from mpt_jax.places import Bucket, Object, cache_folder, exists, is_address

LARGE = 64 * 2**20  # bytes from which on a progress bar is shown

Choose = Callable[[Mapping[str, Object]], Mapping[str, Object]]


def everything(found: Mapping[str, Object]) -> Mapping[str, Object]:
    return found


def local_copy(
    path: str | os.PathLike[str], what: str = "path", choose: Choose = everything
) -> Path:
    """A path as it is, or for an address the file or folder with what is there.

    Args:
      path: a local path, or an address of an object or a folder.
      what: of the path, for messages.
      choose: which of the objects below an address are wanted.

    Raises:
      UserError: nothing is at the address, or it cannot be reached.
    """
    if not is_address(path):
        return Path(path)
    bucket = Bucket(path)
    found = bucket.objects()
    if not found:
        raise UserError(f"{what} {path}: nothing is there")
    # An object may have the name of a folder that is there too; the folder is meant.
    folder = {name: one for name, one in found.items() if name}
    return _copy(bucket, dict(choose(folder)) if folder else found)


def _copy(bucket: Bucket, wanted: Mapping[str, Object]) -> Path:
    key = hashlib.sha256(repr((bucket.address, sorted(wanted.items()))).encode()).hexdigest()[:16]
    place = cache_folder() / "fetched" / key
    inside = Path(*re.sub(r"^(\w+)://", r"\1/", bucket.address).split("/"))
    if not (place / inside).exists():
        _fetch(bucket, wanted, place, inside)
    return place / inside


def run_files(found: Mapping[str, Object]) -> Mapping[str, Object]:
    """What later stages want of a run directory, or of a folder of prompts.

    Of checkpoints that is their records; of a run of prompt-tuning, which also has T5X's checkpoints, the
    arrays. Locks are of no use to them, and change.
    """
    arrays = any(name.startswith("numpy_checkpoints/") for name in found)

    def wanted(name: str) -> bool:
        if "run.json" in found and name.startswith("checkpoints/"):
            return name.endswith("/record/metadata")
        if arrays and re.match(r"checkpoint_\d+(/|$)", name):
            return False
        return "tfevents" not in name and not name.startswith(".")

    return {name: one for name, one in found.items() if wanted(name)}


def with_neighbours(path: str | os.PathLike[str], names: Collection[str], what: str) -> Path:
    """A file as it is, or one at an address with those of its neighbours that have these names."""
    if not is_address(path):
        return Path(path)
    parent, _, name = str(path).rstrip("/").rpartition("/")
    found = Bucket(parent).some({name, *names})  # the folder may hold a million others
    if name not in found:
        raise UserError(f"{what} {path}: nothing is there")
    return _copy(Bucket(parent), found) / name


def prompts(path: str | os.PathLike[str]) -> Path:
    """Prompts in any form: one file, with the file of the shared prompt that it may refer to, or a folder."""
    if not is_address(path):
        return Path(path)
    if str(path).endswith(".safetensors"):
        return with_neighbours(path, ("shared.safetensors",), "prompts")
    if not exists(path) and exists(array := f"{path}.npy"):  # the ending may be left out
        return local_copy(array)
    return local_copy(path, "prompts", run_files)


def backbone(path: str | os.PathLike[str], what: str = "INITIAL_CHECKPOINT_PATH") -> Path:
    """A backbone's weights and vocabulary: a Hugging Face folder, or a T5X checkpoint (the last of several).

    What lies beside a T5X `checkpoint_<step>`, as a vocabulary may, comes with it.
    """
    parent, _, name = str(path).rstrip("/").rpartition("/")
    if not is_address(path) or not _STEP.match(name):
        return local_copy(path, what, _model_files)

    def choose(found: Mapping[str, Object]) -> Mapping[str, Object]:
        return {n: one for n, one in found.items() if "/" not in n or n.startswith(f"{name}/")}

    return local_copy(parent, what, choose) / name


_STEP = re.compile(r"checkpoint_(\d+)(?:/|$)")
_MODEL = re.compile(r"[^/]+\.(safetensors|json|model|txt)")


def _model_files(found: Mapping[str, Object]) -> Mapping[str, Object]:
    if "config.json" in found:  # of Hugging Face: the same weights lie there for other libraries
        return {name: one for name, one in found.items() if _MODEL.fullmatch(name)}
    steps = {int(match[1]) for name in found if (match := _STEP.match(name))}
    # The reader goes back to the one before where a checkpoint is not finished.
    last = {f"checkpoint_{step}" for step in sorted(steps)[-2:]}
    return {n: one for n, one in found.items() if not _STEP.match(n) or n.partition("/")[0] in last}


def _fetch(bucket: Bucket, wanted: Mapping[str, Object], place: Path, inside: Path) -> None:
    unfinished = place.with_name(f".{place.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    lock = os.open(unfinished, os.O_RDONLY)
    try:
        # Of several processes that want the same, one fetches and the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (place / inside).exists():
            return
        if not wanted:
            (unfinished / inside).mkdir(parents=True, exist_ok=True)
        total = sum(one.size for one in wanted.values())
        columns = (
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        )  # fmt: skip
        with Progress(*columns, disable=total < LARGE) as progress:
            bar = progress.add_task(f"fetching {bucket.address}", total=total)
            for name, one in sorted(wanted.items()):
                _fetch_one(bucket, name, one, unfinished / inside / name)
                progress.advance(bar, one.size)
        shutil.rmtree(place, ignore_errors=True)  # the user may have deleted what was in it
        os.rename(unfinished, place)
    finally:
        os.close(lock)


def _fetch_one(bucket: Bucket, name: str, one: Object, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f"{target.name}.half")
    with bucket.in_words():
        try:
            bucket.files.get_file(bucket.at(name), str(half))
        except FileNotFoundError:
            raise UserError(
                f"{bucket.at(name)} was removed while it was fetched; try again"
            ) from None
    if half.stat().st_size != one.size:
        raise UserError(
            f"{bucket.at(name)} has {half.stat().st_size} bytes, the listing said {one.size}: it was "
            "written while it was fetched; try again"
        )
    if one.time is not None:
        os.utime(half, (one.time, one.time))
    os.replace(half, target)
