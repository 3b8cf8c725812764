import numpy as np
import pytest

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import BALD
from laplace_al.strategies._view import LearnerView

rng = np.random.default_rng(0)
X, y = rng.normal(size=(40, 3)), np.arange(40) % 3


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_utility_is_the_mutual_information_of_label_and_weights(n_classes):
    clf = LaplaceUpdateClassifier(random_state=1).fit(X[:20], y[:20] % n_classes)
    _, utilities = BALD(n_samples=7).query(clf, X, return_utilities=True)
    draws = clf.pool_state(X).sample_proba(7)
    for row in range(40):
        mean = draws[:, row].mean(axis=0)
        information = 0.0
        for s, k in np.ndindex(7, draws.shape[2]):  # of p(w, y) log p(w, y) / (p(w) p(y))
            information += draws[s, row, k] / 7 * np.log(draws[s, row, k] / mean[k])
        assert utilities[row] == pytest.approx(information, abs=1e-12)


def test_it_seeks_what_is_unknown_rather_than_what_is_ambiguous():
    labelled = np.r_[np.zeros((40, 2)), [[0.0, 0.1]]]
    clf = LaplaceUpdateClassifier().fit(labelled, np.arange(41) % 2)
    assert BALD().query(clf, [[0.0, 0.0], [3.0, 0.0]])[0] == 1


def test_it_sees_what_a_hypothetical_label_told():
    clf = LaplaceUpdateClassifier().fit(X[:20], y[:20])
    view = LearnerView(clf, X)
    before = BALD().utilities(view, None)
    after = BALD().utilities(view.after([30], view.state.copy().observe(30, 1)), None)
    assert after[30] < before[30]
