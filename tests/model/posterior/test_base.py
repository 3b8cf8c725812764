"""The laws of a posterior, over all structures x curvatures x updates."""

import copy

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import Labelled
from laplace_al.model.posterior import LowRankPosterior, PerClassPosterior, SharedPosterior
from laplace_al.model.posterior.base import prior_variance
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.structures import STRUCTURES

UPDATES = ["newton", "map"]
CURVATURES = ["categorical", "gaussian"]
LAWS = [(s, c, u) for s in STRUCTURES for c in CURVATURES for u in UPDATES]
law = pytest.mark.parametrize(("structure", "curve", "update"), LAWS)


class Problem:
    """A posterior that has seen something, and n new instances with weights in {0, 1, 2, 3}."""

    def __init__(
        self, structure, curve, update, n_classes=3, *, n=20, size=4, prior=2.0, scale=1.0, seed=0
    ):
        rng = np.random.default_rng(seed)
        self.names = (structure, curve, update)
        self.structure = STRUCTURES[structure]
        self.likelihood = likelihood_of(n_classes)
        self.seen, self.features = torch.from_numpy(scale * rng.normal(size=(2, n, size)))
        mean = torch.from_numpy(rng.normal(size=(size, self.likelihood.n_outputs))) / scale
        self.seen_weights = torch.from_numpy(rng.uniform(size=n))
        # the curvature knows no label
        data = Labelled(self.seen, torch.empty(0), self.seen_weights, self.likelihood)
        self.posterior = self.structure.at_mode(
            data, mean, curve, IsotropicPrior(torch.zeros_like(mean), prior)
        )
        labels = torch.from_numpy(rng.integers(n_classes, size=n).astype(float))
        self.targets = self.likelihood.encode(labels)
        self.weights = torch.from_numpy(rng.integers(0, 4, size=n).astype(float))
        self.update = self.structure.update(
            self.likelihood, update=update, curvature=curve, step_size=0.7
        )

    def learn(self, posterior=None, rows=slice(None)):
        posterior = self.posterior if posterior is None else posterior
        return posterior.condition(
            self.features[rows], self.targets[rows], self.weights[rows], self.update
        )

    def dense(self):
        structure, curve, _ = self.names
        return reference.DensePosterior.at_mode(
            structure,
            curve,
            self.posterior.mean.numpy(),
            self.seen.numpy(),
            self.seen_weights.numpy(),
            self.posterior.prior_precision,
        )


def dense_of(posterior, name):
    """Precision or covariance over all D C weights."""
    matrices, n_outputs = getattr(posterior, name).numpy(), posterior.mean.shape[1]
    if isinstance(posterior, SharedPosterior):
        return np.kron(matrices, np.eye(n_outputs))
    if matrices.ndim == 2:
        return matrices
    size = matrices.shape[1]
    dense = np.zeros((size, n_outputs, size, n_outputs))
    for k, matrix in enumerate(matrices):
        dense[:, k, :, k] = matrix
    return dense.reshape(size * n_outputs, -1)


def assert_same(first, second, tolerance):
    for name in ("mean", "precision", "covariance"):
        value, truth = getattr(first, name), getattr(second, name)
        assert float((value - truth).abs().max()) <= tolerance * float(truth.abs().max()), name


