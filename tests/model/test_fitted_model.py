import copy
import dataclasses
import functools
import pickle

import numpy as np
import pytest
import torch

from laplace_al.model.fit import FitSettings, fit, model_before_labels
from laplace_al.model.fitted_model import FittedModel, Rules
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.mode import Labelled, find_mode
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.rows import RowsInMemory
from laplace_al.model.structures import STRUCTURES

N_FEATURES = 4
rng = np.random.default_rng(0)
X = rng.normal(size=(80, N_FEATURES))
WEIGHTS = rng.uniform(0.2, 2, size=80)
close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9)


def labels(n_classes):
    y = np.floor(X @ np.ones(N_FEATURES) + np.random.default_rng(1).normal(size=80))
    return np.clip(y + n_classes // 2, 0, n_classes - 1).astype(np.int64)


def data_of(n_classes, rows):
    likelihood = likelihood_of(n_classes)
    phi = torch.from_numpy(np.column_stack([X[rows], np.ones(len(X[rows]))]))
    targets = likelihood.encode(phi.new_tensor(labels(n_classes)[rows]))
    return Labelled(phi, targets, torch.from_numpy(WEIGHTS[rows]), likelihood)


def fitted(n_classes=3, *, structure="per_class", n=30, **rules):
    data, classes = data_of(n_classes, slice(n)), np.array(list("abcdefgh"[:n_classes]))
    zero = data.features.new_zeros(N_FEATURES + 1, data.likelihood.n_outputs)
    settings = FitSettings(0.3, structure, "fit", 1e-8)
    rules = Rules(**rules)
    return fit(
        RowsInMemory(data), data.features[0], zero, zero, settings, rules, classes=classes
    ).model


def unfitted(n_classes=3, *, structure="per_class", **rules):
    """Return a model that has learnt nothing, of prior precision 0.3."""
    data, classes = data_of(n_classes, slice(1)), np.array(list("abcdefgh"[:n_classes]))
    zero = data.features.new_zeros(N_FEATURES + 1, data.likelihood.n_outputs)
    settings = FitSettings(0.3, structure, "fit", 1e-8)
    return model_before_labels(data, zero, settings, Rules(**rules), classes=classes).model


def learning(model, rows):
    n_classes = len(model.classes)
    return model.labelled(X[rows], labels(n_classes)[rows], WEIGHTS[rows])


def after(model, rows):
    return model.updated(learning(model, rows))[0]


def probabilities(model):
    phi = model.completed(X)
    mean, variance = model.gaussian_logits(
        len(X), phi.__getitem__, model.posterior.predictive_variance
    )
    return model.likelihood.probabilities(model.calibrated(mean, variance)).numpy()


def numbers(model):
    """Return copies of all that a model has learnt."""
    posterior, memory = model.posterior, model.memory
    kept = () if memory is None else (memory.features, memory.targets, memory.weights)
    found = [posterior.mean, posterior.precision, *kept]
    report = [] if model.report.loo_proba is None else [model.report.loo_proba.copy()]
    return [
        *(part.numpy().copy() for part in found),
        model.calibration.scores.copy(),
        *report,
        model.classes.copy(),
    ]


def assert_same(some, others, close=np.testing.assert_array_equal):
    for one, other in zip(some, others, strict=True):
        close(one, other)


EVERY = pytest.mark.parametrize("structure", STRUCTURES)
RULES = [
    {"update": "map", "curvature": "secant"},
    {"update": "map", "curvature": "gaussian"},
    {"update": "newton", "curvature": "categorical"},
    {"update": "map", "calibration": None},
]


@EVERY
@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_labels_in_two_calls_are_learnt_as_in_one(structure, rules, n_classes):
    model = fitted(n_classes, structure=structure, **rules)
    at_once = after(model, slice(30, 60))
    in_two = after(after(model, slice(30, 40)), slice(40, 60))
    close(in_two.posterior.mean, at_once.posterior.mean)
    close(in_two.posterior.precision, at_once.posterior.precision)
    close(in_two.calibration.scores, at_once.calibration.scores)
    close(probabilities(in_two), probabilities(at_once))


@EVERY
@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_came_before_a_label_fades_by_as_much_in_two_calls_as_in_one(structure, n_classes):
    """The precision of a Gaussian curvature shows by how much."""
    model = fitted(n_classes, structure=structure, curvature="gaussian", forgetting=0.97)
    at_once = after(model, slice(30, 60))
    in_two = after(after(model, slice(30, 40)), slice(40, 60))
    close(in_two.posterior.precision, at_once.posterior.precision)


@EVERY
@pytest.mark.parametrize("start", [fitted, unfitted])
def test_what_is_remembered_is_refitted(start, structure):
    """In two calls or one, the mean is that of a fit, to a hundredth of its deviation."""
    model = start(structure=structure, memory_size=None)
    data = data_of(3, slice(60))
    prior = IsotropicPrior(torch.zeros_like(model.posterior.mean), 0.3)
    first = 30 if start is fitted else 0
    for rows in ([slice(first, 60)], [slice(first, 40), slice(40, 60)]):
        later = functools.reduce(after, rows, model)
        assert len(later.memory.features) == 60
        assert later.decrement(data) < 0.01
        mode = find_mode(data, prior, prior.mean, max_iter=100, tol=1e-8).mean
        close(later.posterior.mean, mode, atol=0.02, rtol=0.02)


def test_the_mode_of_what_is_remembered_comes_beside():
    model = fitted(memory_size=10)
    later, mode = model.updated(learning(model, slice(30, 40)))
    assert mode.converged
    assert torch.equal(later.posterior.mean, mode.mean)
    assert fitted().updated(learning(model, slice(30, 40)))[1] is None


@pytest.mark.parametrize("memory_size", [5, None])
def test_the_memory_is_as_large_as_it_may_be(memory_size):
    model = fitted(memory_size=memory_size)
    later = after(model, slice(30, 40))
    expected = learning(model, slice(30, 40)).features
    kept = later.memory.features
    assert len(kept) == (5 if memory_size else 40)
    torch.testing.assert_close(kept[-5:], expected[-5:])


def test_labels_that_may_not_be_kept_cannot_be_forgotten():
    model = fitted(memory_size=5, forgetting=0.9)
    before = numbers(model)
    with pytest.raises(ValueError, match=r"forgetting < 1 needs memory_size=0, .* got memory_size"):
        model.updated(learning(model, slice(30, 40)))
    assert_same(numbers(model), before)


def test_labels_predicted_before_they_are_learnt_calibrate():
    """Each by the labels before it, also in the same call."""
    model = unfitted()
    later = after(model, slice(40))
    assert later.calibration.is_informed
    one_by_one = functools.reduce(after, [slice(i, i + 1) for i in range(40)], model)
    close(one_by_one.calibration.scores, later.calibration.scores)
    assert after(unfitted(calibration=None), slice(40)).calibration.temperature == 1


def test_forgetting_everything_leaves_the_prior_and_the_last_label():
    faded = after(fitted(forgetting=1e-12), slice(30, 31))
    alone = after(unfitted(), slice(30, 31))
    close(faded.posterior.mean, alone.posterior.mean, atol=1e-5)
    close(faded.posterior.precision, alone.posterior.precision, rtol=1e-5, atol=1e-5)


def test_evidence_is_of_a_fit():
    model = fitted()
    later = after(model, slice(30, 31))
    assert model.report.log_evidence is not None
    assert (later.report.log_evidence, later.report.evidence_slope) == (None, None)
    assert later.report.loo_score == model.report.loo_score


@EVERY
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("memory_size", [0, None, 5])
def test_classes_are_added_in_their_places(structure, n_classes, memory_size):
    """A new class starts from the prior: uncertain, at logit 0."""
    model = fitted(n_classes, structure=structure, memory_size=memory_size, calibration=None)
    old = [1, 2, 3][:n_classes]
    classes = np.array(["A", *model.classes, "z"])
    more = model.with_classes(classes)
    assert more.classes.tolist() == classes.tolist()
    mean, variance = (
        part.numpy()
        for part in more.gaussian_logits(
            len(X), more.completed(X).__getitem__, more.posterior.variance
        )
    )
    new = [0, n_classes + 1]
    close(mean[:, new], 0)
    known = more.likelihood.probabilities(torch.from_numpy(mean[:, old])).numpy()
    logits = model.posterior.logits(model.completed(X))
    close(known, model.likelihood.probabilities(logits).numpy())
    if structure != "shared":  # of which all classes have one variance
        prior = (more.completed(X).numpy() ** 2).sum(axis=1) / more.posterior.prior_precision
        close(variance[:, new], np.column_stack([prior, prior]))
    if memory_size is None:
        shares = model.likelihood.shares(model.memory.targets)
        assert torch.equal(more.memory.targets[:, 1:-1], shares)
        assert not more.memory.targets[:, new].any()
    features, places = X[30:31], np.array([n_classes + 1])
    learnt, _ = more.updated(more.labelled(features, places, np.array([5.0])))
    assert probabilities(learnt)[30, -1] > probabilities(more)[30, -1]


def test_more_classes_than_fit_into_memory_are_refused(monkeypatch):
    model = fitted(structure="per_class")
    monkeypatch.setattr("laplace_al.model.structures.available_memory", lambda device: 3000.0)
    with pytest.raises(ValueError, match="covariance='per_class' needs"):
        model.with_classes(np.array(list("abcdefgh")))


@EVERY
@pytest.mark.parametrize("n_classes", [2, 3])
def test_models_that_have_learnt_apart_are_merged(structure, n_classes):
    """Of a Gaussian curvature, the precision is that of all labels; the calibration is so too."""
    start = fitted(n_classes, structure=structure, curvature="gaussian")
    one, other = after(start, slice(30, 40)), after(start, slice(40, 60))
    merged = one.merged(other, start)
    close(merged.posterior.precision, after(start, slice(30, 60)).posterior.precision)
    close(
        merged.calibration.scores + start.calibration.scores,
        one.calibration.scores + other.calibration.scores,
    )
    assert_same(numbers(one.merged(start, start))[:2], numbers(one)[:2], close)
    assert_same(numbers(other.merged(one, start))[:2], numbers(merged)[:2], close)


def test_models_from_the_prior_are_merged():
    start = unfitted(curvature="gaussian")
    one, other = after(start, slice(10)), after(start, slice(10, 30))
    close(one.merged(other, None).posterior.precision, after(start, slice(30)).posterior.precision)


def test_the_same_rules_give_the_model_itself():
    model = fitted()
    assert model.under(Rules()) is model
    other = model.under(Rules(predictive="plug_in"))
    assert other.rules.predictive == "plug_in"
    assert other.posterior is model.posterior
    assert model.rules.predictive == "mean_field"
    assert np.abs(probabilities(other) - probabilities(model)).max() > 1e-3


@pytest.mark.parametrize("predictive", ["mean_field", "plug_in", "bridge"])
def test_without_its_posterior_it_predicts_from_known_logits(predictive):
    model = fitted(predictive=predictive, memory_size=None)
    light = model.without_posterior()
    assert (light.posterior, light.memory) == (None, None)
    assert len(pickle.dumps(light)) < len(pickle.dumps(model))
    logits, variance = torch.from_numpy(X[:, :3]), torch.from_numpy(X[:, :3] ** 2)
    assert torch.equal(light.calibrated(logits, variance), model.calibrated(logits, variance))
    assert light.classes is model.classes


def test_it_is_frozen():
    model = fitted()
    for field in dataclasses.fields(FittedModel):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(model, field.name, None)


@EVERY
@pytest.mark.parametrize("memory_size", [0, None, 5])
def test_pickles_and_deep_copies_are_the_model(structure, memory_size):
    model = fitted(structure=structure, memory_size=memory_size)
    model = after(model, slice(30, 33))
    assert copy.deepcopy(model) is model  # a value
    loaded = pickle.loads(pickle.dumps(model))
    assert_same(numbers(loaded), numbers(model))
    assert (loaded.rules, loaded.seed, loaded.has_intercept) == (model.rules, 0, True)
    assert loaded.report.loo_score == model.report.loo_score
    np.testing.assert_array_equal(probabilities(loaded), probabilities(model))
    one, other = after(loaded, slice(33, 40)), after(model, slice(33, 40))
    assert_same(numbers(one), numbers(other))


def test_what_it_has_worked_out_is_not_pickled():
    model = fitted()
    fresh = len(pickle.dumps(model))
    assert model.update_rule is model.update_rule
    assert len(pickle.dumps(model)) == fresh


@EVERY
@pytest.mark.parametrize("memory_size", [0, None])
def test_nothing_that_it_returns_changes_it(structure, memory_size):
    model = fitted(structure=structure, memory_size=memory_size)
    before = numbers(model)
    data = learning(model, slice(30, 60))
    given = [part.clone() for part in data[:3]]
    later = after(model, slice(30, 60))
    model.updated(data)
    model.with_classes(np.array(list("abcz")))
    later.merged(model, model)
    model.decrement(data)
    assert all(torch.equal(one, other) for one, other in zip(given, data[:3], strict=True))
    phi = model.completed(X)
    mean, variance = model.gaussian_logits(len(X), phi.__getitem__, model.posterior.variance)
    draws, entropy = model.averaged(len(X), phi.__getitem__, 5)
    for part in (
        *model.coefficients(),
        model.class_weights,
        phi,
        *data[:3],
        model.calibrated(mean, variance),
        mean,
        variance,
        draws,
        entropy,
        *model.drawn_weights(5),
    ):
        part *= 0
    assert_same(numbers(model), before)
    np.testing.assert_array_equal(model.class_weights, np.ones(3))


def test_features_are_completed():
    model = fitted()
    phi = model.completed(X.astype(np.float32))
    assert phi.dtype == model.posterior.mean.dtype
    assert phi.shape == (len(X), N_FEATURES + 1)
    assert (phi[:, -1] == 1).all()
    without = dataclasses.replace(model, has_intercept=False)
    assert (model.n_features, without.n_features) == (N_FEATURES, N_FEATURES + 1)
    assert without.completed(phi.numpy()).shape == phi.shape
    with pytest.raises(ValueError, match=r"X is too large: products .* overflow in torch.float64"):
        model.completed([[1e200] * N_FEATURES])


@pytest.mark.parametrize("has_intercept", [True, False])
def test_coefficients_make_the_logits(has_intercept):
    model = dataclasses.replace(fitted(), has_intercept=has_intercept)
    coef, intercept = model.coefficients()
    inputs = X if has_intercept else np.column_stack([X, np.ones(len(X))])
    expected = model.posterior.logits(model.completed(inputs))
    close(inputs @ coef.T + intercept, expected)


def test_logits_of_many_rows_are_those_of_all():
    model, many = fitted(), np.random.default_rng(0).normal(size=(5000, N_FEATURES))
    phi, sizes = model.completed(many), []

    def rows(here):
        sizes.append(len(phi[here]))
        return phi[here]

    mean, variance = model.gaussian_logits(len(phi), rows, model.posterior.variance)
    assert len(sizes) > 1
    torch.testing.assert_close(mean, model.posterior.logits(phi))
    torch.testing.assert_close(variance, model.posterior.variance(phi))


def test_the_same_seed_draws_the_same_weights():
    model = fitted()
    one, same, other = (
        torch.cat(list(model.drawn_weights(40, seed))) for seed in (None, model.seed, 1)
    )
    assert one.shape == (40, *model.posterior.mean.shape)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_labels_that_cannot_be_learnt_are_refused(monkeypatch):
    model = fitted()
    before = numbers(model)

    def update(*args):
        raise ArithmeticError("no mode")

    monkeypatch.setattr(FittedModel, "update_rule", property(lambda model: update))
    with pytest.raises(ValueError, match=r"too large beside prior_precision=0.3 .*: no mode\. Sc"):
        after(model, slice(30, 31))
    assert_same(numbers(model), before)
