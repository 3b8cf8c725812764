import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from laplace_al import scores


@given(n=st.integers(1, 20), n_classes=st.integers(2, 8), seed=st.integers(0, 1000))
def test_scores_are_their_definitions(n, n_classes, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(n_classes), size=n)
    for row, p in enumerate(probabilities):
        ordered = sorted(p, reverse=True)
        assert scores.least_confident(probabilities)[row] == pytest.approx(1 - ordered[0])
        assert scores.margin(probabilities)[row] == pytest.approx(1 - ordered[0] + ordered[1])
        assert scores.entropy(probabilities)[row] == pytest.approx(entropy(p))


def test_uniform_is_most_and_certain_is_least_useful():
    probabilities = np.array([[1.0, 0.0, 0.0], [0.8, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    for score in (scores.least_confident, scores.margin, scores.entropy):
        utilities = score(probabilities)
        assert utilities[0] == 0
        assert (np.diff(utilities) > 0).all()


def test_a_single_class_is_certain():
    for score in (scores.least_confident, scores.margin, scores.entropy):
        np.testing.assert_array_equal(score(np.ones((3, 1))), np.zeros(3))
