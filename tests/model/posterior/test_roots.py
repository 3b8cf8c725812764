import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import LinAlgWarning

from laplace_al.model.posterior.roots import (
    accurate_factor,
    precision_of_root,
    prior_root,
    root_of_precision,
    root_of_rows,
    root_of_sum,
    triangle_of_rows,
)

rng = np.random.default_rng(0)


def test_prior_root():
    root = prior_root(2, 3, 4.0, torch.zeros(1).double())
    torch.testing.assert_close(root @ root.mT, torch.eye(3).double().expand(2, 3, 3) / 4)


@pytest.mark.parametrize("n", [3, 50, 5000])
def test_root_of_sum_is_a_root_of_the_inverse(n):
    features = torch.from_numpy(rng.normal(size=(n, 6)))
    curvature = torch.from_numpy(rng.uniform(size=(n, 2)))
    root = root_of_sum(features, curvature, 0.3)
    for g in range(2):
        precision = (
            0.3 * np.eye(6) + features.numpy().T @ np.diag(curvature[:, g]) @ features.numpy()
        )
        np.testing.assert_allclose(root[g] @ root[g].T, np.linalg.inv(precision), rtol=1e-9)


def test_a_prior_far_below_the_features_is_not_lost():
    """20 digits between the data and the prior: the sum itself cannot hold both."""
    features = torch.tensor([[1e6, 1e6, 0.0]]).double()
    root = root_of_sum(features, torch.ones(1, 1).double(), 1e-8)[0]
    covariance = root @ root.T
    seen = torch.tensor([1.0, 1.0, 0.0]).double() / 2**0.5
    unseen = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 2**0.5]]).double() / 2**0.5
    torch.testing.assert_close(
        unseen @ covariance @ unseen.T, 1e8 * torch.eye(2).double(), rtol=1e-6, atol=1e2
    )
    # the direction that was seen: 1 / |phi|^2, 20 digits below, is still tiny and not negative
    assert 0 <= float((root.T @ seen).square().sum()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_half_of_the_digits_remain_until_the_prior_is_lost(dtype):
    """Variance 1 / lambda where there are no data, for data 1 to 10^(7/8 of all digits) lambda."""
    epsilon = torch.finfo(dtype).eps
    unseen = torch.tensor([1.0, -1.0, 0.0], dtype=dtype)
    for share in epsilon ** torch.linspace(0, 7 / 8, 40):  # of the prior in the roots
        features = torch.tensor([[1.0, 1.0, 0.3]], dtype=dtype) / share
        root = root_of_sum(features, torch.ones(1, 1, dtype=dtype), 1.0)[0]
        error = float((root.T @ unseen).square().sum()) / 2 - 1
        assert abs(error) < 4 * max(epsilon**0.5, epsilon / share)


def test_a_triangle_of_rows_has_no_sign_of_its_own():
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    upper = triangle_of_rows(rows)
    torch.testing.assert_close(upper, torch.linalg.cholesky(rows.T @ rows).T)


def test_precision_of_root_inverts():
    precision = torch.tensor([[[4.0, 1.0], [1.0, 3.0]]]).double()
    torch.testing.assert_close(precision_of_root(root_of_precision(precision)), precision)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_a_matrix_without_a_root_names_the_cure(wrong):
    with pytest.raises(ValueError, match=r"prior_precision is lost .* StandardScaler"):
        root_of_precision(torch.eye(2)[None] * wrong)


def test_features_that_overflow_name_the_cure():
    message = (
        "^X is too large: products of the features overflow. Scale the features, e.g. with "
        "StandardScaler.$"
    )
    with pytest.raises(ValueError, match=message):
        root_of_sum(torch.full((1, 2), np.inf), torch.ones(1, 1), 1.0)
    with pytest.raises(ValueError, match=message):
        root_of_rows(lambda: [torch.full((1, 2), np.inf)], 1.0, 2, torch.ones(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_roots_have_the_dtype_of_what_they_are_of(dtype):
    rows = torch.tensor([[3.0, 0.0], [0.0, 1e-7]], dtype=dtype)
    precision = rows.T @ rows + 0.5 * torch.eye(2, dtype=dtype)
    found = [
        prior_root(1, 2, 4.0, rows)[0],
        root_of_precision(precision[None])[0],
        root_of_rows(lambda: [rows], 0.5, 2, rows),
        accurate_factor(precision, lambda: [rows], 0.5),
        accurate_factor(rows.T @ rows, lambda: [rows], 1e-10),  # by the rows themselves
    ]
    assert [each.dtype for each in found] == [dtype] * 5
    for root in found[1:3]:
        torch.testing.assert_close(root @ root.T, torch.linalg.inv(precision))
    assert (found[4].diagonal() > 0).all()


def test_a_prior_that_is_lost_is_reported():
    """The root of the data to that of the prior is 1e17: float64 holds 16 digits."""
    features = torch.tensor([[1e12, 1e12, 0.0]]).double()
    match = "^prior_precision is lost beside the features even among their square roots: "
    with pytest.warns(LinAlgWarning, match=match) as caught:
        root_of_sum(features, torch.ones(1, 1).double(), 1e-10)
    assert str(caught[0].message).endswith(
        "the uncertainty where there are no data is wrong. Scale the features, e.g. with "
        "StandardScaler, or raise prior_precision."
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_root_of_a_precision_is_right_or_reports(dtype):
    """Variance 1 where there are no data, for data 1 to beyond all digits of the precision."""
    epsilon = torch.finfo(dtype).eps
    unseen = torch.tensor([1.0, -1.0, 0.0], dtype=dtype)
    is_reported = []
    for scale in epsilon ** -torch.linspace(0, 0.6, 200, dtype=dtype):
        features = scale * torch.tensor([[1.0, 1.0, 0.3]], dtype=dtype)
        precision = torch.eye(3, dtype=dtype) + features.T @ features
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                root = root_of_precision(precision[None])[0]
            except ValueError:
                is_reported.append(True)
                continue
        is_reported.append(bool(seen))
        if seen:
            assert seen[0].category is LinAlgWarning
        else:
            assert abs(float((root.T @ unseen).square().sum()) / 2 - 1) < 0.05
    assert not any(is_reported[:110])
    assert all(is_reported[-20:])
