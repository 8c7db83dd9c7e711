"""Where gin files are found and how they are read: what `--gin_file` and `include` mean.

A relative name is looked for in the working directory, in the search paths, beside the file that includes it,
and among the shipped files. Each of these places may be an address, and so may the name.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import gin

from mpt_jax.errors import UserError, unknown_name
from mpt_jax.fetched import local_copy
from mpt_jax.places import exists, is_address, join

SHIPPED = Path(__file__).parent / "gin"
"""The folder of shipped gin files, mpt_jax.gin."""


def shipped_names() -> list[str]:
    """All shipped files, as `--gin_file` takes them."""
    return sorted(path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*.gin"))


def names_binding(function: str) -> list[str]:
    """The shipped files that give arguments of a function, named as in them: `teach.run`."""
    starts = re.compile(rf"^{re.escape(function)}\b", re.MULTILINE)
    return [name for name in shipped_names() if starts.search((SHIPPED / name).read_text())]


def find(name: str, search_paths: Sequence[str] = ()) -> str:
    """The place of the file that a name means.

    Args:
      name: a path, an address, or a name below one of the folders.
      search_paths: folders between the working directory and the shipped ones.

    Raises:
      UserError: there is none; names the places searched and the nearest shipped files.
    """
    if is_address(name):
        return name
    # The last one makes 'mpt_jax/gin/runs/x.gin' work, as T5X users write paths from the package on.
    folders = ["", *search_paths, str(SHIPPED), str(SHIPPED.parent.parent)]
    for folder in folders:
        place = join(folder, name)
        if exists(place) if is_address(place) else Path(place).is_file():
            return place
    searched = (
        folder if is_address(folder) else str(Path(folder).absolute()) for folder in folders
    )
    raise UserError(
        f"{unknown_name('gin file', name, shipped_names())}\n  searched in: {', '.join(searched)}"
    )


@contextlib.contextmanager
def reading(search_paths: Sequence[str]) -> Iterator[list[Path]]:
    """Makes gin find files like `find`, those too that are included; gives a list of all that it reads.

    gin can only append to its lists of places and readers, and logs an error for each place in which it does
    not find a file as package data, so both are replaced for the time of reading.
    """
    read: list[Path] = []
    beside: list[str] = []  # the folders of the files that are being read

    @contextlib.contextmanager
    def opened(name: str) -> Iterator[TextIO]:
        place = find(name, (*search_paths, *beside[-1:]))
        path = local_copy(place, "gin file")
        read.append(path)
        beside.append(place.rpartition("/")[0] if is_address(place) else str(Path(place).parent))
        try:
            with path.open(encoding="utf-8") as file:
                yield file
        finally:
            beside.pop()

    prefixes, readers = gin.config._LOCATION_PREFIXES, gin.config._FILE_READERS
    gin.config._LOCATION_PREFIXES, gin.config._FILE_READERS = [""], [(opened, lambda name: True)]
    try:
        yield read
    finally:
        gin.config._LOCATION_PREFIXES, gin.config._FILE_READERS = prefixes, readers
