import numpy as np
import pytest
from sklearn.base import clone

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model import pool_state
from laplace_al.strategies import BALD, BatchBALD, QueryByCommittee, _draws, batch_bald
from laplace_al.strategies._draws import scores_of_draws

rng = np.random.default_rng(0)
X, y = rng.normal(size=(40, 3)), np.arange(40) % 3
STRATEGIES = [
    BALD(n_samples=6, random_state=0),
    BatchBALD(n_samples=6, random_state=0),
    QueryByCommittee(n_members=6, random_state=0),
]


class Bar:
    """What would be shown."""

    shown: list[list] = []

    def __init__(self, total, desc, delay):
        self.shown.append([desc, total, 0])
        assert delay == 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, n_done):
        self.shown[-1][2] += n_done


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    monkeypatch.setattr(_draws, "tqdm", Bar)
    monkeypatch.setattr(Bar, "shown", [])
    return Bar.shown


@pytest.fixture
def clf():
    return LaplaceUpdateClassifier(random_state=1).fit(X, y)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_blocks_score_alike(monkeypatch, clf, strategy):
    whole = strategy.query(clf, X, 5, return_utilities=True)
    sizes, inside = [], pool_state.PoolState._probabilities_under
    monkeypatch.setattr(pool_state, "NUMBERS_AT_ONCE", 6 * 3 * 7)  # rows of 7 instances
    monkeypatch.setattr(batch_bald, "_NUMBERS_KEPT", 0)

    def recorded(state, weights, n_samples):
        sizes.append(len(state))
        return inside(state, weights, n_samples)

    monkeypatch.setattr(pool_state.PoolState, "_probabilities_under", recorded)
    cut = strategy.query(clf, X, 5, return_utilities=True)
    np.testing.assert_array_equal(cut[0], whole[0])
    np.testing.assert_allclose(cut[1], whole[1], atol=1e-12)
    assert max(sizes) <= 7


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_a_bar_is_shown_if_it_is_asked_for(shown, clf, strategy):
    expected = strategy.query(clf, X, 4)
    assert not shown
    loud = clone(strategy).set_params(verbose=1)
    np.testing.assert_array_equal(loud.query(clf, X, 4), expected)
    assert shown[0][1:] == [40, 40]
    assert all(n_done == total for _, total, n_done in shown)


def test_a_bar_counts_instances(monkeypatch, shown, clf):
    monkeypatch.setattr(pool_state, "NUMBERS_AT_ONCE", 6 * 3 * 7)
    scores_of_draws(clf.pool_state(X), 6, lambda draws: draws.max(axis=(0, 2)), "name", 1)
    assert shown == [["name", 40, 40]]


def test_a_wrong_verbose_is_refused(clf):
    with pytest.raises(ValueError, match="'verbose' parameter"):
        BALD(verbose="yes").query(clf, X)
