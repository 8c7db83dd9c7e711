"""A backbone in a T5X checkpoint: which of its arrays is which weight, and in what form.

T5X has three forms of one model:

- unrolled (`examples/t5`): ours, name by name and axis by axis;
- unrolled with split heads (`examples/scalable_t5`, `scan_layers=False`): query, key and value are
  [D, H, head_dim] and out is [H, head_dim, D];
- scanned (`examples/scalable_t5`): such arrays once for a whole stack, under "encoder/encoder" and
  "decoder/decoder", with the layers on axis 1 (or on another `param_scan_axis`).
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mpt_jax.models.formats.stored_arrays import StoredArray
from mpt_jax.models.formats.t5x_checkpoint import PROMPTS, T5XCheckpoint, open_checkpoint
from mpt_jax.models.formats.weights import Shape, parameter_shapes, refuse_difference
from mpt_jax.models.layer_stacking import PREFIX, STACKS
from mpt_jax.models.t5 import T5Config

MOST_LAYERS = 1000
FIRST = "encoder/layers_0"


class Place(NamedTuple):
    """Where a weight lies: an array of the file and, if it holds a whole stack, the layer."""

    name: str
    layer: int | None


class Layout(NamedTuple):
    """The form of a checkpoint's tree.

    Attributes:
        scan_axis: of the layers by stack; None for a stack that is unrolled.
        split_heads: whether heads have an axis of their own.
    """

    scan_axis: Mapping[str, int | None]
    split_heads: bool

    def place(self, path: str) -> Place:
        stack, _, rest = path.partition("/")
        layer, _, inside = rest.partition("/")
        if self.scan_axis.get(stack) is None or not layer.startswith(PREFIX):
            return Place(path, None)
        return Place(f"{stack}/{stack}/{inside}", int(layer.removeprefix(PREFIX)))

    def shape(self, path: str, shape: Shape, config: T5Config) -> Shape:
        """The shape in the file of the array that holds our weight `path` [shape]."""
        heads = (config.num_heads, config.head_dim)
        if self.split_heads and path.endswith(("/query/kernel", "/key/kernel", "/value/kernel")):
            shape = (shape[0], *heads)
        elif self.split_heads and path.endswith("/out/kernel"):
            shape = (*heads, shape[1])
        if self.place(path).layer is None:
            return shape
        stack = path.partition("/")[0]
        axis = self.scan_axis[stack]
        return (*shape[:axis], getattr(config, f"num_{stack}_layers"), *shape[axis:])


class T5XWeights:
    """The weights of a T5 (v1.0, v1.1, mT5, umT5 and their kin) in a T5X checkpoint.

    Layers of a scanned weight are cheap to read one after the other: what was decoded of an array is
    kept until another is read. In any other order chunks are decoded again for every layer.

    Attributes:
        name: of the checkpoint and of the folder that holds it.
        checkpoint: the opened checkpoint.
        config: the model's shape. A file does not say what function is applied to "wi" (taken for
            ReLU) or "wi_0" (GELU), nor whether an output layer was left out on purpose (then logits
            come from the embeddings, scaled as in v1.0), nor the largest distance of positions (128).
        prompts: arrays of soft prompts; they are no part of the backbone.

    Args:
        path: a checkpoint's folder, a folder of several (the latest is taken; see `checkpoint`), or
            a msgpack file.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or does not hold exactly the weights of a T5; each missing,
            unexpected or misshapen array is listed by its name in the file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.checkpoint: T5XCheckpoint = open_checkpoint(path)
        self.name = "/".join(self.checkpoint.path.resolve().parts[-2:])
        arrays = self.checkpoint.arrays
        self.prompts = tuple(sorted(name for name in arrays if re.fullmatch(PROMPTS, name)))
        found = {name: array.shape for name, array in arrays.items() if name not in self.prompts}
        what = f"{self.checkpoint.path} is not the checkpoint of a T5"
        self._layout, self.config = _inferred(found, what)
        self._shapes = parameter_shapes(self.config)
        expected = {
            self._layout.place(path).name: self._layout.shape(path, shape, self.config)
            for path, shape in self._shapes.items()
        }
        refuse_difference(found, expected, what)
        self._reading: tuple[str, Callable[[int], np.ndarray]] | None = None

    def read(self, path: str) -> np.ndarray:
        """One weight in our orientation, in the dtype in which it is stored."""
        name, layer = self._layout.place(path)
        array = self.checkpoint.arrays[name]
        values = array.read() if layer is None else self._layers(name, array)(layer)
        return np.ascontiguousarray(values).reshape(self._shapes[path])

    def _layers(self, name: str, array: StoredArray) -> Callable[[int], np.ndarray]:
        if self._reading is None or self._reading[0] != name:
            self._reading = None  # Frees what it keeps before the next array is decoded.
            axis = self._layout.scan_axis[name.partition("/")[0]]
            assert axis is not None
            self._reading = name, array.layers(axis)
        return self._reading[1]


