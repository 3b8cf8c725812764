import numpy as np
import torch

from laplace_al import LaplaceUpdateClassifier
from laplace_al.curvatures import full_curvature_root
from laplace_al.likelihoods import likelihood_of
from laplace_al.posterior import FullPosterior
from laplace_al.structures import STRUCTURES


def test_it_holds_one_root_of_all_weights():
    assert FullPosterior.prior(torch.zeros(5, 3), 1.0).root.shape == (1, 15, 15)


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


def test_the_root_of_the_curvature():
    p = torch.tensor([[0.7, 0.2, 0.1]]).double()
    root = full_curvature_root(p)
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
