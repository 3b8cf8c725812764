import numpy as np
import torch
from scipy.special import expit

from laplace_al import links


def test_golden_mean_field_logits(golden):
    for likelihood in ("gaussian", "categorical"):
        numbers = golden(likelihood)
        features, covariance = numbers["features_test"], numbers["covariance"]
        logits = links.mean_field(
            features @ numbers["mean"], torch.einsum("nd,de,ne->n", features, covariance, features)
        )
        torch.testing.assert_close(logits, numbers["mean_field_logits"], rtol=1e-10, atol=1e-12)


def test_mean_field_is_close_to_the_integral():
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    for mean, variance in [(0.0, 1.0), (1.0, 2.0), (-3.0, 4.0)]:
        integral = weights @ expit(mean + variance**0.5 * nodes) / weights.sum()
        logit = links.mean_field(torch.tensor([[mean]]), torch.tensor([variance]))
        assert abs(expit(logit.item()) - integral) < 0.02


def test_one_variance_for_all_outputs_or_one_each():
    mean, variance = torch.ones(2, 3), torch.tensor([1.0, 2.0])
    each = links.mean_field(mean, variance[:, None].expand(2, 3))
    torch.testing.assert_close(links.mean_field(mean, variance), each)


def test_plug_in_ignores_the_variance():
    mean = torch.ones(2, 3)
    assert torch.equal(links.plug_in(mean, torch.full((2,), 1e9)), mean)