@law
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_a_block_is_the_direct_inverse_one_instance_at_a_time(structure, curve, update, n_classes):
    problem = Problem(structure, curve, update, n_classes)
    learnt, dense = problem.learn(), problem.dense()
    np.testing.assert_allclose(
        dense_of(problem.posterior, "precision"), dense.precision, atol=1e-10
    )
    instances = (problem.features, problem.targets, problem.weights)
    for phi, y, s in zip(*(tensor.numpy() for tensor in instances), strict=True):
        dense.learn(structure, curve, update, phi, y, s, step_size=0.7)
    np.testing.assert_allclose(learnt.mean, dense.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(dense_of(learnt, "precision"), dense.precision, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(
        dense_of(learnt, "covariance"), np.linalg.inv(dense.precision), rtol=1e-8, atol=1e-9
    )


@law
@given(
    n_classes=st.integers(2, 5),
    n=st.integers(1, 150),
    cut=st.floats(0, 1),
    log_prior=st.floats(-4, 4),
    log_scale=st.floats(-3, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=12, deadline=None)
def test_a_then_b_is_a_and_b(
    structure, curve, update, n_classes, n, cut, log_prior, log_scale, seed
):
    problem = Problem(
        structure,
        curve,
        update,
        n_classes,
        n=n,
        size=3,
        prior=10.0**log_prior,
        scale=10.0**log_scale,
        seed=seed,
    )
    problem.features[n // 2 :] = problem.features[: n - n // 2].clone()  # duplicates
    middle = round(cut * n)
    parts = problem.learn(problem.learn(rows=slice(0, middle)), rows=slice(middle, n))
    single = problem.posterior
    for row in range(n):
        single = problem.learn(single, rows=slice(row, row + 1))
    assert_same(parts, problem.learn(), 1e-7)
    assert_same(single, problem.learn(), 1e-7)


@law
@pytest.mark.parametrize("n_classes", [2, 3])
def test_to_observe_is_to_learn_and_to_tell_others(structure, curve, update, n_classes):
    problem = Problem(structure, curve, update, n_classes, n=6)
    posterior, others = problem.posterior, problem.seen
    logits, variance = posterior.logits(others), posterior.variance(others)
    for i in range(6):
        row = slice(i, i + 1)
        told, covariance = [], dense_of(posterior, "covariance")
        posterior, effects = posterior.condition_with_effects(
            problem.features[row],
            problem.targets[row],
            problem.weights[row],
            problem.update,
            told.append,
        )
        for directions in told:  # Sigma phi
            assert directions is effects[0].directions
            expected = covariance @ np.kron(problem.features[i], np.ones(logits.shape[1]))
            expected = expected.reshape(-1, logits.shape[1])
            np.testing.assert_allclose(
                directions, expected[:, : directions.shape[1]], rtol=1e-8, atol=1e-12
            )
        for effect in effects:
            moved = others @ effect.directions
            logits = effect.logits_after(moved, logits)
            variance = effect.variance_after(moved, variance)
    expected = problem.learn()
    torch.testing.assert_close(posterior.mean, expected.mean)
    torch.testing.assert_close(posterior.covariance, expected.covariance)
    torch.testing.assert_close(logits, expected.logits(others))
    torch.testing.assert_close(variance, expected.variance(others))


@law
def test_weight_zero_is_absent(structure, curve, update):
    problem = Problem(structure, curve, update)
    present = problem.weights > 0
    absent = problem.posterior.condition(
        problem.features[present],
        problem.targets[present],
        problem.weights[present],
        problem.update,
    )
    assert_same(absent, problem.learn(), 1e-12)
    problem.weights = torch.zeros_like(problem.weights)
    assert_same(problem.learn(), problem.posterior, 1e-14)


@pytest.mark.parametrize("curve", CURVATURES)
@pytest.mark.parametrize("update", UPDATES)
def test_with_one_logit_all_structures_agree(curve, update):
    shared, *others = (Problem(name, curve, update, 2).learn() for name in STRUCTURES)
    for other in others:
        torch.testing.assert_close(other.mean, shared.mean)
        torch.testing.assert_close(
            other.covariance.reshape(shared.covariance.shape), shared.covariance
        )


def test_per_class_is_the_block_diagonal_of_full():
    per_class, full = (Problem(name, "categorical", "map") for name in ("per_class", "full"))
    blocks = full.posterior.precision.reshape(4, 3, 4, 3)
    for k in range(3):
        torch.testing.assert_close(per_class.posterior.precision[k], blocks[:, k, :, k])


def test_structures_share_the_gaussian_curvature():
    learnt = {name: Problem(name, "gaussian", "map").learn() for name in STRUCTURES}
    shared = learnt["shared"]
    for other in learnt.values():
        torch.testing.assert_close(other.mean, shared.mean)
    for name in ("per_class", "low_rank"):
        for covariance in learnt[name].covariance:
            torch.testing.assert_close(covariance, shared.covariance)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_variance_is_the_quadratic_form(structure, n_classes):
    problem = Problem(structure, "categorical", "map", n_classes)
    posterior, n_outputs = problem.posterior, problem.likelihood.n_outputs
    covariance = dense_of(posterior, "covariance")
    dense = problem.dense()
    direct = [
        np.diag(dense.lift(phi).T @ covariance @ dense.lift(phi))
        for phi in problem.features.numpy()
    ]
    variance = posterior.variance(problem.features)
    assert variance.shape == ((20,) if structure == "shared" else (20, n_outputs))
    np.testing.assert_allclose(variance.reshape(20, -1).expand(20, n_outputs), direct, rtol=1e-9)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_prior_variance_is_that_before_any_label_and_positive(structure):
    problem = Problem(structure, "categorical", "map")
    prior = type(problem.posterior).prior(torch.zeros(4, 3).double(), 2.0)
    expected = prior.variance(problem.features).reshape(20, -1)[:, 0]
    torch.testing.assert_close(
        prior_variance(problem.features, problem.posterior.prior_precision), expected
    )
    assert (prior_variance(0 * problem.features, 1.0) == torch.finfo(torch.float64).tiny).all()


@pytest.mark.parametrize("structure", ["shared", "per_class", "low_rank"])
def test_predictions_use_the_variance_of_logits_that_are_not_coupled(structure):
    problem = Problem(structure, "categorical", "map")
    posterior, features = problem.posterior, problem.features
    assert torch.equal(posterior.predictive_variance(features), posterior.variance(features))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_norm_is_the_standard_deviation_of_a_slope(structure, n_classes):
    problem = Problem(structure, "categorical", "map", n_classes)
    posterior = problem.learn()
    slope = torch.randn(posterior.mean.shape, dtype=torch.float64)
    weights = slope.flatten() if structure == "full" else slope.T.reshape(slope.shape[1], -1)
    covariance = posterior.covariance.reshape(-1, *posterior.covariance.shape[-2:])
    if structure == "full":
        expected = weights @ covariance[0] @ weights
    else:
        covariances = covariance.expand(len(weights), -1, -1)
        expected = sum(g @ c @ g for g, c in zip(weights, covariances, strict=True))
    torch.testing.assert_close(posterior.norm(slope), expected.sqrt())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_samples_have_the_mean_and_covariance_of_the_posterior(structure):
    posterior = Problem(structure, "categorical", "map").posterior
    draws = posterior.sample(200_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(dim=0), posterior.mean, rtol=0, atol=8e-3)
    sampled = torch.cov(draws.flatten(start_dim=1).T).numpy()
    dense = dense_of(posterior, "covariance")
    if structure in ("per_class", "low_rank"):  # given that deviations add up to 0
        total = np.kron(np.eye(4), np.ones((1, 3)))  # weight W_dk has the place 3 d + k
        gain = dense @ total.T @ np.linalg.inv(total @ dense @ total.T)
        dense = dense - gain @ total @ dense
    np.testing.assert_allclose(sampled, dense, rtol=0.02, atol=4e-3)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_draw_is_the_mean_and_the_root_times_noise(structure):
    """W + R n, with n of the standard normal distribution from the very generator."""
    posterior = Problem(structure, "categorical", "map", n_classes=2).learn()
    draws = posterior.sample(6, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    expected = posterior.mean[:, 0] + (posterior.root.reshape(4, 4) @ noise).T
    torch.testing.assert_close(draws[:, :, 0], expected)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_log_determinant_is_that_of_all_weights(structure):
    posterior = Problem(structure, "categorical", "map").posterior
    direct = np.linalg.slogdet(dense_of(posterior, "precision")).logabsdet
    assert float(posterior.log_determinant()) == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_merged_is_learnt_together(structure, n_classes):
    """Data learnt apart from a common prior, curvature fixed by the mode it is taken at."""
    problem = Problem(structure, "gaussian", "newton", n_classes, prior=0.7)
    mean, ones = problem.posterior.mean, torch.ones(20).double()
    prior = IsotropicPrior(torch.zeros_like(mean), 0.7)

    def of_rows(rows):
        data = Labelled(problem.seen[rows], torch.empty(0), ones[rows], problem.likelihood)
        return STRUCTURES[structure].at_mode(data, mean, "gaussian", prior)

    parts = [of_rows(slice(0, 5)), of_rows(slice(5, 20))]
    whole = of_rows(slice(None))
    merged = parts[0].merge(parts[1])
    torch.testing.assert_close(merged.precision, whole.precision)
    torch.testing.assert_close(merged.covariance, whole.covariance)
    total = sum(dense_of(part, "precision") @ part.mean.numpy().ravel() for part in parts)
    direct = np.linalg.solve(dense_of(whole, "precision"), total)
    np.testing.assert_allclose(merged.mean.numpy().ravel(), direct, rtol=1e-9)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_merging_with_the_prior_changes_nothing(structure):
    posterior = Problem(structure, "categorical", "map").posterior
    prior = type(posterior).prior(torch.zeros_like(posterior.mean), posterior.prior_precision)
    assert_same(posterior.merge(prior), posterior, 1e-12)
    assert_same(prior.merge(posterior), posterior, 1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_prior_mean_counts_once_and_is_never_forgotten(structure):
    start = torch.linspace(-1, 1, 12).reshape(4, 3).double()
    problem = Problem(structure, "gaussian", "newton", prior=0.7)
    prior = type(problem.posterior).prior(start, 0.7)
    assert_same(prior.merge(prior), prior, 1e-12)
    learnt = problem.learn(prior)
    assert_same(learnt.merge(prior), learnt, 1e-12)
    assert_same(learnt.forget(0.0), prior, 1e-12)
    precision = dense_of(learnt, "precision")
    faded = 0.7 * np.eye(12) + 0.25 * (precision - 0.7 * np.eye(12))
    data = precision @ learnt.mean.numpy().ravel() - 0.7 * start.numpy().ravel()
    direct = np.linalg.solve(faded, 0.7 * start.numpy().ravel() + 0.25 * data)
    np.testing.assert_allclose(learnt.forget(0.25).mean.numpy().ravel(), direct, rtol=1e-9)


def test_merging_needs_a_common_prior():
    one, other = (Problem("shared", "gaussian", "map", prior=p).posterior for p in (1.0, 2.0))
    for wrong in (other, Problem("per_class", "gaussian", "map", prior=1.0).posterior):
        with pytest.raises(
            ValueError,
            match=r"^merge needs two posteriors of one structure, shape and prior; got .* and .*"
            r"\. Learn both with the same classes, features, covariance and prior_precision\.$",
        ):
            one.merge(wrong)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_forgetting_fades_the_data_and_not_the_prior(structure):
    posterior = Problem(structure, "categorical", "map", prior=3.0).posterior
    faded = posterior.forget(0.25)
    prior = 3.0 * np.eye(12)
    data = dense_of(posterior, "precision") - prior
    np.testing.assert_allclose(
        dense_of(faded, "precision"), prior + 0.25 * data, rtol=1e-9, atol=1e-12
    )
    information = 0.25 * dense_of(posterior, "precision") @ posterior.mean.numpy().ravel()
    direct = np.linalg.solve(prior + 0.25 * data, information)
    np.testing.assert_allclose(faded.mean.numpy().ravel(), direct, rtol=1e-9)
    assert_same(posterior.forget(1.0), posterior, 1e-12)
    gone = posterior.forget(0.0)
    np.testing.assert_allclose(dense_of(gone, "covariance"), np.eye(12) / 3, atol=1e-14)
    np.testing.assert_allclose(gone.mean, 0, atol=1e-14)


def with_prior_mean(posterior):
    """The same with a mean of the prior that is not 0."""
    prior_mean = torch.linspace(-1, 1, posterior.mean.numel()).double().view_as(posterior.mean)
    return posterior.of_roots(posterior.mean, posterior.root, posterior.prior_precision, prior_mean)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_more_outputs_leave_those_so_far(structure):
    problem = Problem(structure, "categorical", "map")
    posterior = with_prior_mean(problem.posterior)
    wide = posterior.with_outputs(torch.tensor([0, 2, 3]), 5)
    assert wide.mean.shape == (4, 5)
    torch.testing.assert_close(wide.mean[:, [0, 2, 3]], posterior.mean)
    assert not wide.mean[:, [1, 4]].any()
    assert wide.prior_precision == posterior.prior_precision
    torch.testing.assert_close(wide.prior_mean[:, [0, 2, 3]], posterior.prior_mean)
    assert not wide.prior_mean[:, [1, 4]].any()
    if structure != "shared":  # whose new outputs have the covariance of all
        variance = wide.variance(problem.features)
        torch.testing.assert_close(variance[:, [0, 2, 3]], posterior.variance(problem.features))
        prior = problem.features.square().sum(dim=1) / 2
        torch.testing.assert_close(variance[:, 1], prior)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_logit_as_two_predicts_the_same(structure):
    problem = Problem(structure, "categorical", "map", 2)
    one = with_prior_mean(problem.posterior)
    two = one.as_two_outputs()
    assert two.prior_precision == one.prior_precision
    assert torch.equal(two.mean, torch.cat([-one.mean, one.mean], dim=1) / 2)
    torch.testing.assert_close(two.prior_mean[:, 1:] - two.prior_mean[:, :1], one.prior_mean)
    logits = two.logits(problem.features)
    torch.testing.assert_close(
        logits[:, 1:] - logits[:, :1], problem.posterior.logits(problem.features)
    )
    dense = reference.DensePosterior.at_mode(
        structure,
        "categorical",
        two.mean.numpy(),
        problem.seen.numpy(),
        problem.seen_weights.numpy(),
        2.0,
    )
    np.testing.assert_allclose(dense_of(two, "precision"), dense.precision, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_posterior_is_a_value(structure):
    problem = Problem(structure, "categorical", "map")
    posterior = problem.posterior
    before = [posterior.mean.clone(), posterior.root.clone()]
    problem.learn()
    posterior.forget(0.5)
    posterior.merge(posterior)
    assert torch.equal(posterior.mean, before[0])
    assert torch.equal(posterior.root, before[1])
    assert copy.deepcopy(posterior) is posterior
    with pytest.raises(AttributeError):
        posterior.mean = None


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("log_prior", [-8, 0, 8])
@pytest.mark.parametrize("log_scale", [-6, 0, 6])
@pytest.mark.parametrize("update", UPDATES)
def test_any_scale_stays_finite_and_positive(structure, log_prior, log_scale, update):
    """Duplicates, collinear columns and more columns than rows, up to 28 digits apart."""
    problem = Problem(
        structure, "categorical", update, n=6, size=10, prior=10.0**log_prior, scale=10.0**log_scale
    )
    problem.features[:, 5:] = 2 * problem.features[:, :5]
    problem.features[3:] = problem.features[:3].clone()
    learnt = problem.learn()
    assert torch.isfinite(learnt.mean).all()
    assert torch.isfinite(learnt.root).all()
    before, after = (p.variance(problem.features) for p in (problem.posterior, learnt))
    assert (after > 0).all()
    assert (after <= before * (1 + 1e-6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["shared", "per_class", "low_rank"])
def test_a_million_single_updates_do_not_drift(structure):
    """Weights in [0, 2] at D = 64: covariance against the inverse of the summed precision."""
    n, size, n_classes = 1_000_000, 64, 2 if structure == "shared" else 3
    rng = torch.Generator().manual_seed(0)
    likelihood = likelihood_of(n_classes)
    choice = STRUCTURES[structure]
    update = choice.update(likelihood, update="newton", curvature="categorical", step_size=1.0)
    weigh = choice.curvatures["categorical"]
    mean = torch.zeros(size, likelihood.n_outputs).double()
    posterior = choice.posterior.prior(mean, 1.0)
    summed = torch.eye(size).double().repeat(len(posterior.root), 1, 1)
    for _ in range(n // 1000):
        features = torch.randn(1000, size, generator=rng, dtype=torch.float64)
        weights = 2 * torch.rand(1000, generator=rng, dtype=torch.float64)
        labels = torch.randint(n_classes, (1000,), generator=rng).double()
        targets, curvatures = likelihood.encode(labels), []
        for row in range(1000):
            one = slice(row, row + 1)
            p = likelihood.mean(features[one] @ posterior.mean)
            curvatures.append(weights[one, None] * weigh(p))
            posterior = posterior.condition(features[one], targets[one], weights[one], update)
        for g, h in enumerate(torch.cat(curvatures).T):
            summed[g] += features.T @ (h[:, None] * features)
    covariance = posterior.root @ posterior.root.mT
    inverse = torch.linalg.inv(summed)
    assert float((covariance - inverse).abs().max() / inverse.abs().max()) <= 1e-8
    assert float(torch.linalg.eigvalsh(covariance).min()) > 0


@pytest.mark.parametrize("structure", STRUCTURES)
def test_with_another_mean(structure):
    posterior = Problem(structure, "categorical", "map").learn()
    moved = posterior.with_mean(posterior.mean + 1)
    torch.testing.assert_close(moved.mean, posterior.mean + 1)
    torch.testing.assert_close(moved.covariance, posterior.covariance)


@pytest.mark.parametrize("posterior", [SharedPosterior, PerClassPosterior, LowRankPosterior])
def test_merge_of_what_was_learnt_apart_since(posterior):
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(30, 4)))
    n_groups = 1 if posterior is SharedPosterior else 3
    curvature = torch.tensor(rng.random(size=(30, n_groups)))
    mean = torch.tensor(rng.normal(size=(4, 3)))
    start, a, b, both = (
        posterior.at_mode(mean, features[rows], curvature[rows], 0.5)
        for rows in (slice(10), slice(20), np.r_[:10, 20:30], slice(30))
    )
    merged = a.merge(b, start)
    assert torch.allclose(merged.precision, both.precision)
    assert torch.allclose(merged.mean, mean, atol=1e-9)
    with pytest.raises(ValueError, match="merge needs two posteriors of one structure"):
        a.merge(b, posterior.prior(mean, 0.5))


@pytest.mark.parametrize("posterior", [SharedPosterior, PerClassPosterior, LowRankPosterior])
def test_of_sums_is_at_mode(posterior):
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(30, 4)))
    n_groups = 1 if posterior is SharedPosterior else 3
    curvature = torch.tensor(rng.random(size=(30, n_groups)))
    mean = torch.tensor(rng.normal(size=(4, 3)))
    information = posterior.information(features, curvature)
    summed = posterior.of_sums(mean, information, 0.5, 2 * mean)
    expected = posterior.at_mode(mean, features, curvature, 0.5)
    assert torch.allclose(summed.precision, expected.precision)
    assert torch.equal(summed.mean, mean)
    assert summed.prior_precision == 0.5
    assert torch.equal(summed.prior_mean, 2 * mean)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_posterior_says_what_it_is(structure):
    posterior = Problem(structure, "categorical", "map").posterior
    shape = "n_features=4, n_outputs=3, prior_precision=2"
    assert repr(posterior) == f"{type(posterior).__name__}({shape})"


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_prior_stays_with_whatever_follows(structure):
    problem = Problem(structure, "categorical", "map", prior=0.7)
    mean, kind = problem.posterior.mean, STRUCTURES[structure].posterior
    centre = torch.ones_like(mean)
    posterior = kind.prior(centre, 0.7)
    learnt = problem.learn(posterior)
    for later in (learnt, learnt.with_mean(mean), learnt.forget(0.5), learnt.merge(learnt)):
        assert later.prior_precision == 0.7
        assert torch.equal(later.prior_mean, centre)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_mode_has_a_prior_around_zero_unless_it_is_told(structure):
    problem = Problem(structure, "categorical", "map")
    mean, probabilities = (
        problem.posterior.mean,
        problem.likelihood.mean(problem.seen * 0 @ problem.posterior.mean),
    )
    weighted = problem.structure.curvature("categorical", probabilities, problem.seen_weights)
    kind = problem.structure.posterior
    assert not kind.at_mode(mean, problem.seen, weighted, 2.0).prior_mean.any()
    centre = torch.ones_like(mean)
    assert torch.equal(kind.at_mode(mean, problem.seen, weighted, 2.0, centre).prior_mean, centre)
