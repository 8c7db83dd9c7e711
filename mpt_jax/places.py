"""Where a path may be: a folder of this machine, or an address in a bucket (gs://, s3://).

All that is done with addresses goes through this module and its two neighbours: `fetched` brings what is
read into a cache, `working_copy` is for what is written piece by piece. Everything else sees local paths.
Buckets are read and written with fsspec; gcsfs or s3fs, an extra of this package each, does the work.
"""

import contextlib
import datetime
import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mpt_jax.errors import UserError

_ADDRESS = re.compile(r"([A-Za-z][\w+.-]*):(/+)")


class _Scheme(NamedTuple):
    """A kind of bucket: what pip calls the extra, and where its credentials come from."""

    extra: str
    package: str
    credentials: str


_SCHEMES = {
    "gs": _Scheme(
        "gcs", "gcsfs",
        "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS with a key file",
    ),
    "s3": _Scheme(
        "s3", "s3fs",
        "`aws configure`, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_ENDPOINT_URL for "
        "other stores than Amazon's)",
    ),
}  # fmt: skip


class Object(NamedTuple):
    """What a listing says of one object: a changed one has another size or version."""

    size: int
    version: str
    time: float | None = None


def is_address(path: object) -> bool:
    """Whether a path that a user gave means a bucket (gs://bucket/a) or something else far away."""
    return _ADDRESS.match(str(path)) is not None


def is_bucket(path: object) -> bool:
    """Whether an address is a bucket's, and not a database's or some other."""
    match = _ADDRESS.match(str(path))
    return match is not None and match[1].lower() in _SCHEMES


def join(root: str | os.PathLike[str], *names: str) -> str:
    """A place below `root`, which may be an address."""
    if is_address(root):
        return "/".join([str(root).rstrip("/"), *names])
    return str(Path(root, *names))


