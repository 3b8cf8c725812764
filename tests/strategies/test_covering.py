import numpy as np
import pytest

from laplace_al.strategies import _covering
from laplace_al.strategies._covering import shortlist
from laplace_al.strategies._herding import Kernel, gains

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 5))[np.arange(600) % 6] + 0.2 * rng.normal(size=(600, 5))
EVERYONE = np.ones(600, dtype=bool)


def problem(n_labelled=0):
    """Similarities, weights and coverage of a pool in six clumps."""
    kernel = Kernel(X, 0.5)
    weights = np.random.default_rng(1).random(600).astype(np.float32)
    return kernel, weights, kernel.to_nearest(X[:n_labelled])


@pytest.mark.parametrize("n_labelled", [0, 3])
def test_the_list_holds_what_gains_most(n_labelled):
    kernel, weights, covered = problem(n_labelled)
    gained = gains(kernel.between(np.arange(600)), weights, covered)
    for seed in range(5):
        listed = shortlist(kernel, weights, covered, EVERYONE, 1, 20, np.random.RandomState(seed))
        assert listed.sum() == 20
        assert gained[listed].max() > 0.98 * gained.max()


def test_the_list_holds_a_batch_of_each_clump():
    listed = shortlist(*problem(), EVERYONE, 6, 40, np.random.RandomState(0))
    assert set(np.flatnonzero(listed) % 6) == set(range(6))


def test_only_candidates_are_listed():
    candidates = np.arange(600) % 5 == 0
    listed = shortlist(*problem(), candidates, 2, 30, np.random.RandomState(0))
    assert listed.sum() == 30
    assert (listed <= candidates).all()


def test_the_largest_weights_are_listed_where_nothing_is_gained():
    kernel, weights, _ = problem()
    covered = np.ones(600, dtype=np.float32)
    listed = shortlist(kernel, weights, covered, EVERYONE, 2, 30, np.random.RandomState(0))
    largest = np.argsort(-weights)[:30]
    assert listed[largest].sum() >= 24  # the others are a batch thrice, which gain nothing either


def test_equals_are_listed_at_random():
    kernel, _, _ = problem()
    ones = np.ones(600, dtype=np.float32)
    lists = {
        tuple(
            np.flatnonzero(shortlist(kernel, ones, ones, EVERYONE, 1, 9, np.random.RandomState(s)))
        )
        for s in range(5)
    }
    assert len(lists) == 5


def test_no_more_pairs_than_are_worth_it():
    assert [_covering._n_pairs(b) for b in (1, 10)] == [2**21 + 2**19, 2**21 + 10 * 2**19]
    assert _covering._n_pairs(1000) == 2**25
