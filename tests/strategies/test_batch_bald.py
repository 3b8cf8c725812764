import itertools

import numpy as np
import pytest
from scipy.stats import entropy

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model.pool_state import PoolState
from laplace_al.strategies import BALD, batch_bald
from laplace_al.strategies.batch_bald import BatchBALD, Configurations

rng = np.random.default_rng(0)
X, y = rng.normal(size=(15, 3)), np.arange(15) % 3


def joint_information(draws):
    """Mutual information of the labels (S, b, K) of a batch and the weights: all configurations."""
    n_draws, size, n_classes = draws.shape
    joint = []
    for labels in itertools.product(range(n_classes), repeat=size):
        joint.append(np.mean([np.prod(draws[s, range(size), labels]) for s in range(n_draws)]))
    return entropy(joint) - np.mean([sum(map(entropy, draws[s])) for s in range(n_draws)])


def greedy(draws, n_instances):
    chosen = []
    for _ in range(n_instances):
        rest = [i for i in range(draws.shape[1]) if i not in chosen]
        chosen.append(max(rest, key=lambda i: joint_information(draws[:, [*chosen, i]])))
    return chosen


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("at_once", [1, 2**20])
def test_it_is_greedy_in_the_joint_information(monkeypatch, n_classes, at_once):
    monkeypatch.setattr(batch_bald, "_NUMBERS_AT_ONCE", at_once)
    clf = LaplaceUpdateClassifier(random_state=3).fit(X, y % n_classes)
    pool = np.random.default_rng(1).normal(size=(8, 3)) * 3
    positions = BatchBALD(n_samples=9).query(clf, pool, 4)
    np.testing.assert_array_equal(positions, greedy(clf.pool_state(pool).sample_proba(9), 4))


def test_the_first_utilities_are_those_of_bald():
    clf = LaplaceUpdateClassifier().fit(X, y)
    positions, utilities = BatchBALD().query(clf, X, 3, return_utilities=True)
    np.testing.assert_array_equal(utilities, BALD().query(clf, X, return_utilities=True)[1])
    assert positions[0] == utilities.argmax()


def test_all_and_drawn_configurations_tell_what_an_instance_adds():
    draws = np.random.default_rng(2).dirichlet(np.ones(3), size=(10, 7))
    exact, drawn = Configurations(10, 3**6), Configurations(10, 3**6 - 1)
    many = Configurations(10, 20_000)
    many._start_drawing(np.random.RandomState(0))
    for b in range(6):
        for batch in (exact, drawn, many):
            batch.add(draws[:, b], np.random.RandomState(b))
    assert exact.is_exact
    assert not drawn.is_exact
    assert exact.probability.sum() == pytest.approx(1)
    added = joint_information(draws) - joint_information(draws[:, :6])
    left = np.mean([entropy(p) for p in draws[:, 6]])
    for batch, tolerance in [(exact, 1e-12), (drawn, 0.03), (many, 5e-3)]:
        information = batch.expected_entropy(draws[:, 6:])[0] - left
        assert information == pytest.approx(added, abs=tolerance)


def test_a_batch_goes_on_with_drawn_configurations():
    draws = np.random.default_rng(2).dirichlet(np.ones(3), size=(10, 6))
    batch = Configurations(10, 5000)
    before = batch.expected_entropy(draws).mean()
    for size in range(1, 19):
        batch.add(draws[:, size % 6], np.random.RandomState(size))
        assert batch.is_exact == (3**size <= 5000)
        assert len(batch.probability) == min(3**size, 5000)
        np.testing.assert_allclose(batch.weights.sum(axis=1), 1)
        after = batch.expected_entropy(draws).mean()
        assert after < before  # each label tells more of the weights
        before = after


def test_a_batch_of_hundreds_does_not_underflow():
    pool = np.random.default_rng(1).normal(size=(800, 3))
    clf = LaplaceUpdateClassifier().fit(X, y)
    strategy = BatchBALD(n_samples=5, max_configurations=8, random_state=0)
    assert len(set(strategy.query(clf, pool, 800))) == 800


def test_it_does_not_ask_twice_for_the_same():
    clf = LaplaceUpdateClassifier().fit(X, y)
    far, other = [[9.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]
    pool = np.r_[np.repeat(far, 5, axis=0), other]
    assert 5 in BatchBALD().query(clf, pool, 3)
    assert 5 not in BALD().query(clf, pool, 3)


def test_candidates_and_random_state():
    clf = LaplaceUpdateClassifier().fit(X, y)
    mask = np.arange(15) % 2 == 0
    strategy = BatchBALD(max_configurations=5, random_state=0)
    positions = strategy.query(clf, X, 8, candidates=mask)
    assert sorted(positions) == list(range(0, 15, 2))
    np.testing.assert_array_equal(positions, strategy.query(clf, X, 8, candidates=mask))


@pytest.mark.parametrize("strategy", [BatchBALD(n_samples=8, random_state=0), BALD(n_samples=8)])
def test_draws_of_a_large_pool_are_not_kept(monkeypatch, strategy):
    clf = LaplaceUpdateClassifier(random_state=0).fit(X[:20], y[:20])
    expected = strategy.query(clf, X, 4, return_utilities=True)
    monkeypatch.setattr("laplace_al.strategies.batch_bald._NUMBERS_KEPT", 100)
    monkeypatch.setattr("laplace_al.model.pool_state.NUMBERS_AT_ONCE", 100)
    sizes, sample_proba = [0], PoolState.sample_proba

    def recorded(state, n_samples):
        sizes.append(n_samples * len(state) * len(state.classes_))
        return sample_proba(state, n_samples)

    monkeypatch.setattr(PoolState, "sample_proba", recorded)
    positions, utilities = strategy.query(clf, X, 4, return_utilities=True)
    assert max(sizes) <= 100
    np.testing.assert_allclose(utilities, expected[1], atol=1e-12)
    assert positions.tolist() == expected[0].tolist()
