"""Covariances that are cut: what that leaves exact, and how good the rest is."""

import numpy as np
import pytest
import torch

from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.posterior import LowRankPosterior, PerClassPosterior, axes
from laplace_al.model.structures import STRUCTURES

SIZE = 70


class Problem:
    """Labels of classes that lie apart, more features than are held exactly."""

    def __init__(self, n_classes=4, n=90, n_new=150, seed=0, structure="low_rank"):
        rng = np.random.default_rng(seed)
        self.n_classes = n_classes
        labels = rng.integers(n_classes, size=n + n_new)
        centres = rng.normal(size=(n_classes, SIZE))
        X = torch.from_numpy(centres[labels] + rng.normal(size=(n + n_new, SIZE))) / SIZE**0.5
        self.likelihood = likelihood_of(n_classes)
        targets = self.likelihood.encode(torch.from_numpy(labels.astype(float)))
        self.seen, self.features = X[:n], X[n:]
        self.targets, self.weights = targets[n:], torch.ones(n_new).double()
        self.mean = 3 * self.seen.T @ (targets[:n] - targets[:n].mean(dim=1, keepdim=True)) / n
        probabilities = self.likelihood.mean(self.seen @ self.mean)
        ones = torch.ones(n).double()
        self.curvature = STRUCTURES[structure].curvature("categorical", probabilities, ones)
        self.update = STRUCTURES[structure].update(
            self.likelihood, update="map", curvature="secant", step_size=1.0
        )

    def posterior(self, kind=LowRankPosterior):
        return kind.at_mode(self.mean, self.seen, self.curvature, 0.1)

    def learn(self, posterior, rows=slice(None)):
        return posterior.condition(
            self.features[rows], self.targets[rows], self.weights[rows], self.update
        )


def assert_same(posterior, other, tolerance=1e-9):
    for name in ("mean", "covariance"):
        value, truth = getattr(posterior, name), getattr(other, name)
        assert float((value - truth).abs().max()) <= tolerance * float(truth.abs().max()), name


@pytest.fixture
def full_rank(monkeypatch):
    monkeypatch.setattr(axes, "RANK", SIZE)


@pytest.mark.usefixtures("full_rank")
class TestFullRank:
    """Law 12: with as many axes as features it is per_class."""

    def test_at_the_mode_and_after_labels(self):
        problem = Problem()
        posterior, twin = problem.posterior(), problem.posterior(PerClassPosterior)
        assert_same(posterior, twin)
        for n in (1, 63, 64, 150):
            rows = slice(n)
            assert_same(problem.learn(posterior, rows), problem.learn(twin, rows), 1e-7)

    def test_merged_and_faded(self):
        problem = Problem()
        found = []
        for kind in (LowRankPosterior, PerClassPosterior):
            start = problem.posterior(kind)
            a, b = (problem.learn(start, rows) for rows in (slice(70), slice(70, 100)))
            found.append([a.merge(b), a.merge(b, start), a.forget(0.3), a.forget(0.0)])
        for one, other in zip(*found, strict=True):
            assert_same(one, other, 1e-7)

    def test_among_more_outputs(self):
        problem = Problem()
        positions = torch.tensor([0, 2, 3, 5])
        wide = [
            problem.learn(problem.posterior(kind), slice(70)).with_outputs(positions, 6)
            for kind in (LowRankPosterior, PerClassPosterior)
        ]
        assert_same(*wide, 1e-7)

    def test_from_sums(self):
        problem = Problem()
        information = LowRankPosterior.information(problem.seen, problem.curvature)
        summed = LowRankPosterior.of_sums(problem.mean, information, 0.1, 0 * problem.mean)
        assert_same(summed, problem.posterior(PerClassPosterior))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_then_b_is_a_and_b_across_cuts(n_classes):
    problem = Problem(n_classes)
    start, whole = problem.posterior(), problem.learn(problem.posterior())
    for cuts in ([10], [64], [100], [63, 64, 65, 140], range(1, 150)):
        parts, before = start, 0
        for cut in [*cuts, 150]:
            parts, before = problem.learn(parts, slice(before, cut)), cut
        assert_same(parts, whole)


def test_labels_of_no_weight_do_not_count_towards_a_cut():
    problem = Problem()
    problem.weights[::3] = 0.0
    counting = problem.weights > 0
    assert_same(problem.learn(problem.posterior()), problem.learn(problem.posterior(), counting))


def test_duplicates_and_rows_of_zeros_are_learnt():
    problem, twin = Problem(), Problem(structure="per_class")
    for each in (problem, twin):
        each.features[20:40] = each.features[:20]
        each.features[41:43] = 0.0
    posterior, exact = problem.posterior(), twin.posterior(PerClassPosterior)
    axes_of = posterior.whitened.axes
    given = PerClassPosterior(
        posterior.mean, posterior.root, posterior.prior_precision, posterior.prior_mean
    )
    rows = slice(50)  # before a cut, nothing but the start is an approximation
    assert_same(problem.learn(posterior, rows), twin.learn(given, rows), 1e-8)
    assert axes_of.directions.shape == (4, axes.RANK, SIZE)
    learnt = problem.learn(posterior)
    assert torch.isfinite(learnt.mean).all()
    others = twin.features[50:]
    ratio = learnt.variance(others) / twin.learn(exact).variance(others)
    assert float(ratio.log().abs().mean()) < 0.1


