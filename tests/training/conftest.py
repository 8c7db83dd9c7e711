"""A tiny T5 with a fleet of two MPT members (two tasks each) and their teachers."""

import types

import jax
import numpy as np
import pytest

from mpt_jax.methods.bank import Bank
from mpt_jax.methods.mpt import MPT
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.models import t5

M, K, P, D, V = 2, 2, 3, 8, 29
TEXT, L = 4, 3
CONFIG = t5.T5Config(
    vocab_size=V,
    emb_dim=D,
    num_heads=2,
    head_dim=5,
    mlp_dim=14,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def random_params(tree, seed):
    """Numbers of the size of the embeddings, different everywhere."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def make_bank(members=M):
    bank = Bank((MPT(members=members, tasks=K, length=P, width=D),), vocab_size=V)
    shapes = {
        "mpt": {
            "shared": np.empty((members, P, D)),
            "u": np.empty((members, K, P, 1)),
            "v": np.empty((members, K, 1, D)),
        }
    }
    return bank, random_params(shapes, 1)


def make_batch(bank, teacher_bank, rows=8, seed=0):
    """Rows of random text that go round members and tasks, with padding at the ends."""
    rng = np.random.default_rng(seed)
    method = bank.methods[0]
    member, task = np.arange(rows) % method.members, np.arange(rows) // method.members % K
    text = rng.integers(2, V, (rows, TEXT))
    text[::3, -1] = 0
    targets = rng.integers(2, V, (rows, L))
    weights = np.ones((rows, L), np.float32)
    weights[1::3, -1] = 0
    targets = np.where(weights > 0, targets, 0)

    def with_prompts(ids):
        return np.concatenate([np.stack(ids), text], axis=1).astype(np.int32)

    pairs = list(zip(member.tolist(), task.tolist(), strict=True))
    return {
        "encoder_input_tokens": with_prompts([bank.virtual_ids(0, m, k) for m, k in pairs]),
        "teacher_encoder_input_tokens": with_prompts(
            [teacher_bank.virtual_ids(0, k) for _, k in pairs]
        ),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1].astype(np.int32),
        "decoder_target_tokens": targets.astype(np.int32),
        "decoder_loss_weights": weights,
        "member_ids": np.repeat(member[:, None], L, 1).astype(np.int32),
        "task_ids": np.repeat(task[:, None], L, 1).astype(np.int32),
    }


@pytest.fixture(scope="module")
def toy():
    bank, params = make_bank()
    teacher_bank = Bank((PromptTuning(members=K, tasks=1, length=P, width=D),), vocab_size=V)
    teachers = {"prompt_tuning": {"prompt": np.empty((K, 1, P, D))}}
    return types.SimpleNamespace(
        config=CONFIG,
        network=t5.Transformer(CONFIG),
        backbone=jax.jit(t5.init_params, static_argnums=0)(CONFIG, jax.random.key(0)),
        bank=bank,
        params=params,
        teacher_bank=teacher_bank,
        teachers=random_params(teachers, 2),
        batch=make_batch(bank, teacher_bank),
        make_bank=make_bank,
        make_batch=make_batch,
    )