def cache_folder() -> Path:
    """The folder of what can be made or fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpt_jax"


class Bucket:
    """The file system of an address, checked once: known, installed, reachable.

    Attributes:
      address: without a slash at its end.
      files: fsspec's file system.

    Raises:
      UserError: an unknown kind of address, an extra that is not installed, no credentials, no such bucket.
    """

    _checked: set[str] = set()

    def __init__(self, address: str | os.PathLike[str]):
        match = _ADDRESS.match(str(address))
        if match is None:
            raise ValueError(f"{address} is no address")
        scheme, slashes, rest = match[1].lower(), match[2], str(address)[match.end() :].strip("/")
        if scheme not in _SCHEMES:
            raise UserError(
                f"{address}: addresses of the kind {scheme}: are not known; gs://BUCKET/... and "
                "s3://BUCKET/... are"
            )
        if len(slashes) != 2 or not rest:
            raise UserError(f"{address}: expected {scheme}://BUCKET/FOLDER")
        self.address = f"{scheme}://{rest}"
        self._scheme = _SCHEMES[scheme]
        self._root = f"{scheme}://{rest.partition('/')[0]}"
        self.files = self._open(scheme)
        if self._root not in self._checked:
            self._check()
            self._checked.add(self._root)

    def _open(self, scheme: str) -> Any:
        try:
            fsspec: Any = importlib.import_module("fsspec")
            kind = fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            raise UserError(
                f"{self.address} needs {self._scheme.package} ({error}): "
                f"pip install 'mpt_jax[{self._scheme.extra}]'"
            ) from error
        # Other hosts write there too: what a listing said a moment ago may be wrong now.
        with self.in_words():
            return kind(use_listings_cache=False, skip_instance_cache=False)

    def _check(self) -> None:
        with self.in_words():
            try:
                self.files.ls(self.address, detail=False)
            except FileNotFoundError:
                # The folder need not be there yet, but the bucket must. One may be allowed to see a
                # bucket's folder and not the bucket.
                with contextlib.suppress(PermissionError):
                    try:
                        self.files.ls(self._root, detail=False)
                    except FileNotFoundError:
                        raise UserError(
                            f"{self.address}: there is no bucket {self._root}"
                        ) from None
            except NotADirectoryError:
                pass

    @contextlib.contextmanager
    def in_words(self) -> Iterator[None]:
        """Turns what the storage libraries raise into a UserError; what is not there stays as it is."""
        try:
            yield
        except (UserError, FileNotFoundError, FileExistsError, NotADirectoryError):
            raise
        except Exception as error:
            if not _of_storage(error):
                raise
            said = str(error).strip().splitlines()
            raise UserError(
                f"{self.address} cannot be reached "
                f"({type(error).__name__}: {said[0][:300] if said else 'no reason given'}). "
                f"Is the name right, and may you read and write there? Credentials: "
                f"{self._scheme.credentials}"
            ) from error

    def objects(self) -> dict[str, Object]:
        """All objects at or below the address by their names below it; one that is the address itself is "".

        There are none where nothing is there.
        """
        with self.in_words():
            try:
                found: Mapping[str, Any] = self.files.find(self.address, detail=True)
            except FileNotFoundError:
                return {}
        root = self.files._strip_protocol(self.address).strip("/")
        objects = {}
        for name, info in found.items():
            if info["type"] == "directory" or name.endswith("/"):
                continue
            below = name.strip("/").removeprefix(root).lstrip("/")
            objects[below] = Object(int(info["size"] or 0), _version(info), _time(info))
        return objects

    def some(self, names: Iterable[str]) -> dict[str, Object]:
        """Those of these names that are objects; each is asked for, whatever else lies there."""
        found = {name: Bucket(self.at(name)).objects().get("") for name in names}
        return {name: one for name, one in found.items() if one is not None}

    def names(self) -> list[str]:
        """The names directly below the address, folders among them."""
        with self.in_words():
            try:
                found = self.files.ls(self.address, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    def at(self, name: str) -> str:
        return f"{self.address}/{name}" if name else self.address

    def read(self, name: str = "") -> bytes:
        """Raises FileNotFoundError."""
        with self.in_words():
            return self.files.cat_file(self.at(name))

    def write(self, name: str, data: bytes, *, new: bool = False) -> None:
        """An object appears whole or not at all. With `new`, raises FileExistsError where one is there."""
        with self.in_words():
            if new:
                self.files.pipe_file(self.at(name), data, mode="create")
            else:
                self.files.pipe_file(self.at(name), data)

    def remove(self, name: str) -> None:
        with self.in_words(), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self.at(name))


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is there."""
    return bool(Bucket(path).objects()) if is_address(path) else Path(path).exists()


def read_text(path: str | os.PathLike[str]) -> str:
    """A file's text.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    if is_address(path):
        return Bucket(path).read().decode("utf-8")
    return Path(path).read_text(encoding="utf-8")


def write_new_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file where there is none.

    Raises:
      FileExistsError: there is one.
    """
    if is_address(path):
        Bucket(path).write("", text.encode(), new=True)
        return
    with Path(path).open("x", encoding="utf-8") as file:
        file.write(text)


def _version(info: Mapping[str, Any]) -> str:
    """What changes when an object is written again: a checksum or generation, or at least a time."""
    for name in (
        "generation",
        "ETag",
        "etag",
        "md5Hash",
        "crc32c",
        "LastModified",
        "mtime",
        "created",
    ):
        if info.get(name) is not None:
            return str(info[name])
    return ""


def _time(info: Mapping[str, Any]) -> float | None:
    """When the object was written, in seconds."""
    for name in ("LastModified", "mtime", "updated", "created"):
        when = info.get(name)
        if isinstance(when, str):
            with contextlib.suppress(ValueError):
                when = datetime.datetime.fromisoformat(when)
        if isinstance(when, datetime.datetime):
            return when.timestamp()
        if isinstance(when, int | float):
            return float(when)
    return None


def _of_storage(error: Exception) -> bool:
    """Whether an error is the network's or a storage library's (they have no common class)."""
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.partition(".")[0] in (
        "botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "s3fs",
    )  # fmt: skip
