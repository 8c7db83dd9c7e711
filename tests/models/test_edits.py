"""Edits of layers' outputs: where they are called, and that the network goes on with what they return."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mpt_jax.methods.network_method import linear_layers, norms, residual_sums
from mpt_jax.models.beam_search import beam_decode
from mpt_jax.models.choice_scoring import score_choices
from mpt_jax.models.decoding import greedy_decode, sample_decode
from mpt_jax.models.edits import LOGITS, Edits, edited
from mpt_jax.models.forward import forward
from mpt_jax.models.t5 import Transformer


@dataclasses.dataclass(frozen=True)
class Scale:
    """Multiplies the outputs of layers that end in `end` by the parameter "factor"."""

    end: str

    def edit(self, params, path, inputs, outputs):
        return (
            outputs * params["factor"].astype(outputs.dtype) if path.endswith(self.end) else outputs
        )


@dataclasses.dataclass(frozen=True)
class Skip:
    """Leaves sublayers out: their sums are what they are added to."""

    end: str

    def edit(self, params, path, inputs, outputs):
        return inputs if path.endswith(self.end) else outputs


@dataclasses.dataclass(eq=False)
class Visits:
    """Writes down where it is called."""

    paths: list

    def edit(self, params, path, inputs, outputs):
        self.paths.append(path)
        return outputs


def of(editor, factor=0.5):
    return Edits({"factor": jnp.full((1, 1, 1), factor, jnp.float32)}, editor)


def with_kernels(params, end, factor):
    flat = flatten_dict(params, sep="/")
    changed = {p: a * factor if p.endswith(f"{end}/kernel") else a for p, a in flat.items()}
    assert any(flat[path] is not changed[path] for path in flat)
    return unflatten_dict(changed, sep="/")


@pytest.fixture
def tokens(batch):
    return {
        "encoder_input_tokens": jnp.asarray(batch["inputs"]),
        "decoder_input_tokens": jnp.asarray(batch["decoder_inputs"]),
    }


def logits(config, params, tokens, edits=None):
    return jax.jit(
        lambda params, edits: forward(Transformer(config), params, tokens, edits=edits)[0]
    )(params, edits)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_every_layer_is_visited_once(config, params, tokens, remat):
    config = dataclasses.replace(config, remat=remat)
    paths: list[str] = []
    with edited(of(Visits(paths))):
        jax.eval_shape(lambda: forward(Transformer(config), params, tokens))
    expected = {*linear_layers(config), *norms(config), *residual_sums(config), LOGITS}
    assert set(paths) == expected
    assert len(paths) == len(expected) or remat != "none"


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize("end", ["value", "wo", "out"])
def test_a_scaled_output_is_a_scaled_kernel(config, params, tokens, remat, end):
    edits = of(Scale(end))
    got = logits(dataclasses.replace(config, remat=remat), params, tokens, edits)
    expected = logits(config, with_kernels(params, end, 0.5), tokens)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert not np.allclose(got, logits(config, params, tokens), atol=1e-2)


@pytest.mark.parametrize(
    "end, kernel", [("mlp_sum", "mlp/wo"), ("encoder_decoder_attention_sum", "attention/out")]
)
def test_sums_can_be_edited(config, params, tokens, end, kernel):
    kernel = "encoder_decoder_attention/out" if "decoder" in end else kernel
    got = logits(config, params, tokens, of(Skip(end)))
    np.testing.assert_allclose(
        got, logits(config, with_kernels(params, kernel, 0.0), tokens), atol=1e-5
    )


def test_the_output_layer_can_be_edited(config, params, tokens):
    got = logits(config, params, tokens, of(Scale(LOGITS), 3.0))
    np.testing.assert_allclose(got, 3 * logits(config, params, tokens), rtol=1e-5)


def test_gradients_pass_through_rematerialised_blocks(config, params, tokens):
    def slope(remat):
        again = dataclasses.replace(config, remat=remat)

        def loss(edits):
            return jnp.sum(forward(Transformer(again), params, tokens, edits=edits)[0] ** 2)

        return jax.jit(jax.grad(loss))(of(Scale("wo"))).params["factor"]

    expected = slope("none")
    assert np.abs(expected) > 0
    for remat in ("dots", "full"):
        np.testing.assert_allclose(slope(remat), expected, rtol=1e-4)


def test_decoders_use_them(config, params, batch):
    network, edits, inputs = Transformer(config), of(Scale("value")), batch["inputs"]
    scaled = with_kernels(params, "value", 0.5)
    for decode in (
        lambda params, edits: greedy_decode(network, params, inputs, 5, None, edits),
        lambda params, edits: beam_decode(network, params, inputs, 5, None, edits, beams=3),
        lambda params, edits: sample_decode(
            network, params, inputs, 5, jax.random.key(0), None, edits
        ),
    ):
        got = np.asarray(decode(params, edits))
        np.testing.assert_array_equal(got, decode(scaled, None))
    choices = np.array([[6, 14, 1], [22, 1, 0]], np.int32)
    np.testing.assert_allclose(
        score_choices(network, params, inputs, choices, None, edits),
        score_choices(network, scaled, inputs, choices),
        atol=1e-4,
    )


def test_nothing_stays_behind(config, params, tokens):
    before = logits(config, params, tokens)
    with pytest.raises(RuntimeError), edited(of(Scale("wo"))):
        raise RuntimeError
    with edited(None):
        np.testing.assert_array_equal(logits(config, params, tokens), before)
    np.testing.assert_array_equal(logits(config, params, tokens), before)
