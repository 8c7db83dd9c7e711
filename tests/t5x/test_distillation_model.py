"""The distillation loss in T5X against mpt_jax's own, on the same numbers."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpt_jax.errors import UserError
from mpt_jax.methods.bank import Bank
from mpt_jax.methods.prompt_file import save_prompt_file
from mpt_jax.methods.prompt_tuning import PromptTuning
from mpt_jax.training.distillation import DistillationObjective

pytest.importorskip("t5x", reason="needs T5X from its repository (docs/t5x.md)")

from mpt_jax.t5x.distillation import DistillationModel, teachers_from_files  # noqa: E402

SETTINGS = {"weight": 0.7, "logits": 1.5, "hidden": 0.25, "temperature": 2.0}


def models(pair, **settings):
    """T5X's model and our objective with the same teachers."""
    method = pair.method
    shape = (method.tasks, method.length, method.width)
    teachers = np.random.RandomState(4).standard_normal(shape).astype(np.float32)
    theirs = DistillationModel(pair.module, teachers=teachers, **settings, **pair.settings)
    bank = Bank((PromptTuning(members=1, tasks=shape[0], length=shape[1], width=shape[2]),), 48)
    params = {"prompt_tuning": {"prompt": jnp.asarray(teachers)[None]}}
    ours = DistillationObjective(pair.network, pair.bank, bank, params, **settings)
    return theirs, ours


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_loss_and_gradient(version, packed, pair, batch_of, t5x_side):
    pair = pair(version)
    theirs, ours = models(pair, **SETTINGS)
    batch = batch_of(pair.bank, packed)
    with t5x_side():
        gradient_of = jax.jit(jax.value_and_grad(theirs.loss_fn, has_aux=True))
        (loss, metrics), gradient = gradient_of(pair.params, batch, None)
        ours_alone = {n: metric for n, metric in metrics.items() if n.startswith("distillation/")}
        terms = {name: metric.compute() for name, metric in ours_alone.items()}
    batch |= {
        "teacher_encoder_input_tokens": batch["encoder_input_tokens"],
        "member_ids": jnp.zeros_like(batch["decoder_target_tokens"]),
    }
    frozen = ours.frozen(pair.backbone)

    def our_loss(bank_params):
        losses, metrics = ours(bank_params, frozen, batch)
        return losses.sum(), metrics

    (expected, our_terms), our_gradient = jax.jit(jax.value_and_grad(our_loss, has_aux=True))(
        pair.bank_params
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name in ("kl", "hidden_mse", "task_loss"):
        np.testing.assert_allclose(terms[f"distillation/{name}"], our_terms[name][0], rtol=1e-5)
    got = flax.core.unfreeze(gradient)["encoder"]["prompt"]
    for name, array in our_gradient["mpt"].items():
        bound = 1e-5 * np.abs(array).max()
        np.testing.assert_allclose(got[name], array[0], rtol=0, atol=bound, err_msg=name)


def test_the_loss_keeps_t5x_s_scale(pair, batch_of, t5x_side):
    """Without a normalising factor T5X sums over tokens; all terms grow alike."""
    pair = pair()
    batch = batch_of(pair.bank, packed=False)
    theirs, _ = models(pair, **SETTINGS)
    pair.settings["loss_normalizing_factor"] = None
    summed, _ = models(pair, **SETTINGS)
    with t5x_side():
        mean, total = (
            jax.jit(lambda p, b, m=m: m.loss_fn(p, b, None)[0])(pair.params, batch)
            for m in (theirs, summed)
        )
    np.testing.assert_allclose(total, mean * batch["decoder_loss_weights"].sum(), rtol=1e-5)


def test_teachers_have_to_fit_the_students(pair):
    pair = pair()
    with pytest.raises(UserError, match=r"needs \(3, 4, 16\)"):
        DistillationModel(pair.module, teachers=np.ones((3, 5, 16)), **pair.settings)


def test_teachers_from_one_file_or_several(tmp_path):
    prompts = np.random.RandomState(0).standard_normal((2, 3, 8)).astype(np.float32)
    identity = dict(backbone_fingerprint="f", backbone_name="n", vocabulary_fingerprint="v")
    save = lambda path, array, names: save_prompt_file(  # noqa: E731
        path, {"prompt": array}, kind="prompt_tuning", task_names=names, **identity
    )
    both = save(tmp_path / "both.safetensors", prompts, ["a", "b"])
    alone = save(tmp_path / "a.safetensors", prompts[:1], ["teacher_of_a"])
    np.testing.assert_array_equal(teachers_from_files(["b", "a"], both), prompts[::-1])
    files = {"a": str(alone), "b": str(both)}
    np.testing.assert_array_equal(teachers_from_files(["a", "b"], files), prompts)
    with pytest.raises(UserError, match="No teachers for \\['c'\\]"):
        teachers_from_files(["a", "c"], files)
    short = save(tmp_path / "short.safetensors", prompts[:1, :2], ["a"])
    with pytest.raises(UserError, match="of one shape"):
        teachers_from_files(["a", "b"], {"a": str(short), "b": str(both)})


def test_only_the_loss_differs_from_t5x_s_model():
    from t5x.models import EncoderDecoderModel

    replaced = {name for name in vars(DistillationModel) if hasattr(EncoderDecoderModel, name)}
    assert {name for name in replaced if not name.startswith("_")} == {"loss_fn"}
