import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import BALD, MarginSampling, RandomSampling
from laplace_al.strategies._view import LearnerView, StateView

X = np.random.default_rng(0).normal(size=(60, 4))
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
LAPLACE = LaplaceUpdateClassifier(np.tanh)


class ModalLearner:
    """What modAL's ActiveLearner shows of itself."""

    def __init__(self, estimator, X, y):
        self.estimator, self.X_training = estimator.fit(X, y), X

    def query(self, X_pool):
        """Makes it a learner."""

    def predict_proba(self, X):
        return self.estimator.predict_proba(X)


def learners():
    pipeline = make_pipeline(StandardScaler(), LaplaceUpdateClassifier(np.tanh))
    ours = ActiveLearner(LAPLACE, RandomSampling(), X, X_initial=X[:20], y_initial=y[:20])
    return {
        "classifier": (LaplaceUpdateClassifier(np.tanh).fit(X[:20], y[:20]), 0),
        "learner": (ours, 20),
        "modAL": (ModalLearner(LaplaceUpdateClassifier(np.tanh), X[:20], y[:20]), 20),
        "pipeline": (pipeline.fit(X[:20], y[:20]), 0),
    }


@pytest.mark.parametrize("name", ["classifier", "learner", "modAL", "pipeline"])
def test_the_posterior_is_found(name):
    learner, n_labelled = learners()[name]
    view = LearnerView(learner, X)
    assert len(view) == 60
    np.testing.assert_allclose(view.predict_proba(), learner.predict_proba(X))
    np.testing.assert_allclose(view.state.predict_proba(), learner.predict_proba(X))
    inputs = learner[:-1].transform(X) if name == "pipeline" else X
    np.testing.assert_allclose(view.features, np.tanh(inputs))
    assert view.labelled.shape == (n_labelled, 4)
    if n_labelled:
        np.testing.assert_allclose(view.labelled, np.tanh(X[:20]))
    assert view.posterior_state(RandomSampling()) is view.state


def test_monte_carlo_probabilities_are_those_of_the_classifier():
    clf = LaplaceUpdateClassifier(predictive="monte_carlo", n_samples=20).fit(X, y)
    np.testing.assert_allclose(LearnerView(clf, X).predict_proba(), clf.predict_proba(X))


def test_monte_carlo_extracts_the_pool_once():
    calls = []

    def extract(rows):
        calls.append(len(rows))
        return np.asarray(rows)

    clf = LaplaceUpdateClassifier(extract, predictive="monte_carlo", n_samples=20)
    learner = ActiveLearner(clf, MarginSampling(), X, X_initial=X[:20], y_initial=y[:20])
    for _ in range(2):
        position = learner.query()
        learner.teach(position, y[position])
    assert calls.count(len(X)) == 1


def test_any_classifier():
    learner = LogisticRegression().fit(X, y)
    view = LearnerView(learner, X.tolist())
    np.testing.assert_allclose(view.predict_proba(), learner.predict_proba(X))
    np.testing.assert_array_equal(view.features, X)
    assert view.labelled.shape == (0, 4)
    assert view.state is None
    match = "RandomSampling needs the posterior of a LaplaceUpdateClassifier; got LogisticRegress"
    with pytest.raises(TypeError, match=match):
        view.posterior_state(RandomSampling())


def test_a_meta_estimator_predicts_itself():
    calibrated = CalibratedClassifierCV(LaplaceUpdateClassifier(), cv=2).fit(X, y)
    view = LearnerView(calibrated, X)
    np.testing.assert_allclose(view.predict_proba(), calibrated.predict_proba(X))
    assert view.state is None


def test_without_probabilities():
    with pytest.raises(TypeError, match="needs a learner with predict_proba; got object"):
        LearnerView(object(), X).predict_proba()


def test_after_a_label():
    clf = LaplaceUpdateClassifier().fit(X[:20], y[:20])
    view = LearnerView(clf, X)
    before = view.predict_proba().copy()
    later = view.after([3], view.state.copy().observe(3, 2))
    np.testing.assert_array_equal(view.predict_proba(), before)
    np.testing.assert_array_equal(later.labelled, X[3:4])
    updated = LaplaceUpdateClassifier(calibration=None).fit(X[:20], y[:20])
    updated.partial_fit(X[3:4], [2])
    np.testing.assert_allclose(later.state.posterior.mean, updated.posterior_.mean)
    np.testing.assert_allclose(later.predict_proba(), later.state.predict_proba())


def test_after_several_labels():
    view = LearnerView(LaplaceUpdateClassifier().fit(X, y), X)
    later = view.after([9, 3], view.state).after([7], view.state)
    np.testing.assert_array_equal(later.labelled_positions, [9, 3, 7])
    np.testing.assert_array_equal(later.labelled, X[[9, 3, 7]])
    assert later.features is view.features


