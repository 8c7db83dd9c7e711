"""From a plain T5's checkpoint to prompts, steps, a saved state, and back, through T5X's own parts."""

import functools
import types

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mpt_jax.errors import UserError
from mpt_jax.methods.initialisers import sampled_vocabulary, uniform
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_file import load_prompt_file, save_prompt_file
from mpt_jax.methods.prompt_sources import load_prompts
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models.formats.t5x_checkpoint import open_checkpoint

pytest.importorskip("t5x", reason="needs T5X from its repository (docs/t5x.md)")

import optax  # noqa: E402
import seqio  # noqa: E402
from t5x import decoding, models, partitioning, utils  # noqa: E402
from t5x.examples.t5.network import T5Config  # noqa: E402
from t5x.examples.t5.network import Transformer as PlainTransformer  # noqa: E402
from t5x.optimizers import OptaxWrapper  # noqa: E402

from mpt_jax.t5x import network, starts  # noqa: E402
from mpt_jax.t5x.optimizer import prompt_optimizer  # noqa: E402

TASKS, P, V, D = ("a", "b"), 3, 384, 16
SIZES = dict(vocab_size=V, emb_dim=D, num_heads=8, head_dim=2, mlp_dim=32)
SIZES |= dict(num_encoder_layers=2, num_decoder_layers=2, mlp_activations=("gelu", "linear"))
SHAPES = {"encoder_input_tokens": (8, 10), "decoder_input_tokens": (8, 5)}
SHAPES |= {"decoder_target_tokens": (8, 5)}
RULES = [(axis, None) for axis in ("tasks", "prompt", "prompt_embed", "prompt_rank")]
OPTIMIZERS = {
    "adamw": lambda rate: optax.adamw(rate, weight_decay=1e-5),
    # T5X's own rules for optax's states do not know this one.
    "adafactor": lambda rate: optax.adafactor(rate, multiply_by_parameter_scale=False),
}


def make(start, optimizer="adamw", rank=1, method=None):
    """T5X's model, partitioner and state initializer for prompts on the plain checkpoint's sizes."""
    module = network.Transformer(
        T5Config(**SIZES, dropout_rate=0.0),
        tasks=TASKS,
        prompt_length=P,
        method=method or functools.partial(MPT, rank=rank),
    )
    rate = OPTIMIZERS[optimizer]
    table = [(".*/(shared|prompt)", rate(0.3))]
    table += [] if method else [(".*/[uv]", rate(0.4))]
    vocabulary = seqio.ByteVocabulary()
    model = models.EncoderDecoderModel(
        module,
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=prompt_optimizer(table, clip_norm=1.0),
    )
    partitioner = partitioning.PjitPartitioner(
        num_partitions=1,
        logical_axis_rules=partitioning.standard_logical_axis_rules(additional_rules=RULES),
    )
    initializer = starts.PromptedStateInitializer(
        start=start,
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes=SHAPES,
        input_types=dict.fromkeys(SHAPES, jnp.int32),
        partitioner=partitioner,
    )
    return types.SimpleNamespace(model=model, partitioner=partitioner, initializer=initializer)


def restore(parts, folder, path, resume=False):
    """As t5x.train does: from MODEL_DIR where it holds a checkpoint, else from the plain one."""
    folder.mkdir(exist_ok=True)
    settings = dict(path=str(path), mode="specific", dtype="float32")
    if not resume:
        settings |= dict(fallback_to_scratch=True, state_transformation_fns=[starts.backbone_only])
    return utils.create_checkpoint_manager_and_restore(
        parts.initializer,
        parts.partitioner,
        utils.RestoreCheckpointConfig(**settings),
        str(path),
        jax.random.PRNGKey(0),
        save_checkpoint_cfg=utils.SaveCheckpointConfig(period=1),
        model_dir=str(folder),
        use_orbax=True,
    )


def batch(seed=0):
    stream = np.random.RandomState(seed)
    inputs = stream.randint(3, 250, (8, 10)).astype(np.int32)
    inputs[:, :P] = V + np.arange(P)[None] + P * (np.arange(8) % 2)[:, None]
    targets = stream.randint(3, 250, (8, 5)).astype(np.int32)
    return {
        "encoder_input_tokens": jnp.asarray(inputs),
        "decoder_input_tokens": jnp.asarray(np.pad(targets, ((0, 0), (1, 0)))[:, :-1]),
        "decoder_target_tokens": jnp.asarray(targets),
        "decoder_loss_weights": jnp.ones((8, 5)),
    }


