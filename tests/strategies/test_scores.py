import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from laplace_al.strategies import scores


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


def test_entropy_is_of_double_precision_whatever_it_is_given():
    probabilities = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    for dtype in ("float16", "float32"):
        found = scores.entropy(probabilities.astype(dtype))  # which holds them exactly
        np.testing.assert_array_equal(found, scores.entropy(probabilities), strict=True)
    np.testing.assert_array_equal(scores.entropy(np.eye(2, dtype=int)), np.zeros(2))


def draws(n_draws, n, n_classes, seed=0):
    """Probabilities (S, n, K) of draws, some of them certain."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(n_classes, 0.3), size=(n_draws, n))
    probabilities[0] = np.eye(n_classes)[rng.integers(n_classes, size=n)]
    return probabilities


@given(n=st.integers(1, 5), n_classes=st.integers(1, 4), seed=st.integers(0, 1000))
def test_mutual_information_is_its_definition(n, n_classes, seed):
    p = draws(6, n, n_classes, seed)
    information = scores.mutual_information(p)
    for row in range(n):
        divergences = [entropy(member, p[:, row].mean(axis=0)) for member in p[:, row]]
        assert information[row] == pytest.approx(np.mean(divergences), abs=1e-12)
    left = [np.mean([entropy(member) for member in p[:, row]]) for row in range(n)]
    np.testing.assert_allclose(scores.expected_entropy(p), left, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 50, 2**20])
def test_information_about_targets_is_that_of_each_pair(monkeypatch, at_once):
    monkeypatch.setattr(scores, "_NUMBERS_AT_ONCE", at_once)
    p, targets = draws(6, 5, 3), draws(6, 4, 3, seed=1)
    gain = scores.expected_information_gain_of_predictions(p, targets)
    for i in range(5):
        total = 0.0
        for j in range(4):
            joint = sum(np.outer(p[s, i], targets[s, j]) for s in range(6)) / 6
            apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
            total += entropy(joint.ravel(), apart.ravel())
        assert gain[i] == pytest.approx(total / 4, abs=1e-12)


def test_information_of_predictions_takes_less_memory_than_all_pairs():
    p, targets = draws(2, 3000, 4), draws(2, 1000, 4)
    tracemalloc.start()
    scores.expected_information_gain_of_predictions(p, targets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 3000 * 1000 * 4**2 / 8


def test_information_about_oneself_is_what_a_label_tells_if_it_is_certain_given_the_weights():
    certain = np.eye(3)[np.array([[0], [1], [2], [2]])]  # (4, 1, 3)
    gain = scores.expected_information_gain_of_predictions(certain, certain)
    np.testing.assert_allclose(gain, scores.mutual_information(certain))
    np.testing.assert_allclose(gain, entropy([1, 1, 2]))


def test_no_information_is_zero_and_never_negative():
    same = np.repeat(draws(2, 50, 3)[1:], 7, axis=0)
    np.testing.assert_allclose(scores.mutual_information(same), np.zeros(50), atol=1e-15)
    gain = scores.expected_information_gain_of_predictions(same, same)
    np.testing.assert_allclose(gain, np.zeros(50), atol=1e-14)
    assert (gain >= 0).all()


@pytest.mark.parametrize("n_classes", [2, 10])
def test_little_information_in_single_precision(n_classes):
    """The draws are the same to about 1e-4: they tell 1e-8 nats at most."""
    rng = np.random.default_rng(0)

    def nearly_the_same(n):
        logits = 3 * rng.normal(size=(n, n_classes)) + 1e-4 * rng.normal(size=(1000, n, n_classes))
        return softmax(logits, axis=2).astype(np.float32)

    p, targets = nearly_the_same(200), nearly_the_same(100)
    double = p.astype(np.float64), targets.astype(np.float64)
    gain = scores.expected_information_gain_of_predictions
    np.testing.assert_allclose(gain(p, targets), gain(*double), atol=3e-7)
    expected = scores.mutual_information(double[0])
    np.testing.assert_allclose(scores.mutual_information(p), expected, atol=1e-12)
