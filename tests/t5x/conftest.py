"""A tiny T5 twice: in T5X with prompts in its encoder, and in mpt_jax with a bank; the same numbers.

T5X is on no package index. Its checkouts on PYTHONPATH and the `t5x` extra bring it (docs/t5x.md);
without it the tests of this folder are skipped.
"""

import contextlib
import dataclasses
import gc
import sys
import types
import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mpt_jax.methods.bank import Bank
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models import t5

with warnings.catch_warnings(), contextlib.suppress(ModuleNotFoundError):
    # Imported here first, because T5X's imports warn, and warnings are errors in tests.
    warnings.simplefilter("ignore")
    import t5x.checkpoints
    import t5x.examples.t5.network
    import t5x.models

INPUTS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
TASKS = ("one", "two", "three")
P, V, D = 4, 48, 16
SHAPE = dict(vocab_size=V, emb_dim=D, num_heads=2, head_dim=6, mlp_dim=24)
SHAPE |= dict(num_encoder_layers=2, num_decoder_layers=2)
PLAIN = dict(vocab_size=384, emb_dim=16, num_heads=8, head_dim=2, mlp_dim=32)
PLAIN |= dict(num_encoder_layers=2, num_decoder_layers=2)
VERSIONS = {
    "1.0": dict(mlp_activations=("relu",), logits_via_embedding=True),
    "1.1": dict(mlp_activations=("gelu", "linear"), logits_via_embedding=False),
}
METHODS = {"mpt": MPT, "prompt_tuning": PromptTuning}
PROMPTS = {
    "mpt": {"shared": (P, D), "u": (3, P, 2), "v": (3, 2, D)},
    "prompt_tuning": {"prompt": (3, P, D)},
}


@contextlib.contextmanager
def t5x_code():
    """What T5X is run under.

    The tests forbid mixed dtypes and ranks in a computation and turn warnings into errors. T5X was
    written without the first and has some of the second, so both are lifted for calls into it.
    """
    with (
        warnings.catch_warnings(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        warnings.simplefilter("ignore")
        yield
        gc.collect()  # T5X leaves event loops open, which is warned of when they are collected


def random_tree(shapes, seed):
    """Weights of T5's usual scales by path; decoded rows end early enough with them."""
    stream = np.random.RandomState(seed)
    weights = {}
    for path, shape in sorted(shapes.items()):
        noise = stream.standard_normal(shape)
        if path.endswith("/scale"):
            noise = 1.0 + 0.2 * noise
        elif path.endswith("/kernel"):
            noise *= 2.0 / np.sqrt(shape[0])
        if path.endswith("/query/kernel"):
            noise /= 2.0 * np.sqrt(SHAPE["head_dim"])
        weights[path] = jnp.asarray(noise, jnp.float32)
    return unflatten_dict(weights, sep="/")


def make_pair(version="1.1", method="mpt", seed=8, **model_settings):
    """The two models; `params` is T5X's tree, `backbone` and `bank_params` are ours."""
    from mpt_jax.t5x import network

    ours = t5.T5Config(**SHAPE, **VERSIONS[version])
    theirs = t5x.examples.t5.network.T5Config(**SHAPE, **VERSIONS[version], dropout_rate=0.0)
    rank = {"rank": 2} if method == "mpt" else {}
    made = METHODS[method](members=1, tasks=len(TASKS), length=P, width=D, **rank)
    module = network.Transformer(
        theirs,
        tasks=TASKS,
        prompt_length=P,
        method=lambda **sizes: dataclasses.replace(made, **sizes),
    )
    abstract = jax.eval_shape(lambda: t5.init_params(ours, jax.random.key(0)))
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract, sep="/").items()}
    backbone = random_tree(shapes, seed)
    prompts = random_tree(PROMPTS[method], seed + 1)
    encoder = {**backbone["encoder"], "prompt": prompts}
    settings = {"loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS", "optimizer_def": None}
    settings |= {"input_vocabulary": _Vocabulary(), "output_vocabulary": _Vocabulary()}
    return types.SimpleNamespace(
        module=module,
        model=t5x.models.EncoderDecoderModel(module, **settings | model_settings),
        params=flax.core.freeze({**backbone, "encoder": encoder}),
        config=ours,
        network=t5.Transformer(ours),
        backbone=backbone,
        bank=Bank((made,), V),
        bank_params={made.name: {name: array[None] for name, array in prompts.items()}},
        method=made,
        settings=settings,
    )


