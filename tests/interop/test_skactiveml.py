"""Under scikit-activeml's wrapper and strategies, and the same choices as its own.

It turns errors of an estimator's fit into warnings, which are errors here.
"""

import numpy as np
import pytest
from skactiveml import pool as peer
from skactiveml.classifier import SklearnClassifier

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import BADGE, BALD, CoreSet, ProbCover, TypiClust
from laplace_al.strategies.badge import residuals, squared_gradient_distances

CENTRES = 4 * np.eye(3, 5)
LABELS = np.arange(120) % 3
X = CENTRES[LABELS] + np.random.default_rng(0).normal(size=(120, 5))
START = np.arange(6)
DRAWS = {
    "sample_predictions_method_name": "sample_proba",
    "sample_predictions_dict": {"n_samples": 100},
}


def wrapped(**kwargs):
    return SklearnClassifier(
        LaplaceUpdateClassifier(prior_precision=1.0, random_state=0), classes=[0, 1, 2], **kwargs
    )


def partly_labelled(labelled):
    y = np.full(len(X), np.nan)
    y[labelled] = LABELS[labelled]
    return y


class TestUnderItsWrapper:
    @pytest.mark.parametrize(
        "query",
        [
            lambda clf, X, y: peer.Badge(random_state=0).query(X, y, clf, batch_size=3),
            lambda clf, X, y: peer.GreedyBALD(random_state=0, **DRAWS).query(
                X, y, clf, batch_size=3
            ),
            lambda clf, X, y: peer.BatchBALD(random_state=0, **DRAWS).query(
                X, y, clf, batch_size=3
            ),
            lambda clf, X, y: peer.UncertaintySampling(random_state=0).query(
                X, y, clf, batch_size=3
            ),
        ],
        ids=["Badge", "GreedyBALD", "BatchBALD", "UncertaintySampling"],
    )
    def test_labels_are_learnt_in_a_loop(self, query):
        y, clf = partly_labelled(START[:3]), wrapped()
        for _ in range(4):
            chosen = query(clf, X, y)
            assert np.isnan(y[chosen]).all()
            y[chosen] = LABELS[chosen]
        clf.fit(X, y)
        assert clf.is_fitted_
        assert clf.score(X, LABELS) > 0.9
        twin = LaplaceUpdateClassifier(prior_precision=1.0, random_state=0).fit(
            X[~np.isnan(y)], y[~np.isnan(y)]
        )
        np.testing.assert_array_equal(clf.predict_proba(X), twin.predict_proba(X))

    @pytest.mark.parametrize("ignore_partial_fit", [True, False])
    # scikit-activeml says this of any classifier with partial_fit
    @pytest.mark.filterwarnings("ignore:The `partial_fit` function by sklearn might not ensure")
    def test_expected_error_reduction(self, ignore_partial_fit):
        y, clf = partly_labelled(START), wrapped()
        for _ in range(2):
            chosen, utilities = peer.MonteCarloEER(method="log_loss", random_state=0).query(
                X,
                y,
                clf,
                candidates=np.arange(6, 18),
                X_eval=X[60:],
                ignore_partial_fit=ignore_partial_fit,
                return_utilities=True,
            )
            assert np.isfinite(utilities[0, 6:18]).sum() >= 11
            y[chosen] = LABELS[chosen]
        assert clf.fit(X, y).score(X, LABELS) > 0.8

    def test_partial_fit(self):
        clf = wrapped().fit(X[:30], partly_labelled(np.arange(20))[:30])
        clf.partial_fit(X[30:60], partly_labelled(np.arange(30, 40))[30:60])
        assert clf.is_fitted_
        twin = LaplaceUpdateClassifier(prior_precision=1.0, random_state=0).fit(X[:20], LABELS[:20])
        twin.partial_fit(X[30:40], LABELS[30:40])
        np.testing.assert_array_equal(clf.predict_proba(X), twin.predict_proba(X))

    def test_partial_fit_without_a_fit(self):
        clf = wrapped()
        for rows in (np.arange(2), np.arange(2, 20), np.arange(20, 40)):
            clf.partial_fit(X[rows], LABELS[rows])
        assert clf.score(X, LABELS) > 0.9

    def test_a_class_that_has_no_label_yet(self):
        clf = SklearnClassifier(LaplaceUpdateClassifier(classes=[0, 1, 2]), classes=[0, 1, 2])
        clf.fit(X, partly_labelled([0, 1, 3, 4]))
        assert (clf.predict_proba(X) > 0).all()
        assert clf.partial_fit(X[:60], LABELS[:60]).score(X, LABELS) > 0.9

    def test_labels_that_are_words(self):
        names = np.array(["ant", "bee", "cat"])
        y = np.where(np.arange(120) < 60, names[LABELS], "?")
        clf = SklearnClassifier(LaplaceUpdateClassifier(), classes=names, missing_label="?")
        assert clf.fit(X, y).score(X, names[LABELS]) > 0.9


