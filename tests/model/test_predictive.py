import numpy as np
import pytest
import torch

from laplace_al.model.calibration import Calibration
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.posterior import PerClassPosterior
from laplace_al.model.predictive import averaged, sampled_probabilities, sampled_weights


def problem(n_classes=3):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(7, 4)))
    mean = torch.from_numpy(rng.normal(size=(4, n_classes)))
    return PerClassPosterior.prior(mean, 2.0), features, likelihood_of(n_classes)


def drawn(posterior, features, likelihood, calibration=None, n_samples=50, seed=0):
    calibration = Calibration() if calibration is None else calibration
    weights = sampled_weights(posterior, calibration, n_samples, seed)
    return sampled_probabilities(weights, n_samples, features.mm, likelihood)


def test_the_weights_do_not_depend_on_the_inputs():
    posterior, features, likelihood = problem()
    whole = drawn(posterior, features, likelihood)
    assert whole.shape == (50, 7, 3)
    torch.testing.assert_close(drawn(posterior, features[2:4], likelihood), whole[:, 2:4])
    assert not torch.equal(drawn(posterior, features, likelihood, seed=1), whole)


def test_they_are_softmax_of_the_drawn_weights():
    posterior, features, likelihood = problem()
    weights = posterior.sample(20, torch.Generator().manual_seed(3))
    expected = torch.softmax(features @ weights, dim=2)
    ours = drawn(posterior, features, likelihood, n_samples=20, seed=3)
    torch.testing.assert_close(ours, expected)


def test_the_calibration_scales_deviations_and_mean():
    posterior, features, likelihood = problem()
    scores = np.zeros(41)
    scores[25] = 1000.0  # log T = 1
    calibration = Calibration(scores, variance_scale=0.25)
    weights = posterior.sample(20, torch.Generator().manual_seed(0))
    weights = posterior.mean / np.e + (weights - posterior.mean) / 2
    expected = torch.softmax(features @ weights, dim=2)
    ours = drawn(posterior, features, likelihood, calibration, n_samples=20)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("at_once", [10**6, 300, 1])
def test_averages_are_those_of_all_draws(monkeypatch, at_once):
    """However few rows are computed at a time."""
    monkeypatch.setattr("laplace_al.model.predictive.NUMBERS_AT_ONCE", at_once)
    posterior, features, likelihood = problem()
    draws, seen = drawn(posterior, features, likelihood), []

    def rows(here):
        seen.append(len(features[here]))
        return features[here]

    weights = sampled_weights(posterior, Calibration(), 50, seed=0)
    mean, entropy = averaged(weights, rows, 7, likelihood, 3)
    assert max(seen) == max(1, min(7, at_once // (32 * 3)))
    torch.testing.assert_close(mean, draws.mean(dim=0))
    torch.testing.assert_close(entropy, -(draws * draws.log()).sum(dim=2).mean(dim=0))
