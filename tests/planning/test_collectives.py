"""Collectives of compiled programs: kinds, counts with loops multiplied out, bytes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mpt_jax.partitioning import DATA, make_mesh
from mpt_jax.planning.collectives import Total, by_kind, collectives
from mpt_jax.planning.program_text import CompiledText

ROWS, WIDTH = 2, 3  # on each of eight devices


def compiled(body, x=None):
    """The text of a function that runs on each device's [ROWS, WIDTH] part."""
    x = jnp.ones((8 * ROWS, WIDTH), jnp.float32) if x is None else x
    spec = PartitionSpec(DATA)
    mapped = jax.shard_map(body, mesh=make_mesh(), in_specs=spec, out_specs=spec)
    return jax.jit(mapped).lower(x).compile().as_text()


def summed(x):
    """An all-reduce of the part, which no optimisation can leave out or join with the next."""
    return jnp.sin(jax.lax.psum(jnp.cos(x), DATA)) + x


def repeated(times, body):
    return lambda x: jax.lax.scan(lambda c, _: (body(c), None), x, None, length=times)[0]


def without_known_counts(text):
    """As TPU programs are: the loops' rounds stand in their conditions only."""
    stripped = re.sub(r'"known_trip_count":\{"n":"\d+"\},?', "", text)
    assert stripped != text
    return stripped


SIZE = ROWS * WIDTH * 4
LOOPS = {
    "one": (repeated(5, summed), 5),
    "nested": (repeated(3, lambda x: repeated(4, summed)(x) * 0.5), 12),
    "beside": (lambda x: summed(repeated(7, summed)(x)), 8),
    "by_twos": (
        lambda x: jax.lax.while_loop(
            lambda s: s[0] < 11, lambda s: (s[0] + 2, summed(s[1])), (jnp.int32(3), x)
        )[1],
        4,
    ),
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("known", [True, False])
def test_loops_are_multiplied_out(name, known):
    body, count = LOOPS[name]
    text = compiled(body)
    if not known:
        text = without_known_counts(text)
    assert by_kind(collectives(CompiledText(text))) == {"all-reduce": Total(count, count * SIZE)}


def test_a_loop_without_an_end_in_the_program_is_refused_where_it_sends():
    def until_small(body):
        return lambda x: jax.lax.while_loop(lambda s: jnp.max(s) > 1e-3, body, x)

    silent = compiled(until_small(lambda x: x * 0.5))
    assert collectives(CompiledText(silent)) == []
    sending = compiled(until_small(lambda x: x * jax.lax.pmax(x, DATA) * 0.01))
    with pytest.raises(ValueError, match="does not count"):
        collectives(CompiledText(sending))


def test_kinds_and_bytes():
    def body(x):
        gathered = jax.lax.all_gather(x, DATA)
        moved = jax.lax.ppermute(x, DATA, [(i, (i + 1) % 8) for i in range(8)])
        scattered = jax.lax.psum_scatter(gathered.reshape(8, -1), DATA)
        return moved + scattered.reshape(x.shape)

    assert by_kind(collectives(CompiledText(compiled(body)))) == {
        "all-gather": Total(1, 8 * SIZE),
        "collective-permute": Total(1, SIZE),
        "reduce-scatter": Total(1, SIZE),
    }


@pytest.mark.parametrize(
    ("line", "kind", "sizes"),
    [
        # Lines as libtpu writes them.
        (
            "%all-reduce.1 = (bf16[8,356]{1,0:T(8,128)(2,1)S(1)}, f32[4]{0:T(128)}) "
            "all-reduce(%a, %b), channel_id=4, to_apply=%add.1",
            "all-reduce",
            (8 * 356 * 2, 16),
        ),
        (
            "%all-gather-start.2 = (bf16[2,4]{1,0:T(8,128)}, bf16[2,16]{1,0:T(8,128)}) "
            "all-gather-start(%a), channel_id=5, dimensions={1}",
            "all-gather",
            (64,),
        ),
        (
            "%collective-permute-start = (s32[3]{0}, s32[3]{0}, u32[]{:S(2)}, u32[]{:S(2)}) "
            "collective-permute-start(%a), source_target_pairs={{0,1}}",
            "collective-permute",
            (12,),
        ),
        (
            "%all-to-all = f8e4m3fn[5]{0} all-to-all(%a), dimensions={0}",
            "all-to-all",
            (5,),
        ),
        (
            "%send.1 = (f32[16,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%a, %b), "
            "channel_id=4, is_host_transfer=true, frontend_attributes="
            '{_xla_host_transfer_handler_name="xla_megascale_runtime"}',
            "send to other slices",
            (16 * 8 * 128 * 4,),
        ),
        (
            "%send.2 = (f32[2]{0}, u32[], token[]) send(%a, %b), channel_id=5",
            None,
            (),
        ),  # to the host
        ("%all-gather-done.2 = bf16[2,16]{1,0} all-gather-done(%all-gather-start.2)", None, ()),
    ],
)
def test_lines_of_tpu_programs(line, kind, sizes):
    text = "\n".join(["HloModule m", "", "ENTRY %main (p: f32[]) -> f32[] {", f"  {line}", "}"])
    found = collectives(CompiledText(text))
    assert [(one.kind, one.sizes) for one in found] == ([(kind, sizes)] if kind else [])


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        CompiledText("HloModule m\n")


def test_a_scanned_network_sends_as_often_as_an_unrolled_one():
    """Tensor parallelism: two all-reduces a block and pass, in a loop or not."""
    from mpt_jax.models.placement import placed_shapes
    from mpt_jax.models.t5 import T5Config, Transformer

    counts = []
    for scan in (False, True):
        config = T5Config(
            vocab_size=64, emb_dim=16, num_heads=4, head_dim=8, mlp_dim=32, num_encoder_layers=3,
            num_decoder_layers=3, scan_layers=scan,
        )  # fmt: skip
        params = placed_shapes(config, make_mesh((2, 4)))
        tokens = np.ones((4, 8), np.int32)
        program = jax.jit(lambda p, t, net=Transformer(config): net.apply({"params": p}, t, t))
        text = program.lower(params, tokens).compile().as_text()
        counts.append(by_kind(collectives(CompiledText(text)))["all-reduce"].count)
    assert counts[0] == counts[1] >= 3 * 2 + 3 * 3
