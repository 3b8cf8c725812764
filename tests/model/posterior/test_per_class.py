import pickle

import torch

from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.posterior import PerClassPosterior
from laplace_al.model.structures import STRUCTURES


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


def learnt(n_labels, seed=0):
    """A posterior that has learnt labels one at a time."""
    rng = torch.Generator().manual_seed(seed)
    likelihood, structure = likelihood_of(3), STRUCTURES["per_class"]
    update = structure.update(likelihood, update="map", curvature="categorical", step_size=1.0)
    features = torch.randn(n_labels, 5, generator=rng, dtype=torch.float64)
    targets = likelihood.encode(torch.randint(3, (n_labels,), generator=rng).double())
    posterior = PerClassPosterior.prior(torch.zeros(5, 3).double(), 1.0)
    ones = torch.ones(n_labels).double()
    for row in range(n_labels):
        one = slice(row, row + 1)
        posterior = posterior.condition(features[one], targets[one], ones[one], update)
    return posterior, posterior.condition(features, targets, ones, update)


def test_roots_are_multiplied_out_once_in_so_many_labels():
    prior = PerClassPosterior.prior(torch.zeros(5, 3).double(), 1.0)
    assert torch.equal(learnt(64)[0].stored_root, prior.stored_root)
    assert not torch.equal(learnt(65)[0].stored_root, prior.stored_root)
    assert learnt(65)[0].pending is None


def test_pending_products_change_no_prediction():
    rows = torch.randn(100, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for posterior in learnt(30):
        assert posterior.pending is not None
        direct = torch.einsum("nd,kde,ne->nk", rows, posterior.covariance, rows)
        torch.testing.assert_close(posterior.variance(rows), direct)
        torch.testing.assert_close(posterior.variance(rows[:3]), direct[:3])
        torch.testing.assert_close(posterior.forget(1.0).variance(rows), direct)


def test_a_pickle_holds_no_root_twice():
    posterior, _ = learnt(30)
    before = len(pickle.dumps(posterior))
    root = posterior.root
    assert len(pickle.dumps(posterior)) == before
    torch.testing.assert_close(pickle.loads(pickle.dumps(posterior)).root, root)


def test_draws_of_a_single_output_have_its_covariance():
    """There is no other class whose deviations they could cancel."""
    features = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    posterior = PerClassPosterior.at_mode(mean, features, torch.full((30, 1), 0.2).double(), 1.0)
    draws = posterior.sample(20_000, torch.Generator().manual_seed(1))[:, :, 0]
    torch.testing.assert_close(draws.mean(dim=0), mean[:, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(draws.T.cov(), posterior.covariance, atol=0.01, rtol=0)


def test_the_variance_of_a_few_instances_does_not_multiply_out_what_is_pending(monkeypatch):
    """64 rows at most: for more the product with the root is the cheaper way."""
    posterior, _ = learnt(3)
    rows = torch.randn(65, 5, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.einsum("nd,kde,ne->nk", rows, posterior.covariance, rows)
    asked, whitened = [], PerClassPosterior._whitened_and_logits

    def recorded(self, features):
        asked.append(len(features))
        return whitened(self, features)

    monkeypatch.setattr(PerClassPosterior, "_whitened_and_logits", recorded)
    torch.testing.assert_close(posterior.variance(rows[:64]), expected[:64])
    assert asked == [64]
    torch.testing.assert_close(posterior.variance(rows), expected)
    multiplied_out = PerClassPosterior.prior(torch.zeros(5, 3).double(), 1.0)
    multiplied_out.variance(rows[:64])
    assert asked == [64]
