import torch

from laplace_al.likelihoods import likelihood_of
from laplace_al.posterior import PerClassPosterior
from laplace_al.structures import STRUCTURES


def test_it_holds_a_root_for_each_output():
    assert PerClassPosterior.prior(torch.zeros(5, 3), 1.0).root.shape == (3, 5, 5)


def test_a_class_that_an_instance_does_not_inform_keeps_its_covariance():
    likelihood, structure = likelihood_of(3), STRUCTURES["per_class"]
    update = structure.update(likelihood, update="map", curvature="categorical", step_size=1.0)
    mean = torch.tensor([[0.0, 0.0, -800.0]]).double()
    posterior = PerClassPosterior.prior(mean, 1.0)
    targets = torch.tensor([[1.0, 0.0, 0.0]] * 3).double()
    ones = torch.ones(3, 1).double()
    learnt = posterior.condition(ones, targets, ones[:, 0], update)
    assert torch.equal(learnt.root[2], posterior.root[2])
    assert (learnt.covariance[:2] < posterior.covariance[:2]).all()
