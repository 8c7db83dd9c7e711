"""A tf.data data set from a Python generator whose `UserError`s come out as they went in.

TensorFlow turns an exception of a generator into an error of its own with a traceback as message.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mpt_jax.data.tasks import import_seqio
from mpt_jax.errors import UserError

_raised: dict[str, UserError] = {}
_numbers = itertools.count()


def generated_dataset(
    rows: Callable[[], Iterable[Mapping[str, Any]]], signature: Mapping[str, Any]
) -> Any:
    """A `tf.data.Dataset` of what `rows()` yields, in its order.

    Args:
        rows: gives dicts with the keys of `signature`.
        signature: name -> `tf.TensorSpec`.
    """
    import_seqio()  # and so TensorFlow, quietly
    import tensorflow as tf

    def guarded() -> Iterator[dict[str, Any]]:
        try:
            for row in rows():
                yield dict(row)
        except UserError as error:
            mark = f"[mpt_jax error {next(_numbers)}]"
            _raised[mark] = error
            raise RuntimeError(mark) from error

    return tf.data.Dataset.from_generator(guarded, output_signature=dict(signature))


def original_error(error: Exception) -> UserError | None:
    """The `UserError` that a generator raised, from the error that TensorFlow made of it."""
    mark = re.search(r"\[mpt_jax error \d+\]", str(error))
    return None if mark is None else _raised.get(mark.group())
