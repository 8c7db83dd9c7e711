"""Between the two forms of a T5 parameter tree: unrolled (`layers_i`) and scanned (`layers`).

The scanned form holds every weight of a stack's blocks once, with the layer as leading axis. Files
and fingerprints use the unrolled form; both functions leave a tree alone that already has the
wanted form.
"""

import jax
import jax.numpy as jnp

STACKS = ("encoder", "decoder")
PREFIX = "layers_"


def stack_layers(params: dict) -> dict:
    """The scanned form: `encoder/layers_i/...` [...] becomes `encoder/layers/...` [layers, ...]."""
    return {name: _stack(sub) if name in STACKS else sub for name, sub in params.items()}


def unstack_layers(params: dict) -> dict:
    """The unrolled form: the inverse of `stack_layers`."""
    return {name: _unstack(sub) if name in STACKS else sub for name, sub in params.items()}


def unrolled_path(path: str, layer: int | None) -> str:
    """The path in the unrolled tree of one layer of a scanned weight; other paths stay as they are.

    >>> unrolled_path("encoder/layers/mlp/wo/kernel", 3)
    'encoder/layers_3/mlp/wo/kernel'
    """
    return path if layer is None else path.replace("/layers/", f"/{PREFIX}{layer}/", 1)


def stacked_place(path: str) -> tuple[str, int | None]:
    """Where a weight of the unrolled tree lies in the scanned one: path and layer (None: not stacked).

    >>> stacked_place("encoder/layers_3/mlp/wo/kernel")
    ('encoder/layers/mlp/wo/kernel', 3)
    """
    stack, _, rest = path.partition("/")
    name, _, inside = rest.partition("/")
    if stack not in STACKS or not name.startswith(PREFIX):
        return path, None
    return f"{stack}/layers/{inside}", int(name.removeprefix(PREFIX))


def _stack(stack: dict) -> dict:
    names = sorted((n for n in stack if n.startswith(PREFIX)), key=lambda n: int(n[len(PREFIX) :]))
    if not names:
        return stack
    shared = {name: sub for name, sub in stack.items() if name not in names}
    layers = [stack[name] for name in names]
    return shared | {"layers": jax.tree.map(lambda *parts: jnp.stack(parts), *layers)}


def _unstack(stack: dict) -> dict:
    if "layers" not in stack:
        return stack
    shared = {name: sub for name, sub in stack.items() if name != "layers"}
    count = jax.tree.leaves(stack["layers"])[0].shape[0]
    return shared | {f"{PREFIX}{i}": _layer(stack["layers"], i) for i in range(count)}


def _layer(layers: dict, i: int) -> dict:
    return jax.tree.map(lambda leaf: leaf[i], layers)
