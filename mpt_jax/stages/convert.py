"""Writes a backbone in another form. No stage needs it: all take every form as it is.

mpt convert models/t5x/checkpoint_1100000 models/t5-lm-adapted --vocabulary=models/sentencepiece.model
mpt convert models/flan-t5-base models/flan-t5-base-bf16 --dtype=bfloat16
mpt convert models/flan-t5-base models/t5x --format=t5x
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from mpt_jax import fetched
from mpt_jax.data.vocabulary_files import files_of
from mpt_jax.errors import UserError, unknown_name
from mpt_jax.models.formats.hf_writer import STORED_DTYPES, save_weights
from mpt_jax.models.formats.loading import open_weights
from mpt_jax.models.formats.t5x_writer import write_checkpoint
from mpt_jax.models.formats.weights import Weights, in_reading_order, parameter_shapes, read_finite
from mpt_jax.working_copy import new_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a backbone, as INITIAL_CHECKPOINT_PATH takes it")
    parser.add_argument("output", help="a new folder")
    parser.add_argument("--format", choices=FORMATS, help="what to write; hf by default")
    parser.add_argument(
        "--dtype", choices=STORED_DTYPES, help="of the weights; as they are by default"
    )
    parser.add_argument(
        "--vocabulary", help="a .model file, a tokenizer.json, a folder with one, or bytes, where the "
        "source has none beside it"
    )  # fmt: skip


def run(
    source: str,
    output: str,
    format: str = "hf",
    dtype: str | None = None,
    vocabulary: str | None = None,
) -> None:
    """Converts, tensor by tensor; the output appears whole or not at all.

    Args:
        source: a Hugging Face folder or a T5X checkpoint.
        output: a new folder. "t5x" makes `checkpoint_0` in it.
        format: "hf" (a Hugging Face folder, with its vocabulary) or "t5x" (a legacy T5X checkpoint).
        dtype: "float32" or "bfloat16"; None keeps each weight's own.
        vocabulary: where it is, if not beside the source.

    Raises:
        UserError: the source cannot be read, the form cannot hold it, or the output exists.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    local = str(fetched.backbone(source, "the source"))
    try:
        with new_output(output) as place:
            weights = open_weights(local)
            written = FORMATS[format](weights, place, dtype, vocabulary or local)
            size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    except (OSError, ValueError) as error:
        raise UserError(f"{source} cannot be converted: {error}") from error
    name, count = str(written).replace(str(place), output), len(parameter_shapes(weights.config))
    print(f"{name}: {count} weights, {size / 1e6:,.1f} MB")


def _write_hf(weights: Weights, output: Path, dtype: str | None, vocabulary: str) -> Path:
    save_weights(output, weights, dtype, files=files_of(vocabulary))
    return output


def _write_t5x(weights: Weights, output: Path, dtype: str | None, vocabulary: str) -> Path:
    del vocabulary  # T5X's gin files name it
    config = weights.config
    if config.relpos_per_layer or not config.scale_tied_logits:
        raise ValueError(
            "T5X's network has one position bias for all layers, and scales tied logits; this model "
            "differs. Use --format=hf."
        )

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for path in in_reading_order(parameter_shapes(config)):
            values = read_finite(weights, path)
            yield path, values if dtype is None else values.astype(jnp.dtype(dtype))

    return write_checkpoint(output, 0, arrays())


FORMATS: dict[str, Callable[[Weights, Path, str | None, str], Path]] = {
    "hf": _write_hf,
    "t5x": _write_t5x,
}
