import numpy as np
import pytest
import torch
from scipy.stats import kstest

from laplace_al.model.fit import (
    FitSettings,
    calibration_of,
    evidence_under,
    fit,
    model_before_labels,
    places_of,
    with_evidence,
)
from laplace_al.model.fitted_model import Rules
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.links import mean_field
from laplace_al.model.mode import Labelled, find_mode
from laplace_al.model.prior_precision import prior_precision_of_features
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.rows import RowsInMemory, left_out, stiffening_at_mode
from laplace_al.model.structures import STRUCTURES


def labelled(n_classes, *, n=40, size=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, size))
    y = np.clip((X @ np.ones(size) + rng.normal(size=n) + n_classes / 2), 0, n_classes - 1)
    likelihood = likelihood_of(n_classes)
    phi = torch.from_numpy(np.column_stack([X, np.ones(n)]))
    targets = likelihood.encode(torch.from_numpy(np.floor(y)))
    return Labelled(phi, targets, torch.from_numpy(rng.uniform(0.5, 2, size=n)), likelihood)


def zero_of(data):
    return torch.zeros(data.features.shape[1], data.likelihood.n_outputs).double()


def fitted(data, prior_mean=None, *, rules=None, **settings):
    settings = {"prior_precision": 0.3, "structure": "per_class", "head": "fit", "tol": 1e-8} | (
        settings
    )
    mean = zero_of(data) if prior_mean is None else prior_mean
    classes = np.arange(max(2, mean.shape[1]))
    rules = Rules() if rules is None else rules
    options = FitSettings(**settings)
    rows = RowsInMemory(data)
    return fit(rows, data.features[0], mean, mean, options, rules, classes=classes)


def mode_of(data, prior_precision):
    prior = IsotropicPrior(zero_of(data), prior_precision)
    return find_mode(data, prior, prior.mean, max_iter=100, tol=1e-8).mean, prior


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_posterior_is_the_laplace_approximation_around_the_mode(structure, n_classes):
    data = labelled(n_classes)
    found = fitted(data, structure=structure, rules=Rules(curvature="categorical"))
    mean, prior = mode_of(data, 0.3)
    expected = STRUCTURES[structure].at_mode(data, mean, "categorical", prior)
    torch.testing.assert_close(found.model.posterior.mean, mean)
    torch.testing.assert_close(found.model.posterior.precision, expected.precision)
    assert found.mode.converged
    assert found.prior_precision is None  # none was searched for