class TestSameChoice:
    """Of a learner whose labelled instances lie in its pool, as scikit-activeml has them."""

    @staticmethod
    def ours(strategy, n_instances, labelled=START):
        learner = ActiveLearner(
            LaplaceUpdateClassifier(prior_precision=1.0, random_state=0),
            strategy,
            X,
            random_state=0,
        )
        learner.teach(labelled, LABELS[labelled])
        candidates = ~np.isin(np.arange(len(X)), labelled)
        positions, utilities = strategy.query(
            learner, X, n_instances, candidates=candidates, return_utilities=True
        )
        utilities[labelled] = np.nan  # as scikit-activeml marks them
        return positions, utilities

    def test_badge(self):
        positions, utilities = self.ours(BADGE(random_state=0), 1)
        y, clf = partly_labelled(START), wrapped()
        chosen, draws = peer.Badge(random_state=0).query(
            X, y, clf, batch_size=2, return_utilities=True
        )
        assert chosen[0] == positions[0]
        np.testing.assert_allclose(draws[0], utilities / np.nansum(utilities))
        coefficients = residuals(clf.fit(X, y).predict_proba(X))
        # scikit-activeml's centres are those of k-means++ and the origin
        squared = squared_gradient_distances(coefficients, X, chosen[0])
        squared = np.fmin(squared, utilities)
        squared[START] = np.nan
        squared[chosen[0]] = 0
        expected = squared / np.nansum(squared)
        expected[chosen[0]] = np.nan
        np.testing.assert_allclose(draws[1], expected, atol=1e-12)

    def test_core_set(self):
        positions, utilities = self.ours(CoreSet(random_state=0), 30)
        chosen, distances = peer.CoreSet(random_state=0).query(
            X, partly_labelled(START), batch_size=30, return_utilities=True
        )
        np.testing.assert_array_equal(positions, chosen)
        np.testing.assert_allclose(utilities, distances[0])

    def test_core_set_goes_on_from_its_random_first_choice(self):
        first, *rest = peer.CoreSet(random_state=0).query(X, partly_labelled([]), batch_size=10)
        positions, _ = self.ours(CoreSet(random_state=0), 9, labelled=np.array([first]))
        np.testing.assert_array_equal(positions, rest)

    @pytest.mark.parametrize("seed", [0, 2, 3])  # clusters of 6 or more are chosen
    def test_typi_clust(self, seed):
        positions, utilities = self.ours(TypiClust(n_neighbors=3, random_state=seed), 2)
        chosen, typicality = peer.TypiClust(k=3, random_state=seed).query(
            X, partly_labelled(START), batch_size=2, return_utilities=True
        )
        np.testing.assert_array_equal(positions, chosen)
        for found in typicality:  # of one cluster each
            members = np.isfinite(found)
            np.testing.assert_allclose(utilities[members], found[members], rtol=1e-6)

    @pytest.mark.parametrize("radius", [0.5, 1.5, 3.0])
    def test_prob_cover(self, radius):
        positions, utilities = self.ours(ProbCover(radius=radius, random_state=0), 12)
        labelled = START
        for i, position in enumerate(positions):
            # balls of the second radius hold several clusters, so that the first is taken
            strategy = peer.ProbCover(deltas=[radius, 1e9], alpha=1e-9, random_state=0)
            _, counts = strategy.query(X, partly_labelled(labelled), return_utilities=True)
            if i == 0:
                np.testing.assert_array_equal(utilities, counts[0])
            assert counts[0, position] == np.nanmax(counts[0])
            labelled = np.append(labelled, position)

    def test_bald(self):
        positions, utilities = self.ours(BALD(random_state=0), 5)
        chosen, information = peer.GreedyBALD(random_state=0, **DRAWS).query(
            X, partly_labelled(START), wrapped(), batch_size=5, return_utilities=True
        )
        np.testing.assert_array_equal(positions, chosen)
        np.testing.assert_allclose(utilities, information[0], atol=1e-5)
