import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from scipy.special import log_expit

from laplace_al.model.evidence import evidence_slope, log_evidence
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import Labelled, find_mode
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.rows import RowsInMemory
from laplace_al.model.structures import STRUCTURES


def labelled(n_classes, *, n=40, size=2, seed=0, weights=None):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, size))
    y = np.clip((X @ np.ones(size) + rng.normal(size=n) + n_classes / 2), 0, n_classes - 1)
    likelihood = likelihood_of(n_classes)
    targets = likelihood.encode(torch.from_numpy(np.floor(y)))
    weights = np.ones(n) if weights is None else weights
    return Labelled(torch.from_numpy(X), targets, torch.from_numpy(weights), likelihood)


def mode_of(data, prior_precision):
    zero = torch.zeros(data.features.shape[1], data.likelihood.n_outputs).double()
    prior = IsotropicPrior(zero, prior_precision)
    return find_mode(data, prior, zero, max_iter=100, tol=1e-8).mean, prior


def evidence_at(data, mean, prior, structure):
    kind = STRUCTURES[structure]
    rows, log_determinant = RowsInMemory(data).with_variances(mean, prior, kind)
    return log_evidence(rows, mean, prior, kind, log_determinant)


@pytest.mark.parametrize("prior_precision", [0.5, 2.0])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_evidence_is_the_integral(prior_precision, structure):
    """Two weights, two classes: numerical integration; Laplace is off by a few hundredths."""
    weights = np.random.default_rng(1).uniform(0, 2, size=40)
    data = labelled(2, weights=weights)
    X, y = data.features.numpy(), data.targets.numpy()[:, 0]
    mean, prior = mode_of(data, prior_precision)
    top_place = mean[:, 0].tolist()
    evidence = evidence_at(data, mean, prior, structure)

    def log_joint(a, b):
        logits = X @ np.array([a, b])
        log_likelihood = weights @ (log_expit(np.where(y == 1, logits, -logits)))
        norm = np.log(prior_precision / (2 * np.pi)) - prior_precision / 2 * (a * a + b * b)
        return log_likelihood + norm

    top = log_joint(*top_place)
    box = [(w - 6, w + 6) for w in top_place]
    integral, _ = dblquad(lambda b, a: np.exp(log_joint(a, b) - top), *box[0], *box[1])
    assert evidence == pytest.approx(top + np.log(integral), abs=0.05)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_golden_evidence_of_the_full_hessian(evidence_golden, n_classes):
    """Made once with laplace-torch 0.3: last layer, full Hessian, at the same weights."""
    X, y, evidence = evidence_golden(n_classes)
    assert len(evidence) == 3
    for prior_precision, W, expected in evidence:
        likelihood = likelihood_of(n_classes)
        targets = likelihood.encode(torch.from_numpy(y.astype(float)))
        data = Labelled(torch.from_numpy(X), targets, torch.ones(len(X)).double(), likelihood)
        if n_classes == 2:  # one logit stands for two of twice the prior precision
            W, prior_precision = W[:, 1:] - W[:, :1], prior_precision / 2
        prior = IsotropicPrior(torch.zeros_like(W), prior_precision)
        ours = evidence_at(data, W, prior, "full")
        assert ours == pytest.approx(expected, rel=1e-6)


def test_the_curvature_of_single_classes_is_close_to_that_of_all_together():
    data = labelled(3)
    mean, prior = mode_of(data, 1.0)
    alone, together = (
        evidence_at(data, mean, prior, structure) for structure in ("per_class", "full")
    )
    assert alone != together
    assert alone == pytest.approx(together, abs=1.0)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_slope_is_the_derivative_along_log_lambda(structure, n_classes):
    """The mode moves along."""
    data, step = labelled(n_classes, weights=np.linspace(0, 2, 40)), 1e-4

    def at(log_precision):
        return evidence_at(data, *mode_of(data, np.exp(log_precision)), structure)

    for place in (-2.0, 1.0):
        mean, prior = mode_of(data, np.exp(place))
        rows, _ = RowsInMemory(data).with_variances(mean, prior, STRUCTURES[structure])
        slope = evidence_slope(rows, mean, prior, STRUCTURES[structure])
        difference = at(place + step) - at(place - step)
        assert slope == pytest.approx(difference / (2 * step), rel=1e-4)
