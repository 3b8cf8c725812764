import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model import links
from laplace_al.model.curvatures import full_curvature_root
from laplace_al.model.likelihoods import Mean, likelihood_of
from laplace_al.model.posterior import FullPosterior
from laplace_al.model.structures import STRUCTURES


def test_it_holds_one_root_of_all_weights():
    assert FullPosterior.prior(torch.zeros(5, 3), 1.0).root.shape == (1, 15, 15)


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize(("n_features", "n_outputs"), [(3, 20), (20, 3), (1, 40)])
def test_what_a_fit_takes_is_no_larger_than_a_root(n_features, n_outputs):
    """However many outputs an instance has rows of."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(70, n_features, generator=generator).double()
    roots = torch.randn(70, n_outputs, n_outputs, generator=generator).double()
    mean = torch.zeros(n_features, n_outputs).double()
    with Largest() as largest:
        posterior = FullPosterior.at_mode(mean, features, roots.__getitem__, 2.0)
    assert largest.numbers <= mean.numel() ** 2
    blocks = zip(features, roots, strict=True)
    rows = torch.cat([torch.kron(phi[None], root.T.contiguous()) for phi, root in blocks])
    expected = rows.T @ rows + 2 * torch.eye(mean.numel())
    torch.testing.assert_close(posterior.precision.reshape(expected.shape), expected)


def test_a_common_shift_of_all_logits_is_never_learnt():
    """Softmax ignores it, so its variance stays that of the prior."""
    likelihood, structure = likelihood_of(3), STRUCTURES["full"]
    update = structure.update(likelihood, update="map", curvature="categorical", step_size=1.0)
    posterior = FullPosterior.prior(torch.zeros(1, 3).double(), 2.0)
    targets, ones = torch.eye(3).double(), torch.ones(3, 1).double()
    learnt = posterior.condition(ones, targets, ones[:, 0], update)
    shift = torch.ones(3).double() / 3**0.5
    torch.testing.assert_close(shift @ learnt.covariance @ shift, torch.tensor(0.5).double())
    assert learnt.variance(ones)[0, 0] < 0.5


def test_a_label_reflects_nothing():
    """Draws would depend on the sign of a direction that only rounding decides."""
    likelihood, structure = likelihood_of(3), STRUCTURES["full"]
    update = structure.update(likelihood, update="map", curvature="categorical", step_size=1.0)
    prior = FullPosterior.prior(torch.zeros(2, 3).double(), 2.0)
    ones = torch.ones(1, 2).double()
    learnt = prior.condition(ones, torch.eye(3)[:1].double(), ones[0, :1], update)
    factor = torch.linalg.solve(prior.root[0], learnt.root[0])
    shares = torch.linalg.eigvals(factor).real
    assert shares.min() > 0.1
    assert shares.max() < 1 + 1e-9


def test_the_root_of_the_curvature():
    p = torch.tensor([[0.7, 0.2, 0.1]]).double()
    root = full_curvature_root(Mean(p, 1 - p))
    torch.testing.assert_close(root @ root.T, torch.diag(p[0]) - torch.outer(p[0], p[0]))


def test_information_is_the_sum_over_instances():
    rng = np.random.default_rng(0)
    features, roots = rng.normal(size=(70, 2)), rng.normal(size=(70, 3, 3))  # more than one chunk
    found = FullPosterior.information(
        torch.from_numpy(features), lambda i: torch.from_numpy(roots[i])
    )
    expected = sum(
        np.kron(np.outer(phi, phi), root @ root.T)
        for phi, root in zip(features, roots, strict=True)
    )
    np.testing.assert_allclose(found[0], expected, atol=1e-12)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_predictions_leave_a_common_shift_out(n_outputs):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1100, 4))  # more than one chunk
    root = torch.from_numpy(rng.normal(size=(1, 4 * n_outputs, 4 * n_outputs)))
    mean = torch.zeros(4, n_outputs).double()
    posterior = FullPosterior(mean, root, 1.0, mean)
    covariance = (root @ root.mT).numpy().reshape(4, n_outputs, 4, n_outputs)
    logits = np.einsum("nd,dcek,ne->nck", features, covariance, features)
    diagonal = logits.diagonal(axis1=1, axis2=2)
    phi = torch.from_numpy(features)
    np.testing.assert_allclose(posterior.variance(phi), diagonal)
    if n_outputs > 1:
        projection = np.eye(n_outputs) - 1 / n_outputs
        diagonal = (projection @ logits @ projection).diagonal(axis1=1, axis2=2)
    np.testing.assert_allclose(posterior.predictive_variance(phi), diagonal)


def test_predictions_are_as_sure_as_drawn_weights_say():
    """A shift of all logits, whose variance is that of the prior, changes no probability."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5))
    y = X[:, :3].argmax(axis=1)
    clf = LaplaceUpdateClassifier(covariance="full", prior_precision=1e-3, calibration=None)
    clf.fit(X[:100], y[:100])
    ours = clf.predict_proba(X[100:])
    drawn = clf.set_params(predictive="monte_carlo", n_samples=4000).predict_proba(X[100:])
    assert np.abs(ours - drawn).sum(axis=1).mean() / 2 < 0.03
    _, variance = clf.latent_mean_and_variance(X[100:])
    shifted = links.mean_field(
        torch.from_numpy(X[100:] @ clf.coef_.T + clf.intercept_), torch.from_numpy(variance)
    ).softmax(dim=1)
    assert np.abs(shifted.numpy() - drawn).sum(axis=1).mean() / 2 > 0.06


def test_covariances_of_the_logits_times_directions():
    rng = np.random.default_rng(0)
    features, directions = (torch.from_numpy(rng.normal(size=(150, k))) for k in (4, 3))
    update = STRUCTURES["full"].update(
        likelihood_of(3), update="map", curvature="categorical", step_size=1.0
    )
    posterior = FullPosterior.prior(torch.zeros(4, 3).double(), 0.3)
    targets, ones = torch.eye(3).double().repeat(3, 1), torch.ones(9).double()
    posterior = posterior.condition(features[:9], targets, ones, update)
    covariance = posterior.covariance.reshape(4, 3, 4, 3)
    expected = torch.einsum("nd,dcek,ne,nk->nc", features, covariance, features, directions)
    torch.testing.assert_close(posterior.covariance_product(features, directions), expected)


def test_the_mode_of_a_label_is_found_in_double_precision():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 4))
    y = X[:, :3].argmax(axis=1)
    found = {}
    for dtype in ("float64", "float32"):
        clf = LaplaceUpdateClassifier(
            covariance="full", dtype=dtype, calibration=None, prior_precision=0.01
        )
        clf.fit(X[:50], y[:50])
        for i in range(50, 150):
            clf.partial_fit(X[[i]], y[[i]])
        found[dtype] = clf.coef_
    np.testing.assert_allclose(found["float32"], found["float64"], atol=1e-3)
