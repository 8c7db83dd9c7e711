"""What a reader of backbone files offers, and the check that a file holds exactly what is needed."""

import functools
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mpt_jax.models.layer_stacking import stacked_place, unstack_layers
from mpt_jax.models.t5 import T5Config, init_params

MOST_LISTED = 20

Shape = tuple[int, ...]


@runtime_checkable
class Weights(Protocol):
    """A backbone's weights where they lie. Opening reads shapes only, and checks all of them.

    Paths are those of the unrolled tree, e.g. "encoder/layers_0/mlp/wo/kernel", whatever the file
    calls them and however it stacks its layers.
    """

    @property
    def config(self) -> T5Config:
        """The model's shape: float32 compute, unrolled layers."""
        ...

    @property
    def name(self) -> str:
        """What was opened: a folder's name, and which checkpoint where it holds several."""
        ...

    def read(self, path: str) -> np.ndarray:
        """One weight in the tree's orientation, in the dtype in which it is stored."""
        ...


def read_finite(weights: Weights, path: str) -> np.ndarray:
    """One weight, as `Weights.read` gives it.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    values = weights.read(path)
    wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise ValueError(
            f"the weight {path} holds {wrong} of {values.size} numbers that are NaN or infinite; the "
            "file is damaged, or the model diverged while it was trained. Take another copy of it."
        )
    return values


def parameter_shapes(config: T5Config) -> dict[str, Shape]:
    """The shape of every weight by its path in the unrolled tree."""
    return dict(_parameter_shapes(config))


@functools.lru_cache
def _parameter_shapes(config: T5Config) -> dict[str, Shape]:
    """Traces the network, which takes a good part of a second; every run asks for it several times."""
    abstract = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    if config.scan_layers:
        abstract = jax.eval_shape(unstack_layers, abstract)
    return {path: tuple(leaf.shape) for path, leaf in flatten_dict(abstract, sep="/").items()}


def in_reading_order(paths: Iterable[str]) -> list[str]:
    """The layers of each weight behind one another: files that stack layers are then decoded once."""

    def weight_then_layer(path: str) -> tuple[str, int]:
        where, layer = stacked_place(path)
        return where, layer or 0

    return sorted(paths, key=weight_then_layer)


def refuse_difference(found: Mapping[str, Shape], expected: Mapping[str, Shape], what: str) -> None:
    """Raises ValueError if names or shapes differ, listing each under the heading `what`."""
    problems = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - found)]
    problems += [f"unexpected {name} {found[name]}" for name in sorted(found.keys() - expected)]
    problems += [
        f"{name}: got {found[name]}, expected {shape}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    if not problems:
        return
    listed = problems[:MOST_LISTED]
    if len(problems) > MOST_LISTED:
        listed.append(f"... and {len(problems) - MOST_LISTED} more")
    raise ValueError(f"{what}:\n  " + "\n  ".join(listed))
