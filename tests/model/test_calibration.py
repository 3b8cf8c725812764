import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from laplace_al.model.calibration import Calibration, Observation, scores_at, weight_of_classes
from laplace_al.model.leave_one_out import LeftOut
from laplace_al.model.likelihoods import Bernoulli, Categorical, likelihood_of
from laplace_al.model.links import mean_field, plug_in


def predictions(n_classes, *, n=1500, sharpness=3.0, seed=0):
    """Logits whose labels are drawn from their softmax, made ``1 / sharpness`` as sure."""
    rng = np.random.default_rng(seed)
    likelihood = likelihood_of(n_classes)
    logits = torch.from_numpy(2 * rng.normal(size=(n, likelihood.n_outputs)))
    p = likelihood.log_probabilities(logits).exp().numpy()
    labels = (p.cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)
    targets = likelihood.encode(torch.from_numpy(labels.astype(float)))
    return likelihood, LeftOut(logits / sharpness, 0 * logits + 0.1), targets


def fitted(seen):
    scores = functools.partial(scores_at, seen)
    return Calibration.fit(scores, weight_of_classes(seen.targets, seen.weights))


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_the_temperature_is_that_of_the_labels(n_classes, sharpness):
    likelihood, left_out, targets = predictions(n_classes, sharpness=sharpness)
    ones = torch.ones(len(targets)).double()
    calibration = fitted(Observation(plug_in, likelihood, left_out, targets, ones))

    def loss(log_temperature):
        logits = left_out.logits / np.exp(log_temperature)
        data = likelihood.negative_log_likelihood(logits, targets).sum()
        return float(data) + (log_temperature / 1.5) ** 2 / 2

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-6})
    assert np.log(calibration.temperature) == pytest.approx(best.x, abs=0.01)
    assert np.log(calibration.temperature * sharpness) == pytest.approx(0, abs=0.25)


def test_the_scale_of_the_variance_is_the_best_of_a_few():
    likelihood, left_out, targets = predictions(3)
    ones = torch.ones(len(targets)).double()
    rng = np.random.default_rng(1)
    variance = torch.from_numpy(np.exp(rng.normal(size=(len(targets), 1)))) * 2
    # labels of mean-field probabilities: variances matter as they are
    logits = mean_field(3 * left_out.logits, variance)
    p = torch.softmax(logits, dim=1).numpy()
    labels = (p.cumsum(axis=1) < rng.uniform(size=(len(p), 1))).sum(axis=1)
    targets = likelihood.encode(torch.from_numpy(labels.astype(float)))
    seen = LeftOut(3 * left_out.logits, variance)
    calibration = fitted(Observation(mean_field, likelihood, seen, targets, ones))
    assert calibration.variance_scale in {0.3, 1.0, 3.0}

    def loss(calibrated):
        return likelihood.negative_log_likelihood(calibrated, targets).sum()

    assert loss(calibration.apply(mean_field, *seen)) <= loss(
        fitted(Observation(plug_in, likelihood, seen, targets, ones)).apply(plug_in, *seen)
    )


def test_weights_are_repetitions():
    likelihood, left_out, targets = predictions(3)
    weights = torch.from_numpy(np.random.default_rng(0).integers(0, 4, len(targets)).astype(float))
    weighted = fitted(Observation(mean_field, likelihood, left_out, targets, weights))
    rows = np.repeat(np.arange(len(targets)), weights.long())
    repeated = fitted(
        Observation(
            mean_field,
            likelihood,
            LeftOut(left_out.logits[rows], left_out.variance[rows]),
            targets[rows],
            torch.ones(len(rows)).double(),
        )
    )
    np.testing.assert_allclose(weighted.scores, repeated.scores)
    assert weighted.temperature == pytest.approx(repeated.temperature)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_one_label_of_each_class_says_nothing(n_classes):
    likelihood = likelihood_of(n_classes)
    targets = likelihood.encode(torch.arange(n_classes).double())
    wrong = LeftOut(-5 * targets, torch.ones_like(targets))
    ones = torch.ones(n_classes).double()
    calibration = fitted(Observation(plug_in, likelihood, wrong, targets, ones))
    assert (calibration.temperature, calibration.variance_scale) == (1.0, 1.0)
    twice = [torch.cat([part, part]) for part in (*wrong, targets, ones)]
    calibration = fitted(Observation(plug_in, likelihood, LeftOut(*twice[:2]), *twice[2:]))
    assert calibration.temperature > 2


def test_no_labels_push_it_to_its_bounds():
    likelihood = likelihood_of(2)
    targets = torch.tensor([[0.0], [1.0]] * 5).double()
    right = LeftOut(20 * (2 * targets - 1), torch.ones_like(targets))
    ones = torch.ones(10).double()
    assert 0.1 < fitted(Observation(plug_in, likelihood, right, targets, ones)).temperature < 10
    wrong = LeftOut(-right.logits, right.variance)
    temperature = fitted(Observation(plug_in, likelihood, wrong, targets, ones)).temperature
    assert 5 < temperature <= np.exp(4) + 1e-9


def test_a_stream_adds_what_it_would_have_fitted():
    likelihood, left_out, targets = predictions(3)
    ones = torch.ones(len(targets)).double()
    whole = Calibration().with_labels(Observation(plug_in, likelihood, left_out, targets, ones))
    parts = Calibration()
    for rows in torch.arange(len(targets)).split(7):  # more than stay pending
        some = LeftOut(left_out.logits[rows], left_out.variance[rows])
        parts = parts.with_labels(Observation(plug_in, likelihood, some, targets[rows], ones[rows]))
    np.testing.assert_allclose(parts.scores, whole.scores)
    expected = fitted(Observation(plug_in, likelihood, left_out, targets, ones))
    assert parts.temperature == pytest.approx(expected.temperature)


