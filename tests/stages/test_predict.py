"""How many rows the batches of an evaluation have."""

import pytest

from mpt_jax.stages.predict import rows_for


@pytest.mark.parametrize(
    ("examples", "devices", "expected"),
    [
        (5, 1, 8),
        (8, 1, 8),
        (9, 1, 16),
        (200, 1, 96),
        (64, 1, 64),
        (1, 8, 8),
        (9, 6, 12),
        (96, 6, 96),
    ],
)
def test_few_examples_of_one_member_do_not_fill_a_large_batch(examples, devices, expected):
    assert rows_for(examples, 96, devices) == expected
