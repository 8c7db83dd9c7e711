import numpy as np
import pytest

from mpt_jax.data.sampler import PaperSampler, ProportionalSampler, normalised_rates
from mpt_jax.data.streams import Stream, Streams
from mpt_jax.errors import UserError


class Lengths:
    """Examples of which only the number matters."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def lengths(self):
        return np.ones((self.count, 2), np.int32)


def streams_of(*members):
    """One tuple of task sizes for each member."""
    return Streams(
        [
            Stream(Lengths(size), np.zeros(0, np.int32), m, k, f"task{k}")
            for m, sizes in enumerate(members)
            for k, size in enumerate(sizes)
        ]
    )


def test_rates_are_proportional_up_to_the_cap():
    streams = streams_of((2**19, 2**18, 2**16), (5, 15))
    np.testing.assert_allclose(normalised_rates(streams), [4 / 9, 4 / 9, 1 / 9, 0.25, 0.75])
    np.testing.assert_allclose(
        normalised_rates(streams, [1, 1, 2, 3, 3]), [0.25, 0.25, 0.5, 0.5, 0.5]
    )
    with pytest.raises(UserError, match="rate above 0"):
        normalised_rates(streams, [1, 1, 0, 3, 3])
    with pytest.raises(UserError, match="rate above 0"):
        normalised_rates(streams, [1, 1])


def test_fleet_members_get_exactly_their_rows():
    counts = ProportionalSampler(streams_of((9,), (400,), (3, 80, 7)), 6).counts(np.arange(500))
    np.testing.assert_array_equal(counts[:, :2], 6)
    np.testing.assert_array_equal(counts[:, 2:].sum(axis=1), 6)


def test_proportional_shares_hold_in_every_batch_and_in_the_long_run():
    sampler = ProportionalSampler(streams_of((10, 25, 64, 1)), 8)
    counts = sampler.counts(np.arange(4000))
    share = 8 * sampler.rates
    assert (counts >= np.floor(share)).all() and (counts <= np.ceil(share)).all()
    np.testing.assert_allclose(counts.mean(axis=0), share, atol=0.01)


def test_paper_sampler_follows_the_paper():
    sizes = (1000, 2000, 3000, 4000)
    counts = PaperSampler(streams_of(sizes), 32, seed=3).counts(np.arange(20_000))
    np.testing.assert_array_equal(counts.sum(axis=1), 32)
    np.testing.assert_allclose(counts.mean(axis=0) / 32, np.array(sizes) / 10_000, atol=0.01)
    # Draws n uniform over {2, 3, 4}, with replacement: P(one task only) = mean over n of sum p^n.
    rates = np.array(sizes) / 10_000
    one_task = np.mean([(rates**n).sum() for n in (2, 3, 4)])
    np.testing.assert_allclose((counts == 32).any(axis=1).mean(), one_task, atol=0.01)
    # All shares of 32 are halves, thirds (one of them with the remainder) and quarters.
    assert set(np.unique(counts)) == {0, 8, 16, 24, 32, 10, 12, 20, 22}


def test_paper_sampler_gives_every_member_the_same_draws():
    counts = PaperSampler(streams_of((5, 6, 7), (5, 6, 7)), 10).counts(np.arange(100))
    np.testing.assert_array_equal(counts[:, :3], counts[:, 3:])


def test_paper_sampler_draws_for_a_member_of_fewer_tasks_as_if_it_were_alone():
    steps = np.arange(100)
    counts = PaperSampler(streams_of((5, 6, 7), (5, 6), (9,)), 10, seed=3).counts(steps)
    alone = PaperSampler(streams_of((5, 6)), 10, seed=3).counts(steps)
    np.testing.assert_array_equal(counts[:, 3:5], alone)
    np.testing.assert_array_equal(counts[:, 5], 10)


@pytest.mark.parametrize(("tasks", "rows"), [(1, 4), (2, 1), (6, 3), (5, 5)])
def test_paper_sampler_with_few_tasks_or_rows(tasks, rows):
    counts = PaperSampler(streams_of((9,) * tasks), rows).counts(np.arange(200))
    np.testing.assert_array_equal(counts.sum(axis=1), rows)


@pytest.mark.parametrize("kind", [PaperSampler, ProportionalSampler])
def test_counts_are_a_function_of_the_step(kind):
    sampler = kind(streams_of((50, 60, 70)), 7, seed=1)
    together = sampler.counts(np.arange(300))
    np.testing.assert_array_equal(sampler.counts(np.array([299, 17])), together[[299, 17]])
    assert (kind(streams_of((50, 60, 70)), 7, seed=3).counts(np.arange(300)) != together).any()


def test_a_member_alone_has_the_counts_that_it_has_in_a_fleet():
    alone = ProportionalSampler(streams_of((5, 80, 7)), 6).counts(np.arange(99))
    fleet = ProportionalSampler(streams_of((400, 3), (5, 80, 7)), 6).counts(np.arange(99))
    np.testing.assert_array_equal(fleet[:, 2:], alone)


def test_no_rows():
    with pytest.raises(UserError, match="at least 1 row"):
        PaperSampler(streams_of((5,)), 0)