def test_forgetting_goes_back_to_the_prior():
    likelihood, left_out, targets = predictions(3, sharpness=5.0)
    ones = torch.ones(len(targets)).double()
    calibration = fitted(Observation(plug_in, likelihood, left_out, targets, ones))
    faded = calibration.forget(0.01)
    np.testing.assert_allclose(faded.scores, 0.01 * calibration.scores)
    assert calibration.temperature < faded.temperature < calibration.forget(0.0).temperature == 1.0


def test_it_is_a_value():
    calibration = Calibration()
    assert copy.deepcopy(calibration) is calibration
    likelihood, left_out, targets = predictions(3)
    seen = Observation(plug_in, likelihood, left_out, targets, torch.ones(len(targets)).double())
    other = calibration.with_labels(seen)
    assert not calibration.is_informed
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(other)).scores, other.scores)


def test_labels_of_more_classes_are_pending_beside_those_of_fewer():
    calibration, sums = Calibration(), 0
    for n_classes in (2, 3, 3, 10):
        likelihood, left_out, targets = predictions(n_classes)
        ones = torch.ones(len(targets)).double()
        seen = Observation(mean_field, likelihood, left_out, targets, ones)
        calibration = calibration.with_labels(seen)
        sums = sums + Calibration().with_labels(seen).scores
    np.testing.assert_allclose(calibration.scores, sums)


def test_the_mean_is_divided_and_the_variance_multiplied():
    logits, variance = torch.ones(2, 3), torch.ones(2)
    scores = np.zeros(41)
    scores[24:27] = [0, 1e6, 0]  # log T = 1
    calibration = Calibration(scores, variance_scale=3.0)
    expected = mean_field(logits / np.e, 3 * variance)
    torch.testing.assert_close(calibration.apply(mean_field, logits, variance), expected)


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("link", [plug_in, mean_field])
def test_when_it_is_asked_makes_no_difference(n_classes, link):
    """But for the last digit: a vector of labels is rounded otherwise than one of them."""
    rng = np.random.default_rng(0)
    likelihood = likelihood_of(n_classes)
    asked, kept, unasked = Calibration(), Calibration(), Calibration()
    for size in [1, 1, 3, 1, 70, 2, *[1] * 100, 5]:
        logits = torch.from_numpy(rng.normal(size=(size, likelihood.n_outputs)))
        targets = likelihood.encode(torch.from_numpy(rng.integers(n_classes, size=size)).double())
        weights = torch.from_numpy(rng.uniform(size=size))
        seen = Observation(link, likelihood, LeftOut(logits, logits.exp()), targets, weights)
        asked, kept = asked.with_labels(seen), pickle.loads(pickle.dumps(kept.with_labels(seen)))
        unasked = unasked.with_labels(seen)
        assert asked.temperature > 0
        assert len(unasked.pending) < 64
    np.testing.assert_allclose(asked.scores, unasked.scores, rtol=1e-14)
    np.testing.assert_allclose(kept.scores, unasked.scores, rtol=1e-14)


def test_sums_of_two_halves_are_the_fit_of_all():
    rng = np.random.default_rng(0)
    predicted = LeftOut(torch.tensor(rng.normal(size=(40, 3))), torch.tensor(rng.random((40, 3))))
    targets = torch.eye(3, dtype=torch.float64)[torch.tensor(np.arange(40) % 3)]
    weights = torch.tensor(rng.random(40))

    def seen(rows):
        part = LeftOut(*(each[rows] for each in predicted))
        return Observation(mean_field, Categorical(3), part, targets[rows], weights[rows])

    whole, halves = fitted(seen(slice(None))), [seen(slice(15)), seen(slice(15, None))]

    def total(scales, places):
        return sum(scores_at(half, scales, places) for half in halves)

    weights = sum(weight_of_classes(half.targets, half.weights) for half in halves)
    summed = Calibration.fit(total, weights)
    assert summed.temperature == pytest.approx(whole.temperature)
    assert summed.variance_scale == whole.variance_scale


def test_what_was_seen_apart_is_merged():
    def after(start, *logits):
        for logit in logits:
            predicted = LeftOut(torch.tensor([[logit]]), torch.zeros(1, 1))
            start = start.with_labels(
                Observation(plug_in, Bernoulli(), predicted, torch.ones(1, 1), torch.ones(1))
            )
        return start

    start = after(Calibration(), 1.0)
    merged = after(start, -2.0).merge(after(start, 3.0, 0.5), start)
    np.testing.assert_allclose(merged.scores, after(start, -2.0, 3.0, 0.5).scores, rtol=1e-5)


@pytest.mark.parametrize(("lead", "expected"), [(0.0, 1.0), (1e-3, 3.0)])
def test_scales_that_rounding_alone_tells_apart_are_equal(lead, expected):
    rng = np.random.default_rng(0)

    def scores(scales, places):
        rounded = 1e-12 * rng.normal(size=(len(scales), len(places)))
        return rounded - 100.0 + lead * (np.array(scales)[:, None] == 3.0)

    assert Calibration.fit(scores, torch.tensor([2.0, 0.0])).variance_scale == expected


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_weight_of_each_class(n_classes):
    targets = likelihood_of(n_classes).encode(torch.tensor([0.0, 1.0, 1.0]))
    found = weight_of_classes(targets, torch.tensor([1.0, 2.0, 3.0]))
    assert found.tolist() == [1.0, 5.0, 0.0][:n_classes]