def test_what_is_left_out_is_less_sure():
    data = labelled(3)
    mean, prior = mode_of(data, 0.1)
    rows, _ = with_evidence(RowsInMemory(data), mean, prior, STRUCTURES["per_class"])
    without = left_out(rows, mean).logits
    loss = data.likelihood.negative_log_likelihood
    assert (loss(without, data.targets) >= loss(data.features @ mean, data.targets)).all()
    stiffening = stiffening_at_mode(rows, mean, "secant")
    assert (stiffening > 0).all()
    assert (stiffening[data.targets.bool()] > 1).double().mean() > 0.9
    assert stiffening_at_mode(rows, mean, "categorical") is None


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_report_scores_the_probabilities_left_out(n_classes):
    data = labelled(n_classes)
    report = fitted(data).model.report
    labels, weights = data.likelihood.labels(data.targets).numpy(), data.weights.numpy()
    right = report.loo_proba.argmax(axis=1) == labels
    of_labels = np.log(report.loo_proba[np.arange(len(labels)), labels])
    assert report.loo_score.accuracy == pytest.approx(np.average(right, weights=weights))
    expected = np.average(of_labels, weights=weights)
    assert report.loo_score.log_likelihood == pytest.approx(expected)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_sample_calibrates_as_well_as_all(n_classes, monkeypatch):
    """Rows count as their weights say: one heavy row among many is as many rows."""
    data = labelled(n_classes, n=2000)
    data.weights[7] = 300.0
    mean, prior = mode_of(data, 0.3)
    rows, _ = with_evidence(RowsInMemory(data), mean, prior, STRUCTURES["per_class"])
    sample, again = (calibration_of(rows, mean, mean_field) for _ in range(2))
    np.testing.assert_array_equal(sample.scores, again.scores)
    monkeypatch.setattr("laplace_al.model.fit._ENOUGH_LABELS", 2000)
    whole = calibration_of(rows, mean, mean_field)
    assert sample.temperature == pytest.approx(whole.temperature, rel=0.1)
    assert not np.array_equal(sample.scores, whole.scores)
    # of temperatures from 1 on: below, single labels rule
    np.testing.assert_allclose(sample.scores[20:], whole.scores[20:], rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_places_of_rows_are_as_if_drawn_and_their_own(dtype):
    rows = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    places = places_of(rows)
    assert kstest(places.numpy(), "uniform").pvalue > 1e-3
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    assert torch.equal(places_of(rows[order]), places[order])
    assert torch.equal(places_of(rows.T.contiguous().T), places)


@pytest.mark.parametrize("criterion", ["evidence", "loo"])
def test_the_prior_precision_is_the_best_by_its_criterion(criterion):
    data = labelled(3)
    found = fitted(data, prior_precision=criterion)

    def score(prior_precision):
        mean, prior = mode_of(data, prior_precision)
        rows, evidence = with_evidence(RowsInMemory(data), mean, prior, STRUCTURES["per_class"])
        return (
            evidence
            if criterion == "evidence"
            else calibration_of(rows, mean, mean_field).objective
        )

    best = found.prior_precision.value
    assert best == found.model.posterior.prior_precision
    assert score(best) >= max(score(0.5 * best), score(2 * best))


def test_the_prior_precision_by_scale_is_that_of_the_features():
    data = labelled(3)
    found = fitted(data, prior_precision="scale").model.posterior.prior_precision
    expected = prior_precision_of_features(data.features, data.weights, "fit")
    assert found == pytest.approx(expected)


def test_the_mean_of_a_pretrained_head_stays():
    data = labelled(3)
    head = torch.ones(3, 3).double()
    found = fitted(data, head, head="pretrained")
    assert found.mode is None
    assert found.model.report.n_iter is None
    assert torch.equal(found.model.posterior.mean, head)


@pytest.mark.parametrize(
    ("n_classes", "structure", "curvature", "calibration", "is_known"),
    [
        (3, "shared", "gaussian", None, False),  # where it would cost more than the fit
        (3, "shared", "gaussian", "loo", True),
        (3, "shared", "secant", None, True),
        (3, "per_class", "gaussian", None, True),
        (2, "shared", "gaussian", None, True),
    ],
)
def test_evidence_is_reported_where_it_costs_little(
    n_classes, structure, curvature, calibration, is_known
):
    rules = Rules(curvature=curvature, calibration=calibration)
    report = fitted(labelled(n_classes), structure=structure, rules=rules).model.report
    assert (report.log_evidence is not None) == is_known
    assert (report.evidence_slope is not None) == is_known
    assert (report.loo_score is not None) == (calibration == "loo")


def test_of_much_data_no_slope_is_computed_that_nobody_asked_for(monkeypatch):
    monkeypatch.setattr("laplace_al.model.fit._SMALL", 10)
    report = fitted(labelled(3)).model.report
    assert report.log_evidence is not None
    assert report.evidence_slope is None


def test_the_newest_labels_that_count_are_remembered():
    data = labelled(3)
    data.weights[-3:-1] = 0
    memory = fitted(data, rules=Rules(memory_size=2)).model.memory
    torch.testing.assert_close(memory.features, data.features[[-4, -1]])
    torch.testing.assert_close(memory.weights, data.weights[[-4, -1]])
    assert fitted(data).model.memory is None


@pytest.mark.parametrize("memory_size", [0, 5, None])
def test_before_its_first_labels_a_model_is_the_prior(memory_size):
    data = labelled(3)
    mean = torch.ones(3, 3).double()
    settings = FitSettings("scale", "shared", "fit", 1e-8)
    rules = Rules(memory_size=memory_size)
    model = model_before_labels(data, mean, settings, rules, classes=np.arange(3)).model
    assert torch.equal(model.posterior.mean, mean)
    expected = prior_precision_of_features(data.features, data.weights, "fit")
    variance = model.posterior.variance(data.features)
    torch.testing.assert_close(variance, data.features.square().sum(dim=1) / expected)
    assert (model.memory is None) == (memory_size == 0)


def test_the_evidence_under_another_prior_is_that_of_a_fit_with_it():
    data = labelled(3)
    known, other = fitted(data).model, fitted(data, prior_precision=2.0).model
    prior, tol = IsotropicPrior(zero_of(data), 2.0), 1e-8
    value, slope, mode = evidence_under(data, prior, known, tol, with_slope=False)
    assert mode.converged
    assert value == pytest.approx(other.report.log_evidence)
    assert slope is None
    of_refit = evidence_under(data, prior, other, tol, with_slope=True)
    slope = evidence_under(data, prior, known, tol, with_slope=True).slope
    assert slope == pytest.approx(of_refit.slope, rel=1e-5)


def test_the_slope_is_known_where_the_mean_stays():
    """It then is that of the determinant alone."""
    data, mean = labelled(3), torch.ones(3, 3).double()
    above, here, below = (
        fitted(data, mean, head="pretrained", prior_precision=value).model.report
        for value in np.exp([1e-4, 0, -1e-4])
    )
    difference = (above.log_evidence - below.log_evidence) / 2e-4
    assert here.evidence_slope == pytest.approx(difference, rel=1e-5)
