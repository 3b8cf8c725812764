import numpy as np
import pytest
from scipy.stats import chisquare

from laplace_al.strategies import (
    EntropySampling,
    LeastConfidentSampling,
    PowerSampling,
    QueryStrategy,
)


class Given(QueryStrategy):
    """The pool's first column is the utility."""

    def utilities(self, view, rng):
        return np.asarray(view.X)[:, 0]


POOL = np.array([[1.0], [2.0], [0.0], [4.0], [-1.0], [3.0]])


def drawn(exponent, n_instances, n_times=4000, **params):
    strategy = PowerSampling(Given(), exponent=exponent, random_state=np.random.RandomState(0))
    return np.array([strategy.query(None, POOL, n_instances, **params) for _ in range(n_times)])


@pytest.mark.parametrize("exponent", [0, 1.0, 2.0])
def test_the_first_is_drawn_by_a_power_of_its_utility(exponent):
    counts = np.bincount(drawn(exponent, 1)[:, 0], minlength=6)[[0, 1, 3, 5]]
    odds = np.array([1.0, 2.0, 4.0, 3.0]) ** exponent
    assert chisquare(counts, 4000 * odds / odds.sum()).pvalue > 0.01


def test_the_second_is_drawn_from_those_left():
    pairs = drawn(1.0, 2)
    after = pairs[pairs[:, 0] == 3, 1]
    counts = np.bincount(after, minlength=6)[[0, 1, 5]]
    assert chisquare(counts, len(after) * np.array([1, 2, 3]) / 6).pvalue > 0.01


def test_what_is_useless_comes_last_in_random_order():
    orders = drawn(1.0, 6, n_times=200)
    assert {tuple(order) for order in orders[:, 4:]} == {(2, 4), (4, 2)}
    assert (np.sort(orders) == np.arange(6)).all()


def test_only_candidates_are_drawn():
    mask = np.array([True, False, True, False, True, True])
    chosen = drawn(1.0, 4, n_times=50, candidates=mask)
    assert (np.sort(chosen) == [0, 2, 4, 5]).all()
    _, utilities = PowerSampling(Given()).query(None, POOL, candidates=mask, return_utilities=True)
    np.testing.assert_array_equal(utilities, np.where(mask, POOL[:, 0], -np.inf))


def test_a_large_power_is_the_strategy_itself():
    np.testing.assert_array_equal(drawn(1e4, 4, n_times=1)[0], [3, 5, 1, 0])


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="'strategy' parameter of PowerSampling"):
        PowerSampling("margin").query(None, POOL)
    with pytest.raises(ValueError, match="'random_state' parameter of EntropySampling"):
        PowerSampling(EntropySampling(random_state="seed")).query(None, POOL)
    nested = PowerSampling(LeastConfidentSampling()).set_params(strategy__random_state=3)
    assert nested.strategy.random_state == 3
