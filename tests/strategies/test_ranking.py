import functools
import operator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laplace_al.strategies._ranking import Leaders, best, draw_seed, leading, tie_breakers

VALUES = st.sampled_from([-np.inf, 0.0, 0.5, 1.0, 2.0])


@given(st.lists(VALUES, min_size=1, max_size=12), st.data())
def test_best_is_a_full_sort_with_ties_by_noise(utilities, data):
    n_instances = data.draw(st.integers(1, len(utilities)))
    noise = tie_breakers(draw_seed(np.random.RandomState(3)), 0, len(utilities))
    order = sorted(range(len(utilities)), key=lambda i: (utilities[i], noise[i]), reverse=True)
    chosen = best(np.array(utilities), n_instances, np.random.RandomState(3))
    assert chosen.tolist() == order[:n_instances]


def test_best_ranks_and_shuffles_ties():
    utilities = np.array([0.0, 2.0, 1.0, 2.0])
    orders = {tuple(best(utilities, 4, np.random.RandomState(s))) for s in range(20)}
    assert orders == {(1, 3, 2, 0), (3, 1, 2, 0)}


def test_ties_are_uniform():
    firsts = [best(np.zeros(5), 1, np.random.RandomState(seed))[0] for seed in range(2000)]
    assert abs(np.bincount(firsts, minlength=5) - 400).max() < 4 * (2000 * 0.2 * 0.8) ** 0.5


@given(st.integers(0, 2**63 - 1), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_tie_breakers_belong_to_positions(seed, start, n, before):
    whole = tie_breakers(seed, 0, start + n + before)
    np.testing.assert_array_equal(tie_breakers(seed, start, start + n), whole[start : start + n])
    assert ((whole >= 0) & (whole < 1)).all()


@given(st.lists(st.tuples(VALUES, st.floats(0, 1)), min_size=1, max_size=30), st.data())
def test_leaders_of_blocks_are_the_leaders_of_all(pairs, data):
    first, second = np.array(pairs).T
    limit = data.draw(st.integers(1, 35))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(first)), max_size=4)))
    places = np.split(np.arange(len(first)), cuts)
    parts = [Leaders.of(limit, first[p], second[p], p, 10 * p) for p in places]
    parts = data.draw(st.permutations(parts))
    merged = functools.reduce(operator.add, parts)
    expected = leading(first, second, limit)
    pairs = list(zip(first[expected], second[expected], strict=True))
    assert list(zip(merged.first, merged.second, strict=True)) == pairs
    if len(set(zip(first, second, strict=True))) == len(first):
        np.testing.assert_array_equal(merged.positions, expected)
    np.testing.assert_array_equal(merged.rows, 10 * merged.positions)


@pytest.mark.parametrize("kind", [list, pd.Series, np.array])
def test_rows_are_kept_as_they_come(kind):
    a = Leaders.of(1, np.array([1.0, 2.0]), np.zeros(2), np.array([0, 1]), kind(["a", "b"]))
    b = Leaders.of(1, np.array([3.0]), np.zeros(1), np.array([2]), kind(["c"]))
    assert type(a.rows) is type((a + b).rows)
    assert list((a + b).rows) == ["c"]


def test_nan_has_no_rank():
    with pytest.raises(ValueError, match=r"NaN for 1 of 3 instances.*StandardScaler"):
        best(np.array([0.1, np.nan, 0.2]), 1, np.random.RandomState(0))
