from functools import partial

import numpy as np
import pytest
import reference
import torch
from scipy.special import softmax

from laplace_al.model.curvatures import (
    full_curvature_root,
    open_stiffening,
    per_class_curvature,
    shared_curvature,
    steepening,
)
from laplace_al.model.likelihoods import Categorical, Mean
from laplace_al.model.updates import (
    CoupledMapUpdate,
    CoupledNewtonUpdate,
    ExpectedUpdate,
    MapUpdate,
    NewtonUpdate,
    RememberingUpdate,
    contrast_variance,
)

LOGITS = np.array([0.0, 4.0, -2.0])
TARGET = np.array([0.0, 0.0, 1.0])
WEIGHT = 2.5
VARIANCES = {shared_curvature: np.array([3.0]), per_class_curvature: np.array([3.0, 0.1, 1.0])}
curvatures = pytest.mark.parametrize("curvature", VARIANCES)


@curvatures
def test_newton_steps_along_the_new_covariance(curvature):
    update = NewtonUpdate(Categorical(3), curvature, step_size=0.3)
    variance = VARIANCES[curvature]
    coefficients, h = update(LOGITS, variance, TARGET, WEIGHT)
    p = softmax(LOGITS)
    np.testing.assert_allclose(h, WEIGHT * curvature(Mean(p, 1 - p)))
    # Sigma_new phi = Sigma_old phi / (1 + h v)
    np.testing.assert_allclose(coefficients, 0.3 * WEIGHT / (1 + h * variance) * (TARGET - p))


@curvatures
def test_map_takes_the_curvature_at_the_new_mode(curvature):
    variance = VARIANCES[curvature]
    coefficients, h = MapUpdate(Categorical(3), curvature)(LOGITS, variance, TARGET, WEIGHT)
    p = softmax(LOGITS + variance * coefficients)
    np.testing.assert_allclose(coefficients, WEIGHT * (TARGET - p))
    np.testing.assert_allclose(h, WEIGHT * curvature(Mean(p, 1 - p)))


@curvatures
def test_a_stiffened_label_goes_to_the_same_mode_and_weighs_more(curvature):
    variance, prior = VARIANCES[curvature], 4.0
    plain, _ = MapUpdate(Categorical(3), curvature)(LOGITS, variance, TARGET, WEIGHT, prior)
    stiffened = MapUpdate(Categorical(3), curvature, is_stiffened=True)
    coefficients, h = stiffened(LOGITS, variance, TARGET, WEIGHT, prior)
    np.testing.assert_array_equal(coefficients, plain)
    p, before = softmax(LOGITS + variance * coefficients), softmax(LOGITS)
    mean = Mean(p, 1 - p)
    own = curvature(mean) * (open_stiffening(mean, variance) if len(variance) > 1 else 1)
    grown = steepening(Mean(before, 1 - before), mean, variance, prior)
    np.testing.assert_allclose(h, WEIGHT * own + grown)
    assert (h >= WEIGHT * curvature(mean)).all()
    assert (h > WEIGHT * curvature(mean)).any()


def coupled(update, covariance, *prior_variance):
    a, root = update(LOGITS, covariance, TARGET, WEIGHT, *prior_variance)
    return a, root @ root.T


def test_coupled_updates_agree_with_the_others_on_equal_independent_logits():
    """With V = v I and H = h I there is nothing to couple."""
    variance = VARIANCES[shared_curvature]

    def identity(p):
        return np.eye(3)

    def one(p):
        return np.ones(1)

    for plain, other in [
        (NewtonUpdate(Categorical(3), one), CoupledNewtonUpdate(Categorical(3), identity)),
        (MapUpdate(Categorical(3), one), CoupledMapUpdate(Categorical(3), identity)),
    ]:
        a, h = plain(LOGITS, variance, TARGET, WEIGHT)
        coupled_a, curvature = coupled(other, variance * np.eye(3))
        np.testing.assert_allclose(coupled_a, a)
        np.testing.assert_allclose(curvature, h * np.eye(3))


def test_coupled_curvature_is_that_of_the_softmax():
    a, curvature = coupled(CoupledMapUpdate(Categorical(3), full_curvature_root), np.eye(3))
    p = softmax(LOGITS + a)
    np.testing.assert_allclose(curvature, WEIGHT * (np.diag(p) - np.outer(p, p)), atol=1e-12)


