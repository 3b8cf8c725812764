import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import BALD, MarginSampling, SequentialBatch, scores

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 4))
y = np.array(list("abc"))[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)]


@pytest.fixture(params=["shared", "per_class", "low_rank", "full"])
def clf(request):
    return LaplaceUpdateClassifier(covariance=request.param).fit(X[:20], y[:20])


def labelled(clf, X):
    """A copy that has learnt its own predictions of some instances, one after the other."""
    learnt = clone(clf).set_params(calibration=None)
    vars(learnt).update(vars(clf))
    learnt.calibration = None
    return learnt


def test_predicted_labels_are_learnt_one_after_the_other(clf):
    batch = SequentialBatch(MarginSampling(), labels="predicted", random_state=0)
    positions = batch.query(clf, X, 6)
    twin = labelled(clf, X)
    for position in positions:
        utilities = scores.margin(twin.predict_proba(X))
        utilities[positions[: list(positions).index(position)]] = -1
        assert utilities.argmax() == position
        twin.partial_fit(X[[position]], twin.predict(X[[position]]))


def test_expected_labels_only_shrink_the_variance(clf):
    positions = SequentialBatch(MarginSampling(), labels="expected").query(clf, X, 5)
    assert len(set(positions)) == 5
    assert positions[0] == scores.margin(clf.predict_proba(X)).argmax()


def test_sampled_labels_are_drawn_from_the_prediction(clf):
    """The second choice depends on the first label: both are seen, as often as predicted."""
    first = scores.margin(clf.predict_proba(X)).argmax()
    expected = {}
    for label, p in zip("abc", clf.predict_proba(X)[first], strict=True):
        twin = labelled(clf, X).partial_fit(X[[first]], [label])
        utilities = scores.margin(twin.predict_proba(X))
        utilities[first] = -1
        expected[utilities.argmax()] = expected.get(utilities.argmax(), 0) + p
    seconds = [
        SequentialBatch(MarginSampling(), labels="sampled", random_state=seed).query(clf, X, 2)[1]
        for seed in range(200)
    ]
    for position, p in expected.items():
        assert seconds.count(position) / 200 == pytest.approx(p, abs=0.12)
    assert set(seconds) <= set(expected)


def test_without_an_update_in_between_it_is_the_strategy(clf):
    batch = SequentialBatch(MarginSampling(), update_every=9, random_state=0)
    alone = MarginSampling(random_state=0)
    np.testing.assert_array_equal(batch.query(clf, X, 9), alone.query(clf, X, 9))


def test_it_avoids_copies_of_what_it_has_chosen(clf):
    pool = np.repeat(X[20:40], 5, axis=0)
    chosen = SequentialBatch(MarginSampling(), labels="predicted", random_state=0).query(
        clf, pool, 5
    )
    top = MarginSampling(random_state=0).query(clf, pool, 5)
    assert len(set(top // 5)) == 1
    assert len(set(chosen // 5)) > 2


def test_parameters_of_the_wrapped_strategy_are_checked(clf):
    with pytest.raises(ValueError, match="The 'n_samples' parameter of BALD"):
        SequentialBatch(BALD(n_samples=0)).query(clf, X, 2)


def test_a_classifier_without_a_posterior():
    learner = LogisticRegression().fit(X, y)
    with pytest.raises(TypeError, match="SequentialBatch needs the posterior"):
        SequentialBatch(MarginSampling()).query(learner, X, 2)


def test_what_cannot_be_wrapped(clf):
    with pytest.raises(ValueError, match="The 'strategy' parameter of SequentialBatch"):
        SequentialBatch("margin").query(clf, X, 2)


def test_clone_copies_the_strategy():
    batch = SequentialBatch(MarginSampling(random_state=3), labels="expected")
    twin = clone(batch)
    assert twin.strategy is not batch.strategy
    assert twin.get_params()["strategy__random_state"] == 3