class _Vocabulary:
    eos_id = 1


def make_batch(bank, packed, rows=8, seed=3):
    """A batch as T5X's feature converter makes it. Packed: two examples of different tasks in a row."""
    stream = np.random.RandomState(seed)
    inputs, targets = [], []
    for row in range(2 * rows if packed else rows):
        text, answer = stream.randint(1, 7), stream.randint(1, 5)
        ids = bank.virtual_ids(0, 0, row % len(TASKS))
        inputs.append(np.concatenate([ids, stream.randint(2, V, text), [1]]))
        targets.append(np.concatenate([stream.randint(2, V, answer), [1]]))
    width, length = (24, 11) if packed else (12, 6)
    names = ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions")
    names += ("decoder_target_tokens", "decoder_segment_ids", "decoder_positions")
    names += ("decoder_input_tokens",)
    batch = {
        name: np.zeros((rows, width if name.startswith("enc") else length), np.int32)
        for name in names
    }
    place = np.zeros((rows, 2), int)
    for number, (source, target) in enumerate(zip(inputs, targets, strict=True)):
        row, segment = number % rows, number // rows + 1
        for stack, tokens, at in (("encoder", source, 0), ("decoder", target, 1)):
            start, size = place[row, at], len(tokens)
            kind = "input" if stack == "encoder" else "target"
            batch[f"{stack}_{kind}_tokens"][row, start : start + size] = tokens
            batch[f"{stack}_segment_ids"][row, start : start + size] = segment
            batch[f"{stack}_positions"][row, start : start + size] = np.arange(size)
            place[row, at] += size
        start = place[row, 1] - len(target)
        batch["decoder_input_tokens"][row, start + 1 : place[row, 1]] = target[:-1]
    batch["decoder_loss_weights"] = (batch["decoder_target_tokens"] > 0).astype(np.float32)
    if not packed:
        batch = {k: v for k, v in batch.items() if not k.endswith(("segment_ids", "positions"))}
    return {name: jnp.asarray(array) for name, array in batch.items()}


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory):
    """A legacy checkpoint of a plain T5 1.1, at step 1000.

    On CPUs T5X divides a model among all local devices, which are eight in tests: so its sizes.
    """
    import seqio
    from t5x import adafactor, partitioning, utils

    config = t5x.examples.t5.network.T5Config(
        **PLAIN, mlp_activations=("gelu", "linear"), dropout_rate=0.0
    )
    vocabulary = seqio.ByteVocabulary()
    model = t5x.models.EncoderDecoderModel(
        t5x.examples.t5.network.Transformer(config),
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=adafactor.Adafactor(0.1),
    )
    folder = tmp_path_factory.mktemp("plain")
    with t5x_code():
        partitioner = partitioning.PjitPartitioner(num_partitions=1)
        initializer = utils.TrainStateInitializer(
            optimizer_def=model.optimizer_def,
            init_fn=model.get_initial_variables,
            input_shapes=dict.fromkeys(INPUTS, (8, 8)),
            input_types=dict.fromkeys(INPUTS, jnp.int32),
            partitioner=partitioner,
        )
        state = initializer.from_scratch(jax.random.PRNGKey(1))
        shape = initializer.global_train_state_shape
        saver = t5x.checkpoints.Checkpointer(shape, partitioner, str(folder))
        saver.save(state.replace_step(jnp.array(1000, jnp.int32)))
    return folder / "checkpoint_1000"


@pytest.fixture
def t5x_side():
    """`with t5x_side():` round calls into T5X."""
    return t5x_code


@pytest.fixture
def pair():
    return make_pair


@pytest.fixture
def batch_of():
    return make_batch


@pytest.fixture(autouse=True)
def quick_compilation():
    """These tests compile far longer than they compute."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def own_registries():
    """Tasks that a test registers are gone after it."""
    seqio = sys.modules.get("seqio")
    registries = (seqio.TaskRegistry, seqio.MixtureRegistry) if seqio else ()
    kept = [(registry, dict(registry._REGISTRY)) for registry in registries]
    yield
    for registry, tasks in kept:
        registry._REGISTRY = tasks
