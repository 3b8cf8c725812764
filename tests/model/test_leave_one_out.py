import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris

from laplace_al.model import leave_one_out as leave_one_out_module
from laplace_al.model.curvatures import per_class_curvature
from laplace_al.model.leave_one_out import leave_one_out, low_rank_laplace, per_class_laplace
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import Labelled, find_mode
from laplace_al.model.priors import IsotropicPrior


def problem(n, size, n_outputs, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, size))), torch.from_numpy(
        rng.uniform(size=(n, n_outputs)) ** 3
    )


@pytest.mark.parametrize("n", [3, 6, 7, 50])
@pytest.mark.parametrize("prior_precision", [1e-4, 1.0, 1e3])
def test_variance_and_determinant_are_those_of_the_inverse(n, prior_precision):
    features, curvature = problem(n, 6, 3)
    curvature[0, 0] = 0.0
    laplace = per_class_laplace(features, curvature, prior_precision)
    total = 0.0
    for k in range(3):
        precision = prior_precision * np.eye(6) + (features.T * curvature[:, k]).numpy() @ (
            features.numpy()
        )
        direct = np.einsum("nd,de,ne->n", features, np.linalg.inv(precision), features)
        np.testing.assert_allclose(laplace.variance[:, k], direct, rtol=1e-8)
        total += np.linalg.slogdet(precision).logabsdet
    assert float(laplace.log_determinant) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_copies_of_an_instance_beside_a_weak_prior(scale, dtype):
    """Squares have no digit left of what tells the copies' precision from a singular one."""
    row = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 8)))
    features = (scale * row).to(dtype).expand(3, 8)
    laplace = per_class_laplace(features, torch.full((3, 1), 0.25).to(features), 1e-2)
    squared = float(features[0].double().square().sum()) / 1e-2  # |phi|^2 / lambda
    expected = squared / (1 + 0.75 * squared)
    resolution = 1e-6 + 16 * torch.finfo(dtype).eps * squared**0.5
    np.testing.assert_allclose(laplace.variance.double(), expected, rtol=resolution)
    determinant = 8 * np.log(1e-2) + np.log1p(0.75 * squared)
    assert float(laplace.log_determinant) == pytest.approx(determinant, abs=resolution, rel=1e-6)


def test_the_equation_is_that_of_the_exact_mode():
    """z = z^- + v^- (y - p(z)): the update that would lead back."""
    rng = np.random.default_rng(0)
    logits, residual = torch.from_numpy(rng.normal(size=(2, 5, 3)))
    variance, curvature = torch.from_numpy(rng.uniform(size=(2, 5, 3)))
    weights = torch.tensor([0.0, 0.5, 1.0, 1.0, 3.0]).double()
    left_out = leave_one_out(logits, residual, variance, curvature, weights)
    unit = weights.clamp(max=1)[:, None]
    torch.testing.assert_close(left_out.logits + unit * left_out.variance * residual, logits)
    # precisions of a logit add up
    torch.testing.assert_close(1 / variance, 1 / left_out.variance + unit * curvature)


def left_out_and_refitted(X, y, prior_precision):
    """Logits of each instance without it: in closed form, and by fitting n times."""
    likelihood = likelihood_of(len(np.unique(y)))
    phi = torch.from_numpy(np.c_[X, np.ones(len(X))])
    targets = likelihood.encode(torch.from_numpy(y.astype(float)))
    ones = torch.ones(len(X)).double()
    zero = torch.zeros(phi.shape[1], likelihood.n_outputs).double()
    prior = IsotropicPrior(zero, prior_precision)
    options = {"max_iter": 100, "tol": 1e-8}
    data = Labelled(phi, targets, ones, likelihood)
    mean = find_mode(data, prior, zero, **options).mean
    logits = phi @ mean
    curvature = per_class_curvature(likelihood.mean(logits))
    laplace = per_class_laplace(phi, curvature, prior_precision)
    residual = likelihood.residual(logits, targets)
    left_out = leave_one_out(logits, residual, laplace.variance, curvature, ones)
    refitted = []
    for row in range(len(X)):
        weights = ones.clone()
        weights[row] = 0
        without = find_mode(data._replace(weights=weights), prior, mean, **options).mean
        refitted.append(phi[row] @ without)
    return logits, left_out.logits, torch.stack(refitted)


