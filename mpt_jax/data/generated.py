"""A tf.data data set from a Python generator: fast, and with the generator's `UserError`s as they were.

TensorFlow turns an exception of a generator into an error of its own with a traceback as message, and
calls into Python for each element that it asks for.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mpt_jax.data.tasks import import_seqio
from mpt_jax.errors import UserError

_ROWS_AT_A_TIME = 256
_MARK = "mpt_jax user error: "


def generated_dataset(
    rows: Callable[[], Iterable[Mapping[str, str | list[str]]]], fields: Mapping[str, bool]
) -> Any:
    """A `tf.data.Dataset` of the texts that `rows()` yields, in its order.

    Args:
        rows: gives dicts with the keys of `fields`; it is called anew for each pass.
        fields: name -> whether it is a list of texts rather than one.
    """
    import_seqio()  # and so TensorFlow, quietly
    import tensorflow as tf

    def guarded() -> Iterator[dict[str, Any]]:
        try:
            iterator = iter(rows())
            while chunk := list(itertools.islice(iterator, _ROWS_AT_A_TIME)):
                columns = {name: [row[name] for row in chunk] for name in fields}
                yield {
                    name: tf.ragged.constant(column, tf.string, ragged_rank=1)
                    if fields[name]
                    else column
                    for name, column in columns.items()
                }
        except UserError as error:
            raise RuntimeError(_MARK + json.dumps(str(error))) from error

    signature = {
        name: tf.RaggedTensorSpec([None, None], tf.string, ragged_rank=1)
        if is_list
        else tf.TensorSpec([None], tf.string)
        for name, is_list in fields.items()
    }
    shapes = {name: [None] if is_list else [] for name, is_list in fields.items()}
    chunks = tf.data.Dataset.from_generator(guarded, output_signature=signature)
    return chunks.unbatch().map(
        lambda row: {name: tf.ensure_shape(row[name], shapes[name]) for name in shapes}
    )


def original_error(error: Exception) -> UserError | None:
    """The `UserError` that a generator raised, from the error that TensorFlow made of it."""
    _, mark, text = str(error).partition(f'{_MARK}"')
    return UserError(json.JSONDecoder().raw_decode(f'"{text}')[0]) if mark else None
