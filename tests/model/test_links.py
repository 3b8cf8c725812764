import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import expit

from laplace_al.model import links


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


@pytest.mark.parametrize("link", [links.mean_field, links.plug_in, links.bridge])
def test_one_variance_for_all_outputs_or_one_each(link):
    mean, variance = torch.randn(2, 3), torch.tensor([1.0, 2.0])
    each = link(mean, variance[:, None].expand(2, 3))
    torch.testing.assert_close(link(mean, variance), each)
    torch.testing.assert_close(link(mean, variance[:, None]), each)


def test_plug_in_ignores_the_variance():
    mean = torch.ones(2, 3)
    assert torch.equal(links.plug_in(mean, torch.full((2,), 1e9)), mean)


def test_shrinking_by_one_variance_each_keeps_the_order():
    mean = torch.tensor([[3.0, 2.0, -1.0]])
    variance = torch.tensor([[50.0, 0.1, 1.0]])  # shrunk by its own, the first would fall behind
    logits = links.mean_field(mean, variance)
    torch.testing.assert_close(logits / mean, (logits[0, 0] / 3).expand(1, 3))
    p = torch.softmax(mean, dim=1)
    shrinkage = (1 + np.pi / 8 * (p * variance).sum()) ** -0.5
    torch.testing.assert_close(logits, mean * shrinkage)


@pytest.mark.parametrize("n_classes", [3, 10])
def test_the_bridge_matches_a_dirichlet(n_classes):
    """Moments of the logits of a Dirichlet lead back to its mean: Hobbhahn et al., equation 5."""
    alpha = torch.linspace(20, 50, n_classes).double()
    mean = alpha.log() - alpha.log().mean()
    inverse = 1 / alpha  # Laplace approximation in the basis of the logits, diagonal
    wanted = inverse * (1 - 2 / n_classes) + inverse.sum() / n_classes**2
    variance = wanted.clone()  # of logits that do not add up to 0 yet
    for _ in range(200):
        variance = wanted + variance.square() / variance.sum()
    p = torch.softmax(links.bridge(mean[None], variance[None]), dim=1)[0]
    torch.testing.assert_close(p, alpha / alpha.sum(), rtol=1e-6, atol=0)


def test_the_bridge_ignores_a_common_shift():
    mean, variance = torch.randn(4, 3).double(), torch.rand(4, 1).double() + 0.1
    expected = torch.softmax(links.bridge(mean, variance[:, 0]), dim=1)
    torch.testing.assert_close(torch.softmax(links.bridge(mean + 5, variance), dim=1), expected)
    certain = links.bridge(mean, 0 * variance)
    assert torch.isfinite(certain).all()


@given(
    st.lists(
        st.tuples(st.floats(-20, 20, width=32), st.floats(2**-20, 2**60, width=32)),
        min_size=3,
        max_size=6,
    ),
    st.sampled_from([torch.float32, torch.float64]),
)
@example([(0.0, 3e7), (1.0, 1.0), (2.0, 1.0)], torch.float32)
def test_the_bridge_keeps_its_digits_beside_a_variance_that_outweighs_the_others(row, dtype):
    mean, variance = torch.tensor(row, dtype=dtype).T[:, None]
    m, v = [Fraction(x) for x in mean[0].tolist()], [Fraction(x) for x in variance[0].tolist()]
    total, n = sum(v), len(row)
    m = [float(a - b / total * sum(m)) for a, b in zip(m, v, strict=True)]
    v = [float(b - b * b / total) for b in v]
    evidence = [a + np.logaddexp.reduce(np.negative(m)) - 2 * math.log(n) for a in m]
    expected = np.logaddexp(math.log(1 - 2 / n), evidence) - np.log(v)
    found = links.bridge(mean, variance)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2000 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("link", [links.mean_field, links.plug_in, links.bridge])
def test_one_logit(link):
    mean = torch.tensor([[2.0], [-1.0]])
    logits = link(mean, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(logits, link(mean, torch.tensor([[1.0], [2.0]])))
    assert (logits.sign() == mean.sign()).all()
