"""T5X itself on the other side: we read what it writes, it restores what we write."""

import asyncio
import functools
import types
import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mpt_jax.models.formats import t5x_writer
from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint, read_prompts
from mpt_jax.models.formats.t5x_weights import T5XWeights
from mpt_jax.models.formats.t5x_writer import write_checkpoint
from mpt_jax.models.formats.weights import parameter_shapes
from mpt_jax.models.t5 import Transformer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("t5x", reason="needs T5X, which is not on the package index")
    from flax.linen.partitioning import AxisMetadata
    from t5x import checkpoints, optimizers, partitioning, state_utils, train_state
    from t5x.examples.scalable_t5 import network as scalable_t5
    from t5x.examples.t5 import network as t5

pytestmark = pytest.mark.filterwarnings("ignore")  # T5X's own.

# T5X's mesh on CPU splits heads, mlp and vocabulary over all devices, of which tests have eight.
SIZES = dict(vocab_size=48, emb_dim=16, num_heads=8, head_dim=3, mlp_dim=24)
DEPTHS = dict(num_encoder_layers=3, num_decoder_layers=2)
VERSIONS = {
    "v1_0": dict(mlp_activations=("relu",), logits_via_embedding=True),
    "v1_1": dict(mlp_activations=("gelu", "linear"), logits_via_embedding=False),
}
NETWORKS = {
    "t5": (t5, {}),
    "scalable_t5": (scalable_t5, {"scan_layers": False}),
    "scalable_t5_scanned": (scalable_t5, {}),
    "scalable_t5_scanned_first": (scalable_t5, {"param_scan_axis": 0}),
}
PROMPT = "encoder/prompt/prompt/prompt"


@pytest.fixture(autouse=True)
def no_open_event_loops(monkeypatch):
    """T5X's checkpointer sets an event loop, uses others, and never closes it."""
    closing = vars(asyncio) | {"set_event_loop": lambda loop: loop.close()}
    monkeypatch.setattr(checkpoints, "asyncio", types.SimpleNamespace(**closing))


