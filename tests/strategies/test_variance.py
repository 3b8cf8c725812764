import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import VarianceSampling

rng = np.random.default_rng(0)
X, y = rng.normal(size=(40, 3)), np.arange(40) % 3


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_variance_ranks_the_pool(covariance, n_classes):
    clf = LaplaceUpdateClassifier(covariance=covariance).fit(X[:20], y[:20] % n_classes)
    positions, utilities = VarianceSampling().query(clf, X, 40, return_utilities=True)
    _, variance = clf.latent_mean_and_variance(X)
    expected = variance.reshape(40, -1).mean(axis=1)
    np.testing.assert_allclose(utilities, expected)
    np.testing.assert_array_equal(positions, np.argsort(-utilities))


def test_it_needs_a_posterior():
    with pytest.raises(TypeError, match="VarianceSampling needs the posterior of a LaplaceUpdate"):
        VarianceSampling().query(LogisticRegression().fit(X, y), X)
