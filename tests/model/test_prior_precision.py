import numpy as np
import pytest
import torch
from scipy.special import expit

from laplace_al.model.likelihoods import Bernoulli
from laplace_al.model.mode import Labelled
from laplace_al.model.prior_precision import (
    choose_prior_precision,
    prior_precision_of_features,
    total_variance,
)
from laplace_al.model.rows import RowsInMemory


def variance_of(features, weights):
    rows = RowsInMemory(Labelled(features, features[:, :1], weights, Bernoulli()))
    return total_variance(rows, features[weights.argmax()])


def by_scale(features, weights):
    return prior_precision_of_features(features, weights, "fit")


@pytest.mark.parametrize("best", [1e-5, 0.02, 3.0, 70.0])
def test_the_search_finds_the_top(best):
    found = choose_prior_precision(lambda x: -(np.log(x / best) ** 2), unit=1.0)
    assert found.value == pytest.approx(best, rel=0.12)
    assert found.bound is None


def test_the_search_is_bounded():
    value, bound = choose_prior_precision(lambda x: x, unit=4.0)
    assert (3000 < value <= 4000 * (1 + 1e-9), bound) == (True, "largest")
    value, bound = choose_prior_precision(lambda x: -x, unit=4.0)
    assert (5e-6 > value >= 4e-6 * (1 - 1e-9), bound) == (True, "smallest")
    assert choose_prior_precision(expit, unit=1.0).value <= 1000 * (1 + 1e-9)


@pytest.mark.parametrize("relative", [1e-4, 0.03, 100.0])
@pytest.mark.parametrize("unit", [1e-8, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_search_goes_by_the_variance_of_the_features(relative, unit, offset):
    rows = np.random.default_rng(0).normal(size=(50, 6)) + offset
    features = torch.from_numpy(np.column_stack([unit * rows, np.ones(50)]))  # and an intercept
    best = relative * unit**2
    scale = variance_of(features, features[:, -1])
    found = choose_prior_precision(lambda x: -(np.log(x / best) ** 2), scale)
    assert found.value == pytest.approx(best, rel=0.12)
    assert found.bound is None


class TestPriorPrecisionOfFeatures:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)))
    weights = torch.from_numpy(np.random.default_rng(1).integers(0, 4, size=50).astype(float))

    def test_it_is_a_share_of_the_total_variance(self):
        repeated = self.features.repeat_interleave(self.weights.long(), dim=0)
        expected = 0.01 * np.var(repeated.numpy(), axis=0).sum()
        assert by_scale(self.features, self.weights) == pytest.approx(expected)
        pretrained = prior_precision_of_features(self.features, self.weights, "pretrained")
        assert pretrained == pytest.approx(400 * expected)

    @pytest.mark.parametrize("unit", [1e-6, 3.0, 1e6])
    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_it_goes_with_the_unit_and_not_with_the_offset(self, unit, offset):
        plain = by_scale(self.features, self.weights)
        moved = by_scale(unit * (self.features + offset), self.weights)
        assert moved == pytest.approx(unit**2 * plain)

    @pytest.mark.parametrize("unit", [1e3, 1e9])
    def test_columns_in_a_small_unit_do_not_rule(self, unit):
        features = self.features * torch.tensor([1, 1, 1, 1, unit, unit])
        variances = np.cov(self.features.T, aweights=self.weights, ddof=0).diagonal()
        mixed = np.cov(features.T, aweights=self.weights, ddof=0).diagonal()
        largest = 30 * np.quantile(mixed, 0.5, method="lower")
        expected = 0.01 * (variances[:4].sum() + 2 * largest)
        assert by_scale(features, self.weights) == pytest.approx(expected)

    def test_features_that_do_not_vary(self):
        one = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        assert by_scale(one, one.new_ones(1)) == pytest.approx(0.01 * 25)
        same = torch.full((5, 1), 0.1, dtype=torch.float64)  # whose mean is rounded
        assert by_scale(same, same.new_ones(5)) == pytest.approx(0.01 * 0.01)
        assert by_scale(0 * one, one.new_ones(1)) == 0.01

    @pytest.mark.parametrize(
        ("dtype", "offset"), [(torch.float32, 5e3), (torch.float32, 5e4), (torch.float64, 1e8)]
    )
    def test_an_offset_beside_which_the_spread_is_small(self, dtype, offset):
        features = (self.features + offset).to(dtype)
        moved = by_scale(features, self.weights.to(dtype))
        plain = by_scale(self.features, self.weights)
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
            assert variance_of(column, weights) == pytest.approx(constant**2, rel=1e-3)
            both = torch.cat([column, varying], dim=1)
            assert variance_of(both, weights) == pytest.approx(
                variance_of(varying, weights), rel=1e-6
            )