def test_a_stiffened_coupled_label_has_the_diagonal_of_the_others():
    """The variances are those of the contrasts: 2/3 of independent ones."""
    update = CoupledMapUpdate(Categorical(3), full_curvature_root, is_stiffened=True)
    a, curvature = coupled(update, np.eye(3), 4.0)
    p, before = softmax(LOGITS + a), softmax(LOGITS)
    mean, variance = Mean(p, 1 - p), np.full(3, 2 / 3)
    own = WEIGHT * p * (1 - p) * open_stiffening(mean, variance)
    grown = steepening(Mean(before, 1 - before), mean, variance, 4.0 * 2 / 3)
    np.testing.assert_allclose(np.diag(curvature), own + grown)
    assert np.linalg.eigvalsh(curvature).min() > -1e-12


@curvatures
@pytest.mark.parametrize("target", [TARGET, TARGET[::-1]])
def test_what_is_expected_of_a_label_moves_no_logit(curvature, target):
    p = softmax(LOGITS)
    update = ExpectedUpdate(MapUpdate(Categorical(3), curvature))
    coefficients, h = update(LOGITS, VARIANCES[curvature], target, WEIGHT)
    np.testing.assert_array_equal(coefficients, np.zeros(3))
    np.testing.assert_allclose(h, WEIGHT * curvature(Mean(p, 1 - p)))
    coefficients, root = ExpectedUpdate(CoupledMapUpdate(Categorical(3), full_curvature_root))(
        LOGITS, np.eye(3), target, WEIGHT
    )
    np.testing.assert_array_equal(coefficients, np.zeros(3))
    np.testing.assert_allclose(root @ root.T, WEIGHT * (np.diag(p) - np.outer(p, p)), atol=1e-12)


def test_a_single_logit_is_a_contrast():
    assert contrast_variance(np.array([[3.0]])).tolist() == [3.0]


def test_remembering_changes_nothing():
    update = MapUpdate(Categorical(3), per_class_curvature)
    variance = VARIANCES[per_class_curvature]
    remembering = RememberingUpdate(update)
    for _ in range(2):
        recorded = remembering(LOGITS, variance, TARGET, WEIGHT)
    for ours, theirs in zip(recorded, update(LOGITS, variance, TARGET, WEIGHT), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(remembering.predicted[0], [LOGITS, LOGITS])
    np.testing.assert_array_equal(remembering.predicted[1], [variance, variance])
    np.testing.assert_array_equal(remembering.learnt[0], LOGITS + variance * recorded[0])


def test_remembering_correlated_logits():
    remembering = RememberingUpdate(CoupledMapUpdate(Categorical(3), full_curvature_root))
    covariance = np.diag([1.0, 2.0, 3.0]) + 0.1
    a, _ = coupled(remembering, covariance)
    np.testing.assert_allclose(remembering.learnt, [LOGITS + covariance @ a])
    np.testing.assert_array_equal(remembering.predicted[0], [LOGITS])
    projection = np.eye(3) - 1 / 3
    contrasts = projection @ covariance @ projection
    np.testing.assert_allclose(remembering.predicted[1], [np.diag(contrasts)])


@curvatures
@pytest.mark.parametrize("make", [MapUpdate, NewtonUpdate, partial(MapUpdate, is_stiffened=True)])
def test_many_labels_at_once_are_each_on_its_own(make, curvature):
    update, rng = make(Categorical(3), curvature), np.random.default_rng(0)
    logits, targets = rng.normal(size=(9, 3)), np.eye(3)[rng.integers(3, size=9)]
    variance = np.exp(rng.normal(size=(9, len(VARIANCES[curvature]))))
    weights = np.array([1.0, 0.0, 3.0] * 3)
    prior = 2 * variance.max(axis=1)
    problem = logits, variance, targets, weights[:, None], prior[:, None]
    many = update.at_once(*map(torch.from_numpy, problem))
    for row in range(9):
        one = update(logits[row], variance[row], targets[row], weights[row], prior[row])
        for ours, theirs in zip(many, one, strict=True):
            np.testing.assert_allclose(ours[row], theirs, rtol=1e-8)


@curvatures
@pytest.mark.parametrize("make", [MapUpdate, NewtonUpdate])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_curvature_of_a_sure_label_keeps_its_digits(make, curvature, label):
    """Where the label is the sure one, and where it is not and cannot move the logits far."""
    update, logits, variance = make(Categorical(3), curvature), np.array([40.0, 0, -20]), 1e-3
    size = len(VARIANCES[curvature])
    target = np.eye(3)[label]
    a, h = update(logits, np.full(size, variance), target, WEIGHT)
    at = logits + variance * a if make is MapUpdate else logits
    p, complement = reference.mean(at)
    expected = p * complement if size == 3 else [p[0] * complement[0]]
    np.testing.assert_allclose(h, WEIGHT * np.array(expected), rtol=1e-11)
