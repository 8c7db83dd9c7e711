"""Weights onto a mesh: every form holds the same numbers, and no more memory than is said."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.models.fingerprint import Fingerprint, fingerprint
from mpt_jax.models.formats.hf_folder import HuggingFaceWeights
from mpt_jax.models.formats.hf_writer import TreeWeights, save_backbone, save_weights
from mpt_jax.models.formats.loading import load, load_backbone
from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.layer_stacking import stack_layers, unstack_layers
from mpt_jax.models.t5 import T5Config
from mpt_jax.partitioning import fetch, make_mesh


@pytest.mark.parametrize("mesh_shape", [(8, 1), (4, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_onto_a_mesh(config, params, tmp_path, mesh_shape, dtype, scan_layers):
    save_backbone(tmp_path, config, params)
    wanted = dataclasses.replace(config, dtype=dtype, scan_layers=scan_layers)
    loaded = load(HuggingFaceWeights(tmp_path), wanted, make_mesh(mesh_shape))
    expected = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    expected = stack_layers(expected) if scan_layers else expected
    jax.tree.map(np.testing.assert_array_equal, fetch(loaded.params), fetch(expected))
    assert loaded.stored == fingerprint(params)
    assert loaded.placed == fingerprint(loaded.params, fetch) == fingerprint(expected)
    mlp = unstack_layers(loaded.params)["encoder"]["layers_1"]["mlp"]["wo"]["kernel"]
    assert mlp.sharding.shard_shape(mlp.shape)[0] == mlp.shape[0] // mesh_shape[1]


def test_half_precision_is_read_as_stored(config, params, tmp_path):
    save_backbone(tmp_path, config, params, "bfloat16")
    reader = HuggingFaceWeights(tmp_path)
    path = "encoder/layers_0/mlp/wo/kernel"
    assert reader.read(path).dtype == jnp.bfloat16
    loaded = load_backbone(tmp_path)[1]["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    np.testing.assert_array_equal(loaded, reader.read(path).astype(np.float32))


@pytest.mark.parametrize("shape", [(), (3,), (700, 900), (0, 4), (2, 1, 5)])
def test_the_fingerprint_is_a_hash_of_the_whole_however_it_is_cut(shape):
    values = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    digest = Fingerprint()
    digest.add("a", values.T)
    expected = hashlib.sha256(f"a {values.T.shape}\n".encode() + values.T.tobytes()).hexdigest()
    assert digest.hexdigest() == expected[:16]


def test_the_fingerprint_wants_sorted_paths():
    digest = Fingerprint()
    digest.add("b", np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="sorted order"):
        digest.add("a", np.zeros(2, np.float32))


MEASURE = """
    import sys
    import jax
    from mpt_jax.models.formats.loading import load, open_weights
    from mpt_jax.partitioning import make_mesh
    import dataclasses

    def memory(key):
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines[key].split()[0]) * 1024

    def run(folder):
        weights = open_weights(folder)
        config = dataclasses.replace(weights.config, dtype=sys.argv[3], scan_layers=sys.argv[4] == "1")
        return load(weights, config, make_mesh()).params

    warm = run(sys.argv[1])  # code, threads and arenas that stay
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    params = run(sys.argv[2])
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    print(memory("VmHWM") - before - kept)
"""
MEGABYTE = 1 << 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype, scan_layers", [("float32", 0), ("bfloat16", 0), ("float32", 1)])
@pytest.mark.parametrize("version", ["v1_1"])
def test_memory_beyond_what_is_kept(config, params, tmp_path, dtype, scan_layers):
    """At most the largest shard and one tensor (65.5 MB), and 8 MB for the allocator; guide: backbones.md."""
    save_backbone(tmp_path / "small", config, params)
    large = T5Config(12_000, 512, 8, 64, 2048, 6, 6)
    shapes = parameter_shapes(large)
    tensor = max(4 * int(np.prod(shape)) for shape in shapes.values())
    save_weights(tmp_path / "large", _Random(large, shapes), shard_bytes=40 * MEGABYTE)
    files = list((tmp_path / "large").glob("*.safetensors"))
    assert len(files) > 5
    shard = max(path.stat().st_size for path in files)
    script = textwrap.dedent(MEASURE)
    beyond = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "small", tmp_path / "large", dtype, str(scan_layers)],
        check=True, capture_output=True, text=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip
    assert int(beyond.stdout) < shard + tensor + 8 * MEGABYTE


class _Random:
    """Weights from a seed, made as they are asked for."""

    name = "random"

    def __init__(self, config, shapes):
        self.config, self._shapes = config, shapes

    def read(self, path):
        return np.random.default_rng(len(path)).random(self._shapes[path], np.float32)


def test_weights_in_memory_are_weights_too(config, params, tmp_path):
    tree = TreeWeights(config, stack_layers(params))
    loaded = load(tree, config, make_mesh())
    assert loaded.stored == fingerprint(params)