@pytest.mark.parametrize("prior_precision", [0.1, 1.0, 10.0])
def test_two_classes_are_refitted_without_the_instance_to_second_order(prior_precision):
    X, y = load_iris(return_X_y=True)
    X, y = X[50:] - X.mean(axis=0), y[50:] - 1
    logits, closed, refitted = left_out_and_refitted(X, y, prior_precision)
    error, moved = (closed - refitted).abs(), (logits - refitted).abs()
    assert (error <= 0.02 * moved + moved**2).all()
    assert error.mean() < 0.02 * moved.mean()


def test_the_error_falls_faster_than_the_move():
    """The error is of second order: a third of the move, about a ninth of the error or less."""
    X, y = load_iris(return_X_y=True)
    X, y = X[50:] - X.mean(axis=0), y[50:] - 1
    share = []
    for copies in (1, 3):  # an instance among three times as many moves a third as far
        logits, closed, refitted = left_out_and_refitted(
            np.repeat(X, copies, axis=0), np.repeat(y, copies), 1.0 * copies
        )
        share.append(((closed - refitted).abs().mean(), (logits - refitted).abs().mean()))
    (error, moved), (smaller_error, smaller_moved) = share
    assert smaller_moved < 0.4 * moved
    assert smaller_error < 0.15 * error


@pytest.mark.parametrize("prior_precision", [0.1, 1.0, 10.0])
def test_many_classes_are_refitted_without_the_instance_about(prior_precision):
    X, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))[:60]
    logits, closed, refitted = left_out_and_refitted(X[rows] / 16, y[rows], prior_precision)

    def nll(logits):
        return -torch.log_softmax(logits, dim=1)[np.arange(60), y[rows]].mean()

    assert nll(refitted) > nll(logits) * 1.05
    assert float(nll(closed)) == pytest.approx(float(nll(refitted)), rel=0.1)
    assert (closed - refitted).abs().mean() < 0.25 * (logits - refitted).abs().mean()


def test_an_instance_of_weight_three_stands_for_three():
    X, y = load_iris(return_X_y=True)
    phi, targets = torch.from_numpy(X), torch.eye(3).double()[y]
    rng = np.random.default_rng(0)
    mean, weights = rng.normal(size=(4, 3)), rng.integers(1, 4, size=150)

    def logits(phi, targets, weights):
        z = phi @ torch.from_numpy(mean)
        p = likelihood_of(3).mean(z)
        variance = per_class_laplace(phi, weights[:, None] * per_class_curvature(p), 1.0).variance
        return leave_one_out(z, targets - p.p, variance, per_class_curvature(p), weights).logits

    weighted = logits(phi, targets, torch.from_numpy(weights).double())
    repeated = logits(
        phi[np.repeat(np.arange(150), weights)],
        targets[np.repeat(np.arange(150), weights)],
        torch.ones(weights.sum()).double(),
    )
    torch.testing.assert_close(weighted[np.repeat(np.arange(150), weights)], repeated)


@pytest.mark.parametrize(("n", "n_features"), [(60, 80), (300, 80), (30, 20)])
def test_by_a_shared_root_and_axes_variances_and_determinant_are_nearly_the_same(
    n, n_features, monkeypatch
):
    monkeypatch.setattr(leave_one_out_module, "_FEW_NUMBERS", 0)
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(8, (n,), generator=rng)
    centres = torch.randn(8, n_features, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, n_features, generator=rng, dtype=torch.float64)
    features = (centres[labels] + noise) / n_features**0.5
    logits = 2 * features @ centres.T / n_features**0.5
    curvature = per_class_curvature(likelihood_of(8).mean(logits))
    exact = per_class_laplace(features, curvature, 0.1)
    found = low_rank_laplace(features, curvature, 0.1)
    error = (found.variance / exact.variance).log().abs().mean()
    assert float(error) < (0.05 if n_features > 64 else 1e-12)
    # an eigenvalue that stands for several has a larger determinant
    per_weight = (found.log_determinant - exact.log_determinant) / (8 * n_features)
    assert 0 <= float(per_weight) + 1e-12 < 0.02
