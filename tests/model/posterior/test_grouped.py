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


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("apart", [1.0, 1e-1, 1e-4, 1e-9, 0.0])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_bases_are_orthonormal_however_much_rows_are_alike(n_groups, apart, scale):
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(n_groups, 6, 8, generator=rng, dtype=torch.float64)
    rows[:, 4] = rows[:, 1] + apart * rows[:, 4]
    rows = scale * rows
    basis, coordinates = grouped._orthonormal(rows)
    identity = torch.eye(6).double().expand(n_groups, 6, 6)
    torch.testing.assert_close(basis.mT @ basis, identity, rtol=0, atol=1e-13)
    torch.testing.assert_close(basis @ coordinates, rows.mT, rtol=0, atol=1e-13 * scale)
    assert not coordinates.tril(-1).any()


def test_a_group_whose_rows_are_alike_is_enough_for_qr():
    rows = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[1, 3] = rows[1, 0]
    basis, _ = grouped._orthonormal(rows)
    identity = torch.eye(4).double().expand(3, 4, 4)
    torch.testing.assert_close(basis.mT @ basis, identity, rtol=0, atol=1e-13)


def test_more_rows_than_features():
    rows = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis, coordinates = grouped._orthonormal(rows)
    assert basis.shape == (2, 3, 3)
    torch.testing.assert_close(basis @ coordinates, rows.mT)


@pytest.mark.parametrize("structure", ["shared", "per_class"])
@pytest.mark.parametrize("weight", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("apart", [1.0, 1e-5, 0.0])
def test_both_factorizations_teach_the_same(monkeypatch, structure, weight, apart):
    rng = torch.Generator().manual_seed(1)
    features = torch.randn(8, 12, generator=rng, dtype=torch.float64)
    features[7] = features[0] + apart * features[7]
    choice, likelihood = STRUCTURES[structure], likelihood_of(3)
    update = choice.update(likelihood, update="newton", curvature="gaussian", step_size=1.0)
    targets = likelihood.encode(torch.arange(8).double() % 3)
    prior = choice.posterior.prior(torch.zeros(12, 3).double(), 0.5)
    weights = torch.full((8,), weight).double()
    found = prior.condition(features, targets, weights, update)
    monkeypatch.setattr(grouped, "_WELL_AWAY", torch.inf)  # QR
    expected = prior.condition(features, targets, weights, update)
    for part in ("mean", "covariance"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11 * theirs.abs().max())
