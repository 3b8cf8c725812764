import numpy as np
import pytest
from reference import herding
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MaxHerding, SequentialBatch, UncertaintyHerding, _covering

X = np.random.default_rng(0).normal(size=(200, 3))
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
LEFT = np.flatnonzero(np.arange(200) % 8)  # without a label
EVERYONE = np.ones(len(LEFT), dtype=bool)


def margin(learner):
    ordered = np.sort(learner.predict_proba(X[LEFT]), axis=1)
    return 1 - (ordered[:, -1] - ordered[:, -2])


def lost(learner, weights, n_instances, features=X, competes=EVERYONE):
    """How much more others would gain than what the learner queries, at most."""
    places = np.searchsorted(LEFT, learner.query(n_instances))
    return herding(features[LEFT], features[::8], weights, competes, places)[1].max()


def taught(estimator):
    learner = ActiveLearner(estimator, UncertaintyHerding(), X, random_state=0)
    return learner.teach(range(0, 200, 8), y[::8]).refit()


@pytest.mark.parametrize("n_instances", [1, 15])
def test_calibrated_margins_weigh_the_pool(n_instances):
    learner = taught(LaplaceUpdateClassifier())
    assert lost(learner, margin(learner), n_instances) < 1e-3
    _, utilities = UncertaintyHerding().query(learner, X, return_utilities=True)
    gains, _ = herding(X[LEFT], X[::8], margin(learner), EVERYONE, [0])
    np.testing.assert_allclose(utilities[LEFT], gains, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "estimator",
    [
        LaplaceUpdateClassifier(calibration=None),
        LogisticRegression(),
        make_pipeline(StandardScaler(with_std=False), LogisticRegression()),
    ],
)
def test_only_ranks_count_without_calibration(estimator):
    learner = taught(estimator)
    weights = (rankdata(margin(learner)) / len(LEFT)) ** 4
    assert lost(learner, weights, 15) < 1e-3


def test_calibrated_behind_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), LaplaceUpdateClassifier())
    learner = taught(pipeline)
    scaled = learner.estimator_[0].transform(X)
    assert lost(learner, margin(learner), 15, scaled) < 1e-3


@pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), LogisticRegression()])
@pytest.mark.parametrize("n_labels", [0, 1])
def test_covers_the_pool_before_there_is_a_model(estimator, n_labels):
    chosen = []
    for strategy in (UncertaintyHerding(), MaxHerding()):
        learner = ActiveLearner(estimator, strategy, X, random_state=0)
        if n_labels:
            learner.teach([7], [1])
        assert not learner.is_fitted
        chosen.append(learner.query(10))
    np.testing.assert_array_equal(*chosen)


def test_covers_the_pool_while_a_single_class_is_known():
    class OneClass:
        def predict_proba(self, rows):
            return np.ones((len(rows), 1))

    chosen, expected = (
        strategy(random_state=0).query(OneClass(), X, 10)
        for strategy in (UncertaintyHerding, MaxHerding)
    )
    np.testing.assert_array_equal(chosen, expected)


class Probabilities:
    """Predicts the first two columns."""

    def predict_proba(self, rows):
        return np.asarray(rows)[:, :2]


def test_the_least_certain_come_first_where_nothing_is_gained():
    calibrated = LaplaceUpdateClassifier().fit(X, y)
    pool = np.concatenate([X, X])  # everything is covered after 200
    positions = UncertaintyHerding(random_state=0).query(calibrated, pool, 400)
    assert sorted(positions % 200) == sorted([*range(200)] * 2)
    ordered = np.sort(calibrated.predict_proba(X), axis=1)
    uncertainty = 1 - (ordered[:, -1] - ordered[:, -2])
    last = uncertainty[positions[-150:] % 200]
    assert (np.diff(last) <= 1e-9).all()


@pytest.mark.parametrize("n_instances", [1, 3])
def test_a_shortlist_of_a_large_pool_competes(monkeypatch, n_instances):
    monkeypatch.setattr(_covering, "_MANY_PAIRS", 1)
    learner = taught(LaplaceUpdateClassifier())
    candidates = np.arange(200) % 8 > 0
    positions, utilities = UncertaintyHerding(random_state=0).query(
        learner, X, n_instances, candidates=candidates, return_utilities=True
    )
    competes = np.isfinite(utilities)
    assert competes.sum() == 10 * n_instances
    places = np.searchsorted(LEFT, positions)
    problem = X[LEFT], X[::8], margin(learner)
    assert herding(*problem, competes[LEFT], places)[1].max() < 1e-3
    gains, lost_to_all = herding(*problem, EVERYONE, places)
    assert lost_to_all[0] < 0.05 * gains.max()


def test_nan_probabilities_are_refused():
    pool = [[0.5, 0.5], [np.nan, 0.5]]

    class Filled(Probabilities):
        def predict_proba(self, rows):
            return np.array(pool)

    with pytest.raises(ValueError, match="NaN utilities for 2 of 2 instances"):
        UncertaintyHerding().query(Filled(), [[0.5, 0.5], [0.1, 0.5]])


def test_a_learner_without_probabilities_is_refused_at_once():
    with pytest.raises(TypeError, match="needs a learner with predict_proba; got LinearSVC"):
        ActiveLearner(LinearSVC(), UncertaintyHerding(), X)


def test_imagined_labels_count_as_labels():
    learner = taught(LaplaceUpdateClassifier())
    batch = SequentialBatch(UncertaintyHerding(), random_state=0).query(learner, X, 6)
    assert batch[0] == UncertaintyHerding(random_state=0).query(learner, X)[0]
    distances = np.linalg.norm(X[batch][:, None] - X[batch][None], axis=2)
    assert distances[np.triu_indices(6, 1)].min() > 0.3