@pytest.fixture(autouse=True)
def t5x_numerics():
    """T5X does not run under our tests' strict rules for dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def t5x_model(name, version):
    """A network of T5X and its variables, every weight random."""
    module, options = NETWORKS[name]
    network = module.Transformer(
        module.T5Config(**SIZES, **DEPTHS, **VERSIONS[version], dropout_rate=0.0, **options)
    )
    ones = jnp.ones((1, 2), jnp.int32)
    variables = network.init(jax.random.key(0), ones, ones, ones, enable_dropout=False)
    variables = flax.core.unfreeze(variables)
    stream = np.random.RandomState(1)
    variables["params"] = jax.tree.map(
        lambda leaf: leaf + 0.2 * stream.standard_normal(leaf.shape).astype(np.float32),
        variables["params"],
    )
    return network, variables


def with_prompt(variables, prompt):
    """As the modules of google-research/prompt-tuning add one."""
    params = flatten_dict(variables["params"], sep="/") | {PROMPT: jnp.asarray(prompt)}
    axes = flatten_dict(variables["params_axes"], sep="/")
    axes |= {f"{PROMPT}_axes": AxisMetadata(names=("prompt", "embed"))}
    return {
        "params": unflatten_dict(params, sep="/"),
        "params_axes": unflatten_dict(axes, sep="/"),
    }


def training_state(variables, step):
    optimizer = optimizers.OptaxWrapper(optax.adamw(1e-3))
    state = train_state.FlaxOptimTrainState.create(optimizer, flax.core.freeze(variables))
    return state.replace_step(jnp.asarray(step, jnp.int32))


def inference_state(variables, step):
    state = train_state.InferenceState.create(flax.core.freeze(variables))
    return state.replace_step(jnp.asarray(step, jnp.int32))


def partitioner():
    rules = [*partitioning.standard_logical_axis_rules(), ("prompt", None)]
    return partitioning.PjitPartitioner(num_partitions=1, logical_axis_rules=rules)


def legacy(folder, state, **options):
    return checkpoints.Checkpointer(state, partitioner(), str(folder), **options)


def orbax(folder, state, **options):
    return checkpoints.OrbaxCheckpointManagerInterface(str(folder), state, partitioner(), **options)


def save(manager, state):
    manager.save(state)
    if hasattr(manager, "wait_until_finished"):
        manager.wait_until_finished()
        manager.close()


@pytest.mark.parametrize("make_manager", [legacy, orbax])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_a_t5x_checkpoint(tmp_path, name, version, make_manager):
    network, variables = t5x_model(name, version)
    state = training_state(variables, 7)
    save(make_manager(tmp_path, state), state)
    weights = T5XWeights(tmp_path)
    assert weights.checkpoint.step == 7
    expected = SIZES | DEPTHS | VERSIONS[version] | {"relpos_per_layer": name != "t5"}
    assert expected.items() <= vars(weights.config).items()
    flat = {path: weights.read(path) for path in parameter_shapes(weights.config)}

    stream = np.random.RandomState(2)
    inputs = stream.randint(2, 48, (3, 40)).astype(np.int32)
    inputs[1, 11:] = 0
    targets = stream.randint(2, 48, (3, 9)).astype(np.int32)
    decoder_inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    theirs = network.apply(
        {"params": variables["params"]}, inputs, decoder_inputs, targets, enable_dropout=False
    )
    params = unflatten_dict({path: jnp.asarray(flat[path]) for path in flat}, sep="/")
    ours = Transformer(weights.config).apply(
        {"params": params}, jnp.asarray(inputs), jnp.asarray(decoder_inputs)
    )
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize("make_manager", [legacy, orbax])
def test_every_number_of_a_t5x_checkpoint(tmp_path, make_manager):
    _, variables = t5x_model("t5", "v1_1")
    # The Orbax manager of T5X does not heed `save_dtype`, so the parameters are of that dtype too.
    variables["params"] = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables["params"])
    state = inference_state(variables, 7)
    save(make_manager(tmp_path, state, save_dtype=jnp.bfloat16), state)
    weights = T5XWeights(tmp_path)
    for path, values in flatten_dict(variables["params"], sep="/").items():
        read, expected = weights.read(path), np.asarray(values)
        assert read.dtype == expected.dtype and read.tobytes() == expected.tobytes(), path


@pytest.mark.parametrize("make_manager", [legacy, orbax])
def test_prompts_of_a_t5x_checkpoint(tmp_path, make_manager):
    _, variables = t5x_model("t5", "v1_1")
    prompt = np.random.RandomState(3).standard_normal((5, 16)).astype(np.float32)
    state = training_state(with_prompt(variables, prompt), 7)
    save(make_manager(tmp_path, state), state)
    prompts = read_prompts(open_checkpoint(tmp_path))
    assert list(prompts) == [PROMPT] and prompts[PROMPT].tobytes() == prompt.tobytes()
    weights = T5XWeights(tmp_path)
    assert weights.prompts == (PROMPT,)
    path = "token_embedder/embedding"
    np.testing.assert_array_equal(
        weights.read(path), variables["params"]["token_embedder"]["embedding"]
    )


@pytest.mark.parametrize("held", ["all", "backbone", "prompt"])
@pytest.mark.parametrize("make_state", [training_state, inference_state])
@pytest.mark.parametrize("make_manager", [legacy, orbax])
def test_t5x_restores_what_we_write(tmp_path, monkeypatch, make_manager, make_state, held):
    """With a fallback for what the checkpoint lacks: optimizer state, and either side's parameters."""
    monkeypatch.setattr(t5x_writer, "MOST_INLINE", 512)  # Some inline, some beside.
    _, variables = t5x_model("t5", "v1_1")
    state = make_state(with_prompt(variables, np.zeros((5, 16), np.float32)), 3)
    before = flatten_dict(flax.core.unfreeze(state.params), sep="/")
    stream = np.random.RandomState(5)
    new = {
        path: stream.standard_normal(leaf.shape).astype(np.float32)
        for path, leaf in before.items()
        if held == "all" or (path == PROMPT) == (held == "prompt")
    }
    (tmp_path / "run").mkdir()
    written = write_checkpoint(tmp_path / "ours", 1100, new.items())
    restored = make_manager(tmp_path / "run", state).restore(
        path=str(written), fallback_state=state.state_dict()
    )
    assert int(restored.step) == 1100
    after = flatten_dict(flax.core.unfreeze(restored.params), sep="/")
    assert after.keys() == before.keys()
    for path, leaf in after.items():
        expected = new.get(path, np.asarray(before[path]))
        assert np.asarray(leaf).tobytes() == expected.tobytes(), path


@pytest.mark.parametrize("make_manager", [legacy, orbax])
def test_t5x_restores_parameters_only(tmp_path, make_manager):
    """prompt-tuning's way to start a run from a backbone: an assignment map without the state."""
    _, variables = t5x_model("t5", "v1_1")
    state = training_state(variables, 3)
    new = {PROMPT: np.ones((5, 16), np.float32)}
    new |= {
        path: np.asarray(leaf) + 1
        for path, leaf in flatten_dict(variables["params"], sep="/").items()
    }
    (tmp_path / "run").mkdir()
    written = write_checkpoint(tmp_path / "ours", 1100, new.items())
    without_state = functools.partial(
        state_utils.apply_assignment_map, assignment_map=[(r"state.*", None)]
    )
    restored = make_manager(tmp_path / "run", state).restore(
        path=str(written),
        fallback_state=state.state_dict(),
        state_transformation_fns=[without_state],
    )
    assert int(restored.step) == 3
    for path, leaf in flatten_dict(flax.core.unfreeze(restored.params), sep="/").items():
        assert np.asarray(leaf).tobytes() == new[path].tobytes(), path


def test_t5x_loads_what_we_write_without_a_model(tmp_path):
    arrays = {PROMPT: np.random.RandomState(6).standard_normal((100, 64)).astype(np.float32)}
    write_checkpoint(tmp_path, 9, arrays.items())
    loaded = flatten_dict(checkpoints.load_t5x_checkpoint(str(tmp_path)), sep="/")
    assert loaded["state/step"] == 9
    assert loaded[f"target/{PROMPT}"].tobytes() == arrays[PROMPT].tobytes()