def test_features_are_computed_once():
    calls = []

    def extractor(X):
        calls.append(len(X))
        return np.asarray(X)

    clf = LaplaceUpdateClassifier(extractor).fit(X, y)
    calls.clear()
    view = LearnerView(clf, X)
    for _ in range(2):
        view.predict_proba(), view.features, view.state, view.labelled
    assert calls == [60]


@pytest.mark.parametrize("name", ["classifier", "learner", "modAL", "pipeline"])
def test_a_part_is_the_view_of_some_rows(name):
    learner, n_labelled = learners()[name]
    kept = np.array([3, 50, 8])
    part, alone = LearnerView(learner, X).part(kept), LearnerView(learner, X[kept])
    assert len(part) == 3
    np.testing.assert_allclose(part.predict_proba(), alone.predict_proba())
    np.testing.assert_allclose(part.features, alone.features)
    assert part.labelled.shape == (n_labelled, 4)
    np.testing.assert_array_equal(part.labelled_positions, np.full(n_labelled, -1))


def test_a_part_after_a_label_knows_it():
    clf = LaplaceUpdateClassifier().fit(X[:20], y[:20])
    view = LearnerView(clf, X)
    part = view.after([3], view.state.copy().observe(3, 2)).part(np.array([50, 3]))
    np.testing.assert_array_equal(part.labelled, X[3:4])
    assert part.labelled_positions.tolist() == [1]
    later = view.state.copy().observe(3, 2)
    np.testing.assert_allclose(part.predict_proba(), later.predict_proba([50, 3]))


def test_views_of_views():
    """A part of a part of the pool, in which a label is imagined."""
    learner = learners()["learner"][0].teach([40, 7], y[[40, 7]])
    view = LearnerView(learner, X)
    part = view.part(np.array([3, 40, 50, 8])).part(np.array([2, 1, 3]))
    np.testing.assert_array_equal(part.places, [50, 40, 8])
    later = part.after([2], part.state.copy().observe(2, 1))
    np.testing.assert_array_equal(later.labelled_positions, [-1] * 20 + [1, -1, 2])
    np.testing.assert_allclose(later.labelled, np.tanh(X[[*range(20), 40, 7, 8]]))
    expected = view.state.copy().observe(8, 1).predict_proba([50, 40, 8])
    np.testing.assert_allclose(later.predict_proba(), expected)
    np.testing.assert_allclose(part.predict_proba(), view.predict_proba()[[50, 40, 8]])


def test_a_state_is_enough():
    clf = LaplaceUpdateClassifier(predictive="monte_carlo", n_samples=20).fit(X[:20], y[:20])
    state = clf.pool_state(X)
    alone, known = StateView(state), StateView(state, clf)
    np.testing.assert_array_equal(alone.features, X)
    assert alone.labelled.shape == (0, 4)
    np.testing.assert_array_equal(alone.predict_proba(), state.predict_proba())
    np.testing.assert_array_equal(known.predict_proba(), clf.predict_proba(X))


def test_a_part_for_any_classifier():
    learner = LogisticRegression().fit(X, y)
    part = LearnerView(learner, X.tolist()).part(np.array([5, 2]))
    np.testing.assert_allclose(part.predict_proba(), learner.predict_proba(X[[5, 2]]))
    np.testing.assert_array_equal(part.features, X[[5, 2]])


@pytest.mark.parametrize("before", [(), (StandardScaler(),)])
def test_a_search_is_what_it_has_found(before):
    clf, name = LaplaceUpdateClassifier(), "prior_precision"
    if before:
        clf, name = make_pipeline(*before, clf), f"laplaceupdateclassifier__{name}"
    search = GridSearchCV(clf, {name: [0.1, 10.0]}, cv=2).fit(X, y)
    view, best = LearnerView(search, X), LearnerView(search.best_estimator_, X)
    assert view.state is not None
    np.testing.assert_array_equal(view.predict_proba(), best.predict_proba())
    np.testing.assert_array_equal(view.features, best.features)
    strategy = BALD(random_state=0)
    np.testing.assert_array_equal(
        strategy.query(search, X, 5), strategy.query(search.best_estimator_, X, 5)
    )


def test_a_learner_whose_search_changes_the_extractor():
    """Features of one fit are not those of the next."""
    extractors = [np.tanh, lambda X: np.column_stack([X, X])]
    search = GridSearchCV(LaplaceUpdateClassifier(), {"feature_extractor": extractors}, cv=2)
    learner = ActiveLearner(search, BALD(), X, X_initial=X[:20], y_initial=y[:20], refit_every=1)
    for _ in range(3):
        i = learner.query()[0]
        best = learner.estimator_.best_estimator_
        assert i in np.setdiff1d(np.arange(60), learner.labels_.position)
        np.testing.assert_allclose(LearnerView(learner, X).features, best.transform(X))
        learner.teach(i, y[i])
