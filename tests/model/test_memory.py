import copy

import numpy as np
import pytest
import torch

from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.memory import Memory
from laplace_al.model.mode import Labelled, find_mode
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.structures import STRUCTURES

OPTIONS = {"max_iter": 100, "tol": 1e-9}


class Problem:
    def __init__(self, n_classes=3, n=30, size=4, seed=0):
        rng = np.random.default_rng(seed)
        self.likelihood = likelihood_of(n_classes)
        self.features = torch.from_numpy(rng.normal(size=(n, size)))
        shares = rng.dirichlet(np.full(n_classes, 0.3), size=n)
        shares[::2] = np.eye(n_classes)[rng.integers(n_classes, size=len(shares[::2]))]
        self.targets = self.likelihood.soft(torch.from_numpy(shares))
        self.weights = torch.from_numpy(rng.uniform(0.5, 2, size=n))
        self.zero = torch.zeros(size, self.likelihood.n_outputs).double()
        self.prior = IsotropicPrior(self.zero, 0.5)
        self.memory = Memory.empty(self.prior, self.features)

    def rows(self, rows):
        return self.features[rows], self.targets[rows], self.weights[rows]

    def mode(self, weights):
        """Of all instances with such weights, from scratch."""
        data = Labelled(self.features, self.targets, weights, self.likelihood)
        return find_mode(data, self.prior, self.zero, **OPTIONS).mean

    def mode_of(self, memory):
        return find_mode(memory.labelled(self.likelihood), memory.prior, self.zero, **OPTIONS).mean


@pytest.mark.parametrize("n_classes", [2, 3])
def test_all_that_is_remembered_is_refitted(n_classes):
    problem = Problem(n_classes)
    memory = problem.memory.add(*problem.rows(slice(10))).add(*problem.rows(slice(10, 30)))
    torch.testing.assert_close(problem.mode_of(memory), problem.mode(problem.weights))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_dropping_leaves_the_mode_and_its_curvature(structure, n_classes):
    problem = Problem(n_classes)
    memory = problem.memory.add(*problem.rows(slice(None)))
    mode = problem.mode_of(memory)
    kept = memory.keep(8, mode, problem.likelihood, STRUCTURES[structure])
    assert len(kept.features) == len(kept.targets) == len(kept.weights) == 8
    torch.testing.assert_close(kept.features, problem.features[-8:])
    again = problem.mode_of(kept)
    torch.testing.assert_close(again, mode, atol=1e-7, rtol=1e-6)
    if structure == "full" or n_classes == 2:  # then the quadratic is that of the instances
        direction = torch.linspace(-1, 1, mode.numel()).reshape(mode.shape).double()
        old = problem.features[:22]
        p = problem.likelihood.mean(old @ mode)
        curved = problem.likelihood.hessian_product(p, old @ direction)
        expected = old.T @ (problem.weights[:22, None] * curved) + 0.5 * direction
        torch.testing.assert_close(kept.prior.product(direction), expected)


def test_nothing_is_dropped_without_a_size():
    problem = Problem()
    memory = problem.memory.add(*problem.rows(slice(None)))
    assert memory.keep(None, problem.zero, problem.likelihood, STRUCTURES["shared"]) is memory
    assert memory.keep(30, problem.zero, problem.likelihood, STRUCTURES["shared"]) is memory


@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_was_dropped_is_steepened_where_it_is(structure):
    problem, structure = Problem(), STRUCTURES[structure]
    memory = problem.memory.add(*problem.rows(slice(None)))
    features, mode = problem.features[:2], problem.mode_of(memory)
    growth = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0]]).double()
    growth = growth[:, :1] if structure is STRUCTURES["shared"] else growth
    assert memory.steepened(features, growth, mode, structure) is memory  # nothing was
    kept = memory.keep(8, mode, problem.likelihood, structure)
    steep = kept.steepened(features, growth, mode, structure)
    torch.testing.assert_close(steep.prior.gradient(mode), kept.prior.gradient(mode))
    direction = torch.linspace(-1, 1, mode.numel()).reshape(mode.shape).double()
    added = features.T @ (growth * (features @ direction))
    torch.testing.assert_close(
        steep.prior.product(direction), kept.prior.product(direction) + added
    )


def test_forgetting_fades_the_weights():
    problem = Problem()
    memory = problem.memory.add(*problem.rows(slice(None))).forget(0.5)
    mode = problem.mode_of(memory)
    torch.testing.assert_close(mode, problem.mode(problem.weights / 2))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_it_goes_on_from_a_posterior(structure):
    problem = Problem()
    features, targets, weights = problem.rows(slice(None))
    mode = problem.mode(weights)
    data = problem.memory.add(features, targets, weights).labelled(problem.likelihood)
    posterior = STRUCTURES[structure].at_mode(data, mode, "categorical", problem.prior)
    prior = Memory.of_posterior(posterior).prior
    torch.testing.assert_close(prior.gradient(mode), torch.zeros_like(mode))
    kept = problem.memory.add(features, targets, weights).keep(
        0, mode, problem.likelihood, STRUCTURES[structure]
    )
    torch.testing.assert_close(prior.precision, kept.prior.precision)


def test_it_is_a_value():
    memory = Problem().memory
    assert copy.deepcopy(memory) is memory