def _inferred(found: Mapping[str, Shape], what: str) -> tuple[Layout, T5Config]:
    """Form and sizes, from a few arrays that every T5 has; the others have to agree with them."""
    shape = _Shapes(found, what)
    vocab_size, width = shape.of("token_embedder/embedding", 2)
    scan_axis: dict[str, int | None] = {}
    layers = {}
    for stack in STACKS:
        if any(name.startswith(f"{stack}/{stack}/") for name in found):
            sizes = shape.of(f"{stack}/{stack}/pre_mlp_layer_norm/scale", 2)
            # With as many layers as the model is wide both fit; T5X's own default is axis 1.
            scan_axis[stack] = 1 if sizes[0] == width else 0
            layers[stack] = sizes[scan_axis[stack] or 0]
        else:
            scan_axis[stack] = None
            # Counted, so that one far too high number is not believed.
            names = [re.match(rf"{stack}/{PREFIX}\d+/", name) for name in found]
            layers[stack] = len({match[0] for match in names if match})
    if max(layers.values()) > MOST_LAYERS or not min(layers.values()):
        raise ValueError(
            f"{what}: it has {layers} layers, expected 1 to {MOST_LAYERS} in each stack."
        )
    layout = Layout(scan_axis, split_heads=False)

    def first(path: str, dimensions: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes of a weight of the encoder's first layer, without the axis of layers."""
        name = layout.place(path).name
        axis = scan_axis["encoder"]
        if axis is None:
            return shape.of(name, *dimensions)
        sizes = shape.of(name, *(count + 1 for count in dimensions))
        return sizes[:axis] + sizes[axis + 1 :]

    positions = "relpos_bias/rel_embedding"
    relpos_per_layer = any(
        re.fullmatch(rf"(encoder|decoder)/\w+/{positions}", name) for name in found
    )
    if relpos_per_layer:
        heads, buckets = first(f"{FIRST}/{positions}", (2,))
    else:
        heads, buckets = shape.of(f"encoder/{positions}", 2)
    query = first(f"{FIRST}/attention/query/kernel", (2, 3))
    split = len(query) == 3
    if not split and query[1] % heads:
        raise ValueError(
            f"{what}: query/kernel has {query[1]} columns, which the {heads} heads of rel_embedding do not "
            "divide."
        )
    gated = any("/mlp/wi_" in name for name in found)
    config = T5Config(
        vocab_size=vocab_size,
        emb_dim=width,
        num_heads=heads,
        head_dim=query[2] if split else query[1] // heads,
        mlp_dim=first(f"{FIRST}/mlp/{'wi_0' if gated else 'wi'}/kernel", (2,))[1],
        num_encoder_layers=layers["encoder"],
        num_decoder_layers=layers["decoder"],
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        logits_via_embedding="decoder/logits_dense/kernel" not in found,
        relpos_num_buckets=buckets,
        relpos_per_layer=relpos_per_layer,
    )
    return layout._replace(split_heads=split), config


class _Shapes:
    """Shapes by name; a missing or odd one is an error that says what the file holds instead."""

    def __init__(self, found: Mapping[str, Shape], what: str):
        self._found, self._what = found, what

    def of(self, name: str, *dimensions: int) -> Shape:
        if name not in self._found:
            shown = "".join(f"\n  {key} {self._found[key]}" for key in sorted(self._found)[:8])
            raise ValueError(
                f"{self._what}:\n  missing {name}\nIt holds {len(self._found)} arrays, beginning with:{shown}"
            )
        shape = self._found[name]
        if len(shape) not in dimensions or not all(shape):
            expected = " or ".join(map(str, dimensions))
            raise ValueError(
                f"{self._what}:\n  {name}: got {shape}, expected {expected} dimensions, none of them 0"
            )
        return shape
