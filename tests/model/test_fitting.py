import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from scipy.special import expit, log_expit

from laplace_al.model.fitting import (
    choose_prior_precision,
    examine,
    prior_precision_by_scale,
    spread,
)
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import Labelled, find_mode
from laplace_al.model.priors import IsotropicPrior

ONES = torch.ones(3)


def labelled(n_classes, *, n=40, size=2, seed=0, weights=None):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, size))
    y = np.clip((X @ np.ones(size) + rng.normal(size=n) + n_classes / 2), 0, n_classes - 1)
    likelihood = likelihood_of(n_classes)
    targets = likelihood.encode(torch.from_numpy(np.floor(y)))
    weights = np.ones(n) if weights is None else weights
    return Labelled(torch.from_numpy(X), targets, torch.from_numpy(weights), likelihood)


def mode_of(data, prior_precision):
    zero = torch.zeros(data.features.shape[1], data.likelihood.n_outputs).double()
    prior = IsotropicPrior(zero, prior_precision)
    return find_mode(data, prior, zero, max_iter=100, tol=1e-8).mean, prior


@pytest.mark.parametrize("prior_precision", [0.5, 2.0])
@pytest.mark.parametrize("coupled", [False, True])
def test_evidence_is_the_integral(prior_precision, coupled):
    """Two weights, two classes: numerical integration; Laplace is off by a few hundredths."""
    weights = np.random.default_rng(1).uniform(0, 2, size=40)
    data = labelled(2, weights=weights)
    X, y = data.features.numpy(), data.targets.numpy()[:, 0]
    mean, prior = mode_of(data, prior_precision)
    top_place = mean[:, 0].tolist()
    evidence = examine(data, mean, prior, coupled=coupled).log_evidence

    def log_joint(a, b):
        logits = X @ np.array([a, b])
        log_likelihood = weights @ (log_expit(np.where(y == 1, logits, -logits)))
        norm = np.log(prior_precision / (2 * np.pi)) - prior_precision / 2 * (a * a + b * b)
        return log_likelihood + norm

    top = log_joint(*top_place)
    box = [(w - 6, w + 6) for w in top_place]
    integral, _ = dblquad(lambda b, a: np.exp(log_joint(a, b) - top), *box[0], *box[1])
    assert evidence == pytest.approx(top + np.log(integral), abs=0.05)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_golden_evidence_of_the_full_hessian(evidence_golden, n_classes):
    """Made once with laplace-torch 0.3: last layer, full Hessian, at the same weights."""
    X, y, evidence = evidence_golden(n_classes)
    assert len(evidence) == 3
    for prior_precision, W, expected in evidence:
        likelihood = likelihood_of(n_classes)
        targets = likelihood.encode(torch.from_numpy(y.astype(float)))
        data = Labelled(torch.from_numpy(X), targets, torch.ones(len(X)).double(), likelihood)
        if n_classes == 2:  # one logit stands for two of twice the prior precision
            W, prior_precision = W[:, 1:] - W[:, :1], prior_precision / 2
        prior = IsotropicPrior(torch.zeros_like(W), prior_precision)
        ours = examine(data, W, prior, coupled=True).log_evidence
        assert ours == pytest.approx(expected, rel=1e-6)


def test_the_curvature_of_single_classes_is_close_to_that_of_all_together():
    data = labelled(3)
    mean, prior = mode_of(data, 1.0)
    alone, together = (examine(data, mean, prior, coupled=c).log_evidence for c in (False, True))
    assert alone != together
    assert alone == pytest.approx(together, abs=1.0)


def test_what_is_left_out_is_less_sure():
    data = labelled(3)
    mean, prior = mode_of(data, 0.1)
    examined = examine(data, mean, prior)
    loss = data.likelihood.negative_log_likelihood
    assert (
        loss(examined.left_out.logits, data.targets) >= loss(data.features @ mean, data.targets)
    ).all()
    assert (examined.stiffening > 0).all()
    assert (examined.stiffening[data.targets.bool()] > 1).double().mean() > 0.9


@pytest.mark.parametrize("best", [1e-5, 0.02, 3.0, 70.0])
def test_the_search_finds_the_top(best):
    features = torch.ones(3, 1)
    found = choose_prior_precision(lambda x: -(np.log(x / best) ** 2), features, ONES)
    assert found.value == pytest.approx(best, rel=0.12)
    assert found.bound is None


