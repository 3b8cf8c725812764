import numpy as np
import pytest
from learners import X, X_pool, make, y, y_pool
from sklearn.exceptions import NotFittedError

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling


def test_kept_inputs():
    learner = make(LaplaceUpdateClassifier(np.square))
    np.testing.assert_array_equal(learner.kept_inputs(X).features, X**2)
    assert make().kept_inputs(X) is X  # there is nothing to extract
    stream = iter([X])
    assert learner.kept_inputs(stream) is stream
    waiting = ActiveLearner(LaplaceUpdateClassifier(np.square), MarginSampling(), X)
    assert waiting.kept_inputs(X) is X


def test_predictions_are_those_of_the_estimator():
    learner = make().teach([0, 1], y_pool[:2])
    np.testing.assert_array_equal(learner.predict(X), learner.estimator_.predict(X))
    np.testing.assert_array_equal(learner.predict_proba(X), learner.estimator_.predict_proba(X))
    assert learner.score(X, y) == learner.estimator_.score(X, y)


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_there_are_none_before_a_model(method):
    learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X_pool)
    assert not learner.is_fitted
    assert learner.instances_ is None
    with pytest.raises(NotFittedError, match="not fitted yet: it waits for more labels"):
        getattr(learner, method)(X)
