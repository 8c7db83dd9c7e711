"""How many rows an evaluation's batches have."""

from types import SimpleNamespace

import pytest

from mpt_jax.stages.predict import Job, Predictor


def rows(mixes, counts, batch_size=64, devices=1):
    backbone = SimpleNamespace(mesh=SimpleNamespace(shape={"data": devices}), network=None)
    bank = SimpleNamespace(mixes=mixes)
    predictor = Predictor(backbone, bank, batch_size=batch_size, feature_lengths={"targets": 4})
    return predictor._rows([Job("task", (), range(count)) for count in counts])


@pytest.mark.parametrize(
    ("counts", "devices", "expected"),
    [((5,), 1, 8), ((5, 3), 1, 8), ((9,), 1, 16), ((200,), 1, 64), ((1,), 8, 8), ((9,), 6, 12)],
)
def test_a_member_that_is_alone_in_its_batches_fills_no_large_ones(counts, devices, expected):
    assert rows(False, counts, devices=devices) == expected


def test_members_that_mix_have_batches_of_one_size():
    assert rows(True, (5,)) == rows(True, (200,)) == 64