def step(parts, state, seed):
    """One update as T5X's trainer makes it: one program over the mesh."""

    def update(state, batch):
        gradient, _ = jax.grad(parts.model.loss_fn, has_aux=True)(state.params, batch, None)
        return state.apply_gradient(gradient, learning_rate=0.0)

    axes = parts.initializer.train_state_axes
    data = parts.partitioner.data_partition_spec
    update = parts.partitioner.partition(
        update, in_axis_resources=(axes, data), out_axis_resources=axes
    )
    return jax.block_until_ready(update(state, batch(seed)))


def leaves(tree):
    return {
        path: np.asarray(x) for path, x in flatten_dict(flax.core.unfreeze(tree), sep="/").items()
    }


def assert_equal(first, second):
    assert set(first) == set(second)
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path], err_msg=path)
        assert array.dtype == second[path].dtype, path


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_restore_train_save_resume_and_read_back(optimizer, plain_checkpoint, tmp_path, t5x_side):
    folder = tmp_path / "run"
    stored = {path: x.read() for path, x in open_checkpoint(plain_checkpoint).arrays.items()}
    start = starts.FromEmbeddings(plain_checkpoint, sampled_vocabulary)
    with t5x_side():
        parts = make(start, optimizer)
        state, manager = restore(parts, folder, plain_checkpoint)
        assert int(state.step) == 1000
        begun = leaves(state.params)
        after = step(parts, step(parts, state, 1), 2)
        manager.save(after)
        manager.wait_until_finished()
        manager.close()
        again = make(start, optimizer)
        resumed, _ = restore(again, folder, folder / "checkpoint_1002", resume=True)
        third, resumed_third = step(parts, after, 3), step(again, resumed, 3)

    # Every weight of the backbone is the checkpoint's; the prompt is rows of its table.
    prompts = {path: begun.pop(path) for path in list(begun) if "/prompt/" in path}
    assert_equal(begun, stored)
    table = stored["token_embedder/embedding"]
    distance = np.abs(prompts["encoder/prompt/shared"][:, None] - table[None]).max(axis=2)
    assert (distance.min(axis=1) == 0).all() and len(set(distance.argmin(axis=1))) == P
    assert (prompts["encoder/prompt/u"] == 1).all() and (prompts["encoder/prompt/v"] == 1).all()

    moved = leaves(after.params)
    for path, array in prompts.items():
        assert np.abs(moved.pop(path) - array).max() > 1e-3, path
    assert_equal(moved, stored)

    assert_equal(leaves(resumed.state_dict()), leaves(after.state_dict()))
    assert_equal(leaves(resumed_third.params), leaves(third.params))

    read = load_prompts(folder)
    assert (read.metadata.kind, read.metadata.step) == ("mpt", 1002)
    assert_equal(read.arrays, leaves(after.params["encoder"]["prompt"]))


def test_only_trained_parameters_have_optimizer_state(plain_checkpoint, t5x_side):
    with t5x_side():
        parts = make(starts.FromEmbeddings(plain_checkpoint, uniform))
        state = parts.initializer.global_train_state_shape.state_dict()["state"]
    arrays = {
        path for path in flatten_dict(state, sep="/") if "encoder" in path or "decoder" in path
    }
    assert {path.split("encoder/")[-1] for path in arrays} == {
        "prompt/shared",
        "prompt/u",
        "prompt/v",
    }


def test_a_prompt_file_decodes_by_beam_and_sampling(plain_checkpoint, tmp_path, t5x_side):
    """The file's tasks are taken by name; both decoders of T5X answer, differently for the tasks."""
    stream = np.random.RandomState(0)
    arrays = {"shared": stream.randn(P, D), "u": stream.randn(3, P, 2), "v": stream.randn(3, 2, D)}
    path = save_file(tmp_path / "p.safetensors", arrays, "mpt", ["b", "c", "a"])
    with t5x_side():
        parts = make(starts.FromPromptFile(path), rank=2)
        state, _ = restore(parts, tmp_path / "run", plain_checkpoint)
        prompts = leaves(state.params["encoder"]["prompt"])
        data = batch() | {"decoder_input_tokens": jnp.zeros((8, 6), jnp.int32)}
        answers = []
        for decode in (decoding.beam_search, decoding.temperature_sample):
            model = models.EncoderDecoderModel(
                parts.model.module,
                input_vocabulary=seqio.ByteVocabulary(),
                output_vocabulary=seqio.ByteVocabulary(),
                optimizer_def=None,
                decode_fn=decode,
            )
            predict = jax.jit(functools.partial(model.predict_batch, rng=jax.random.PRNGKey(0)))
            answers.append(np.asarray(predict(state.params, data)))
    file = load_prompt_file(path)
    np.testing.assert_array_equal(prompts["u"], file.arrays["u"][[2, 0]])
    np.testing.assert_array_equal(prompts["v"], file.arrays["v"][[2, 0]])
    np.testing.assert_array_equal(prompts["shared"], file.arrays["shared"])
    for tokens in answers:
        assert tokens.shape == (8, 6) and tokens.max() < V


