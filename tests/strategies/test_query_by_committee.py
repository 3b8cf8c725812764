import numpy as np
import pytest
from scipy.stats import entropy

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import BALD, QueryByCommittee

rng = np.random.default_rng(0)
X, y = rng.normal(size=(40, 3)), np.arange(40) % 3


@pytest.fixture(params=[2, 3])
def clf(request):
    return LaplaceUpdateClassifier().fit(X[:20], y[:20] % request.param)


def test_votes(clf):
    _, utilities = QueryByCommittee(n_members=6).query(clf, X, return_utilities=True)
    members = clf.pool_state(X).sample_proba(6)
    for row in range(40):
        votes = [int(np.argmax(p)) for p in members[:, row]]
        expected = entropy([votes.count(k) / 6 for k in range(members.shape[2])])
        assert utilities[row] == pytest.approx(expected, abs=1e-12)


def test_divergence_of_the_members(clf):
    strategy = QueryByCommittee(n_members=6, disagreement="kl_divergence")
    _, utilities = strategy.query(clf, X, return_utilities=True)
    members = clf.pool_state(X).sample_proba(6)
    expected = [
        np.mean([entropy(p, row.mean(axis=0)) for p in row]) for row in members.swapaxes(0, 1)
    ]
    np.testing.assert_allclose(utilities, expected, atol=1e-12)
    bald = BALD(n_samples=6).query(clf, X, return_utilities=True)[1]
    np.testing.assert_array_equal(utilities, bald)


def test_a_disagreement_that_is_none_is_refused(clf):
    with pytest.raises(ValueError, match="'disagreement' parameter"):
        QueryByCommittee(disagreement="votes").query(clf, X)
    with pytest.raises(ValueError, match="'n_members' parameter"):
        QueryByCommittee(n_members=1).query(clf, X)
