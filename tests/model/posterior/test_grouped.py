import pytest
import torch

from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.posterior import grouped
from laplace_al.model.structures import STRUCTURES


def learnt(structure, features, targets):
    choice = STRUCTURES[structure]
    update = choice.update(likelihood_of(3), update="map", curvature="categorical", step_size=1.0)
    prior = choice.posterior.prior(torch.zeros(features.shape[1], 3).double(), 0.5)
    return prior.condition(features, targets, torch.ones(len(features)).double(), update)


@pytest.mark.parametrize("structure", ["shared", "per_class"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_size_of_a_block_changes_nothing(monkeypatch, structure, size):
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=rng, dtype=torch.float64)
    features[20:] = features[:20].clone()
    targets = likelihood_of(3).encode(torch.randint(3, (40,), generator=rng).double())
    expected = learnt(structure, features, targets)
    monkeypatch.setattr(grouped, "_BLOCK_SIZE", size)
    other = learnt(structure, features, targets)
    torch.testing.assert_close(other.mean, expected.mean)
    torch.testing.assert_close(other.covariance, expected.covariance)


@pytest.mark.parametrize("structure", ["shared", "per_class"])
def test_others_are_told_before_the_mode_is_looked_for(structure):
    choice, likelihood, events = STRUCTURES[structure], likelihood_of(3), []
    rule = choice.update(likelihood, update="map", curvature="categorical", step_size=1.0)

    def update(*args):
        events.append("mode")
        return rule(*args)

    prior = choice.posterior.prior(torch.zeros(2, 3).double(), 0.5)
    one = torch.ones(1, 2).double()
    targets = torch.eye(3).double()[:1]
    prior.condition_with_effects(
        one, targets, one[:, 0], update, lambda directions: events.append("others")
    )
    assert events == ["others", "mode"]


@pytest.mark.parametrize("structure", ["shared", "per_class"])
@pytest.mark.parametrize("n", [1, 3])
def test_features_of_zeros_teach_nothing(structure, n):
    zeros, targets = torch.zeros(n, 6).double(), torch.eye(3).double()[:n]
    posterior = learnt(structure, zeros, targets)
    assert not posterior.mean.any()
    identity = 2 * torch.eye(6).double()
    torch.testing.assert_close(posterior.covariance, identity.expand_as(posterior.covariance))