def save_file(path, arrays, kind, tasks):
    identity = dict(backbone_fingerprint="f", backbone_name="n", vocabulary_fingerprint="v")
    return save_prompt_file(path, arrays, kind=kind, task_names=tasks, **identity)


def test_a_start_of_another_rank_is_refused_before_training(plain_checkpoint, tmp_path, t5x_side):
    arrays = {"shared": np.ones((P, D)), "u": np.ones((2, P, 2)), "v": np.ones((2, 2, D))}
    path = save_file(tmp_path / "p.safetensors", arrays, "mpt", TASKS)
    with t5x_side(), pytest.raises(UserError, match="set PROMPT_LENGTH, RANK and TASKS"):
        restore(make(starts.FromPromptFile(path), rank=1), tmp_path / "run", plain_checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t["encoder"]["encoder_norm"].clear(),
            "missing target/encoder/encoder_norm/scale",
        ),
        (
            lambda t: t["decoder"].update(extra=np.ones(2)),
            "unexpected target/decoder/extra \\(2,\\)",
        ),
        (
            lambda t: t["encoder"]["encoder_norm"].update(scale=np.ones(7)),
            "encoder_norm/scale: got \\(7,\\), expected \\(16,\\)",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(change, message, plain_checkpoint, t5x_side):
    with t5x_side():
        parts = make(starts.FromEmbeddings(plain_checkpoint, uniform))
        model = parts.initializer.global_train_state_shape.state_dict()
    target = flax.core.unfreeze(jax.tree.map(lambda x: np.zeros(x.shape), model["target"]))
    checkpoint = {
        "target": target,
        "state": {"step": np.int32(1), "param_states": {"a": np.ones(1)}},
    }
    kept = flatten_dict(starts.backbone_only(checkpoint, model), sep="/")
    assert "state/step" in kept and not any("prompt" in p or "param_states" in p for p in kept)
    assert starts.backbone_only(checkpoint, model, is_resuming=True) is checkpoint
    change(target)
    with pytest.raises(UserError, match=message):
        starts.backbone_only(checkpoint, model)


def test_the_prompt_file_of_a_checkpoint(plain_checkpoint, tmp_path, t5x_side):
    """Prompt tuning, saved by T5X's legacy checkpointer, is read as prompts."""
    from t5x.checkpoints import Checkpointer

    with t5x_side():
        parts = make(starts.FromEmbeddings(plain_checkpoint, uniform), method=PromptTuning)
        state = parts.initializer.from_scratch(jax.random.PRNGKey(0))
        shape = parts.initializer.global_train_state_shape
        Checkpointer(shape, parts.partitioner, str(tmp_path / "legacy")).save(state)
    file = load_prompts(tmp_path / "legacy" / "checkpoint_0")
    assert file.metadata.kind == "prompt_tuning" and file.metadata.step == 0
    expected = np.asarray(state.params["encoder"]["prompt"]["prompt"])
    np.testing.assert_array_equal(file.prompt("task1"), expected[1])
    with pytest.raises(UserError, match="no parameter matches"):
        load_prompts(plain_checkpoint)


def test_an_orbax_checkpoint_of_a_plain_t5(plain_checkpoint, tmp_path, t5x_side):
    """As from a legacy one: every weight bit for bit."""
    settings = dict(
        input_vocabulary=seqio.ByteVocabulary(), output_vocabulary=seqio.ByteVocabulary()
    )

    def plain(folder, source):
        model = models.EncoderDecoderModel(
            PlainTransformer(T5Config(**SIZES, dropout_rate=0.0)),
            optimizer_def=OptaxWrapper(optax.sgd(0.1)),
            **settings,
        )
        partitioner = partitioning.PjitPartitioner(num_partitions=1)
        initializer = utils.TrainStateInitializer(
            optimizer_def=model.optimizer_def,
            init_fn=model.get_initial_variables,
            input_shapes=SHAPES,
            input_types=dict.fromkeys(SHAPES, jnp.int32),
            partitioner=partitioner,
        )
        parts = types.SimpleNamespace(initializer=initializer, partitioner=partitioner)
        state, manager = restore(parts, folder, source)
        manager.save(state)
        manager.wait_until_finished()
        manager.close()
        return folder / "checkpoint_1000"

    with t5x_side():
        orbax = plain(tmp_path / "orbax", plain_checkpoint)
        start = starts.FromEmbeddings(orbax, sampled_vocabulary)
        state, _ = restore(make(start), tmp_path / "run", orbax)
        found = leaves(state.params)
    assert int(state.step) == 1000
    stored = {path: x.read() for path, x in open_checkpoint(plain_checkpoint).arrays.items()}
    assert_equal({path: x for path, x in found.items() if "/prompt/" not in path}, stored)
