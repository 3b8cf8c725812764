import numpy as np
import pytest
import torch

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model import pool_features
from laplace_al.model.pool_features import (
    in_chunks,
    phi_of,
    product,
    squared_lengths,
    variance_at_prior,
)

X = np.random.default_rng(0).normal(size=(30, 4))


def model_of(**params):
    return LaplaceUpdateClassifier(**params).fit(X, np.arange(30) % 3).current_model()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_products_are_those_with_phi(dtype, fit_intercept):
    model, features = model_of(fit_intercept=fit_intercept), torch.from_numpy(X).to(dtype)
    phi = phi_of(model, features)
    assert phi.dtype == torch.float64
    assert phi.shape == (30, 4 + fit_intercept)
    mean = model.posterior.mean
    found = product(features, mean, has_constant=fit_intercept)
    torch.testing.assert_close(found, phi @ mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(squared_lengths(features), features.square().sum(dim=1))


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
def test_the_variance_before_any_label(fit_intercept, covariance):
    model = model_of(fit_intercept=fit_intercept, covariance=covariance)
    features = torch.from_numpy(X)
    posterior = model.posterior
    prior = type(posterior).prior(posterior.prior_mean, posterior.prior_precision)
    expected = prior.variance(phi_of(model, features))
    expected = expected if expected.ndim == 1 else expected[:, 0]
    torch.testing.assert_close(variance_at_prior(model, features), expected)


def test_rows_come_in_chunks(monkeypatch):
    monkeypatch.setattr(pool_features, "_ROWS_AT_ONCE", 7)
    sizes, rows = [], torch.from_numpy(X)
    found = in_chunks(lambda part: sizes.append(len(part)) or 2 * part, rows)
    assert sizes == [7, 7, 7, 7, 2]
    torch.testing.assert_close(found, 2 * rows)