@pytest.mark.parametrize("n_labels", [0, 30, 64, 90])
def test_all_that_is_asked_of_a_covariance_agrees(n_labels):
    problem = Problem()
    posterior = problem.learn(problem.posterior(), slice(n_labels))
    covariance, rows = posterior.covariance, problem.features[:7]
    direct = torch.einsum("nd,kde,ne->nk", rows, covariance, rows)
    torch.testing.assert_close(posterior.variance(rows), direct)
    torch.testing.assert_close(torch.stack(list(posterior.covariances(rows))), covariance @ rows.T)
    slope = problem.features[:4].T
    norm = sum(slope[:, k] @ covariance[k] @ slope[:, k] for k in range(4)).sqrt()
    torch.testing.assert_close(posterior.norm(slope), norm)
    logdet = -torch.linalg.slogdet(covariance).logabsdet.sum()
    torch.testing.assert_close(posterior.log_determinant(), logdet)
    moved = posterior.with_mean(posterior.mean + 1)
    torch.testing.assert_close(moved.mean, posterior.mean + 1)
    torch.testing.assert_close(moved.covariance, covariance)


def test_draws_have_its_covariance_given_that_deviations_add_up_to_0():
    problem = Problem(n_classes=3)
    posterior = problem.learn(problem.posterior(), slice(30))
    rows = problem.features[:2]
    draws = rows @ posterior.sample(40_000, torch.Generator().manual_seed(0))  # (s, 2, 3)
    assert float(draws.sum(dim=2).var(dim=0).max()) < 1e-12
    sampled = torch.stack([torch.cov(draws[:, i].T) for i in range(2)])
    total = torch.linalg.inv(posterior.covariance.sum(dim=0))
    for i, row in enumerate(rows):
        each = posterior.covariance @ row  # (3, D)
        expected = torch.diag(each @ row) - each @ total @ each.T
        torch.testing.assert_close(sampled[i], expected, rtol=0.05, atol=0.01)


def test_an_effect_is_that_on_others_until_a_cut():
    problem = Problem()
    posterior, others = problem.posterior(), problem.features[:5]
    logits, variance = posterior.logits(others), posterior.variance(others)
    for i in range(64):
        row = slice(i, i + 1)
        posterior, effects = posterior.condition_with_effects(
            problem.features[row],
            problem.targets[row],
            problem.weights[row],
            problem.update,
            lambda _: None,
        )
        if effects is None:
            break
        for effect in effects:
            moved = others @ effect.directions
            logits = effect.logits_after(moved, logits)
            variance = effect.variance_after(moved, variance)
        torch.testing.assert_close(posterior.logits(others), logits)
        torch.testing.assert_close(posterior.variance(others), variance)
    assert i == 63
    assert_same(posterior, problem.learn(problem.posterior(), slice(64)))


def test_it_is_close_to_per_class_and_shared_is_not():
    problem = Problem(n_classes=10, n=200)
    exact = problem.learn(problem.posterior(PerClassPosterior)).variance(problem.features)
    found = problem.learn(problem.posterior()).variance(problem.features)
    common = problem.posterior(PerClassPosterior).covariance.mean(dim=0)
    shared = ((problem.features @ common) * problem.features).sum(dim=1, keepdim=True)
    error = (found / exact).log().abs().mean()
    assert float(error) < 0.05
    assert float((shared / exact).log().abs().mean()) > 10 * float(error)


def test_new_classes_have_about_the_variance_of_the_prior():
    problem = Problem()
    wide = problem.posterior().with_outputs(torch.arange(4), 6)
    variance = wide.variance(problem.features)
    torch.testing.assert_close(variance[:, :4], problem.posterior().variance(problem.features))
    ratio = variance[:, 4:] / (problem.features.square().sum(dim=1, keepdim=True) / 0.1)
    assert float(ratio.log().abs().mean()) < 0.3


def test_memory_is_that_of_axes():
    """300 MB for 1000 classes x 1024 features, and half of that in float32."""
    assert 8 * LowRankPosterior.n_numbers(1024, 1000) < 3e8
    posterior = Problem().posterior()
    held = [posterior.stored_root, *posterior.whitened.axes, *posterior.whitened[1:]]
    assert sum(part.numel() for part in held) <= LowRankPosterior.n_numbers(SIZE, 4)


def test_a_few_features_are_held_exactly():
    problem = Problem()
    problem.seen, problem.mean = problem.seen[:, :64], problem.mean[:64]
    problem.features = problem.features[:, :64]
    found, exact = (problem.posterior(kind) for kind in (LowRankPosterior, PerClassPosterior))
    assert_same(problem.learn(found), problem.learn(exact), 1e-10)