def test_the_search_is_bounded():
    features = 2 * torch.ones(3, 1)
    value, bound = choose_prior_precision(lambda x: x, features, ONES)
    assert (3000 < value <= 4000 * (1 + 1e-9), bound) == (True, "largest")
    value, bound = choose_prior_precision(lambda x: -x, features, ONES)
    assert (5e-6 > value >= 4e-6 * (1 - 1e-9), bound) == (True, "smallest")
    assert choose_prior_precision(expit, 0 * features, ONES).value <= 1000 * (1 + 1e-9)


@pytest.mark.parametrize("relative", [1e-4, 0.03, 100.0])
@pytest.mark.parametrize("unit", [1e-8, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_search_goes_by_the_spread_of_the_features(relative, unit, offset):
    rows = np.random.default_rng(0).normal(size=(50, 6)) + offset
    features = torch.from_numpy(np.column_stack([unit * rows, np.ones(50)]))  # and an intercept
    best = relative * unit**2
    found = choose_prior_precision(lambda x: -(np.log(x / best) ** 2), features, features[:, -1])
    assert found.value == pytest.approx(best, rel=0.12)
    assert found.bound is None


class TestPriorPrecisionByScale:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)))
    weights = torch.from_numpy(np.random.default_rng(1).integers(0, 4, size=50).astype(float))

    def test_it_is_a_share_of_the_total_variance(self):
        repeated = self.features.repeat_interleave(self.weights.long(), dim=0)
        expected = 0.01 * np.var(repeated.numpy(), axis=0).sum()
        assert prior_precision_by_scale(self.features, self.weights) == pytest.approx(expected)

    @pytest.mark.parametrize("unit", [1e-6, 3.0, 1e6])
    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_it_goes_with_the_unit_and_not_with_the_offset(self, unit, offset):
        plain = prior_precision_by_scale(self.features, self.weights)
        moved = prior_precision_by_scale(unit * (self.features + offset), self.weights)
        assert moved == pytest.approx(unit**2 * plain)

    @pytest.mark.parametrize("unit", [1e3, 1e9])
    def test_columns_in_a_small_unit_do_not_rule(self, unit):
        features = self.features * torch.tensor([1, 1, 1, 1, unit, unit])
        variances = np.cov(self.features.T, aweights=self.weights, ddof=0).diagonal()
        mixed = np.cov(features.T, aweights=self.weights, ddof=0).diagonal()
        largest = 30 * np.quantile(mixed, 0.5, method="lower")
        expected = 0.01 * (variances[:4].sum() + 2 * largest)
        assert prior_precision_by_scale(features, self.weights) == pytest.approx(expected)

    def test_features_that_do_not_vary(self):
        one = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        assert prior_precision_by_scale(one, one.new_ones(1)) == pytest.approx(0.01 * 25)
        same = torch.full((5, 1), 0.1, dtype=torch.float64)  # whose mean is rounded
        assert prior_precision_by_scale(same, same.new_ones(5)) == pytest.approx(0.01 * 0.01)
        assert prior_precision_by_scale(0 * one, one.new_ones(1)) == 0.01

    @pytest.mark.parametrize(
        ("dtype", "offset"), [(torch.float32, 5e3), (torch.float32, 5e4), (torch.float64, 1e8)]
    )
    def test_an_offset_beside_which_the_spread_is_small(self, dtype, offset):
        features = (self.features + offset).to(dtype)
        moved = prior_precision_by_scale(features, self.weights.to(dtype))
        plain = prior_precision_by_scale(self.features, self.weights)
        assert moved == pytest.approx(plain, rel=1e-3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("constant", [0.1, 1e8 + 0.1, -1e-8])
    @pytest.mark.parametrize("n", [3, 1000, 100_000])
    def test_constants_do_not_count(self, dtype, constant, n):
        rng = np.random.default_rng(0)
        weights = torch.from_numpy(rng.random(n)).to(dtype)
        varying = torch.from_numpy(1e-3 * rng.normal(size=(n, 1))).to(dtype)
        same = torch.full_like(varying, constant)
        steps = same.new_tensor(rng.integers(-2, 3, size=(n, 1)))
        rounded = same * (1 + torch.finfo(dtype).eps * steps)  # by two units in the last place
        for column in (same, rounded):
            assert spread(column, weights) == pytest.approx(constant**2, rel=1e-3)
            both = torch.cat([column, varying], dim=1)
            assert spread(both, weights) == pytest.approx(spread(varying, weights), rel=1e-6)
