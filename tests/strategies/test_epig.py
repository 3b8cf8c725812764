import copy
import itertools

import numpy as np
import pytest
from scipy.stats import entropy, spearmanr
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import EPIG, SequentialBatch, epig, scores
from laplace_al.strategies._view import LearnerView

rng = np.random.default_rng(0)
X, y = rng.normal(size=(20, 3)), np.arange(20) % 3
POOL, TARGET = rng.normal(size=(9, 3)), rng.normal(size=(6, 3))


def covariances(clf, X, others):
    """Calibrated covariances (n, m, C, C) of the logits of pairs of inputs."""
    phi, psi = (np.c_[part, np.ones(len(part))] for part in (X, others))
    covariance = clf.posterior_.covariance.numpy()
    n_outputs = clf.posterior_.mean.shape[1]
    if clf.covariance_ == "shared":
        covariance = np.tile(covariance.reshape(1, 4, 4), (n_outputs, 1, 1))
    if clf.covariance_ == "full":
        whole = covariance.reshape(4, n_outputs, 4, n_outputs)
        shift = np.eye(n_outputs) - (n_outputs > 1) / n_outputs  # what softmax ignores
        found = np.einsum("nd,dkel,me->nmkl", phi, whole, psi)
        found = shift @ found @ shift
    else:
        each = np.einsum("nd,kde,me->nmk", phi, covariance.reshape(n_outputs, 4, 4), psi)
        found = each[..., None] * np.eye(n_outputs)
    return clf.pool_state(X).model.calibration.variance_scale * found


def dense(clf, X, others):
    """Information (n, m) of pairs of labels, ``tr(H C H' C^T) / 2``, one pair at a time."""
    both = covariances(clf, X, others)
    parts = []
    for inputs in (X, others):
        p = clf.predict_proba(inputs)[:, -both.shape[2] :]
        own = covariances(clf, inputs, inputs)
        variance = np.array([np.diag(own[i, i]) for i in range(len(inputs))])
        shrink = 1 / np.sqrt(1 + np.pi / 8 * variance)
        parts.append([(np.diag(q) - np.outer(q, q), s) for q, s in zip(p, shrink, strict=True)])
    gains = np.zeros(both.shape[:2])
    for i, j in np.ndindex(gains.shape):
        (h, left), (g, right) = parts[0][i], parts[1][j]
        c = left[:, None] * both[i, j] * right
        gains[i, j] = np.trace(h @ c @ g @ c.T) / 2
    return gains


def by_quadrature(clf, X, others, n_nodes):
    """Information (n, m) of pairs of labels under Gaussian logits, without drawing any."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    n_outputs = clf.posterior_.mean.shape[1]
    grid = np.array(list(itertools.product(nodes, repeat=2 * n_outputs)))
    mass = np.prod(list(itertools.product(weights, repeat=2 * n_outputs)), axis=1)
    mass /= mass.sum()
    mean = [clf.pool_state(part).logits.numpy() / clf.temperature_ for part in (X, others)]
    own = [covariances(clf, part, part) for part in (X, others)]
    both = covariances(clf, X, others)
    gains = np.zeros(both.shape[:2])
    for i, j in np.ndindex(gains.shape):
        whole = np.block([[own[0][i, i], both[i, j]], [both[i, j].T, own[1][j, j]]])
        logits = grid @ np.linalg.cholesky(whole).T + np.concatenate([mean[0][i], mean[1][j]])
        halves = [logits[:, :n_outputs], logits[:, n_outputs:]]
        if n_outputs == 1:
            halves = [np.c_[np.zeros(len(half)), half] for half in halves]
        p, q = (np.exp(half - half.max(axis=1, keepdims=True)) for half in halves)
        p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
        joint = (mass[:, None] * p).T @ q
        apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        gains[i, j] = entropy(joint.ravel(), apart.ravel())
    return gains


def utilities(clf, pool=POOL, target=TARGET):
    return EPIG(target).query(clf, pool, return_utilities=True)[1]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
@pytest.mark.parametrize("calibration", [None, "loo"])
@pytest.mark.parametrize("at_once", [(1024, 2**22), (4, 4)])
def test_the_utility_is_the_information_about_each_target(
    monkeypatch, n_classes, covariance, calibration, at_once
):
    monkeypatch.setattr(epig, "_TARGETS_AT_ONCE", at_once[0])
    monkeypatch.setattr(epig, "_NUMBERS_AT_ONCE", at_once[1])
    clf = LaplaceUpdateClassifier(covariance=covariance, calibration=calibration)
    clf.fit(X, y % n_classes)
    expected = dense(clf, POOL, TARGET).mean(axis=1)
    np.testing.assert_allclose(utilities(clf), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("covariance", ["shared", "per_class"])
def test_little_information_is_exact(n_classes, covariance):
    """The closed form is the first term of a series in the covariances."""
    errors = []
    for weight in (100.0, 1000.0):
        clf = LaplaceUpdateClassifier(
            prior_precision=weight, covariance=covariance, calibration=None, curvature="categorical"
        ).fit(X, y % n_classes, sample_weight=np.full(20, weight))
        exact = by_quadrature(clf, POOL, TARGET, 5 if n_classes == 3 else 20).mean(axis=1)
        errors.append(np.abs(utilities(clf) / exact - 1).max())
    assert errors[0] < 0.1
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("covariance", ["shared", "per_class"])
def test_much_information_is_of_the_right_order_and_rank(n_classes, covariance):
    clf = LaplaceUpdateClassifier(prior_precision=0.5, covariance=covariance, calibration=None)
    clf.fit(X, y % n_classes)
    pool = np.random.default_rng(3).normal(size=(30, 3))
    exact = by_quadrature(clf, pool, TARGET, 5 if n_classes == 3 else 20).mean(axis=1)
    ours = utilities(clf, pool)
    assert 0.5 < ours.mean() / exact.mean() < 1.5
    assert spearmanr(ours, exact).statistic > 0.9


def test_many_classes_do_not_bias_it():
    """Few draws find information where there is none; many come down to the closed form."""
    inputs = np.random.default_rng(1).normal(size=(90, 6))
    clf = LaplaceUpdateClassifier(covariance="shared", prior_precision=0.1, calibration=None)
    clf.fit(inputs[:60], np.arange(60) % 30)
    pool, target = inputs[60:80], inputs[80:]

    def drawn(n_samples):
        draws, targets = (clf.pool_state(part).sample_proba(n_samples) for part in (pool, target))
        return scores.expected_information_gain_of_predictions(draws, targets)

    ours, few, many = utilities(clf, pool, target), drawn(30), drawn(10_000)
    assert few.mean() > 3 * many.mean()
    assert 0.6 < ours.mean() / many.mean() < 1.4
    assert spearmanr(ours, many).statistic > 0.9 > spearmanr(few, many).statistic


def test_no_information_is_zero():
    """Labels of inputs without a feature in common, as there is no intercept."""
    clf = LaplaceUpdateClassifier(fit_intercept=False, covariance="shared").fit(
        np.eye(3), [0, 1, 2]
    )
    assert utilities(clf, [[2.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
def test_targets_know_of_hypothetical_labels(covariance):
    clf = LaplaceUpdateClassifier(covariance=covariance).fit(X, y)
    view = LearnerView(clf, POOL)
    later = view.after([2], view.state.copy().observe(2, 0))
    updated = copy.deepcopy(clf).set_params(calibration=None).partial_fit(POOL[2:3], [0])
    target = later.state_of(TARGET)
    np.testing.assert_allclose(target.logits, updated.pool_state(TARGET).logits, atol=1e-10)
    np.testing.assert_allclose(target.variance, updated.pool_state(TARGET).variance, atol=1e-10)
    found = EPIG(TARGET).utilities(later, None)
    np.testing.assert_allclose(found, dense(updated, POOL, TARGET).mean(axis=1))
    assert not np.allclose(found, EPIG(TARGET).utilities(view, None))


def test_batches_of_expected_labels_count_shared_information_once():
    clf = LaplaceUpdateClassifier(prior_precision=0.5).fit(X, y)
    twins = np.repeat(POOL, 2, axis=0)
    at_once = EPIG(TARGET).query(clf, twins, 2)
    assert at_once[0] // 2 == at_once[1] // 2
    batch = SequentialBatch(EPIG(TARGET), labels="expected").query(clf, twins, 2)
    assert batch[0] // 2 == at_once[0] // 2 != batch[1] // 2


def test_targets_go_through_the_pipeline():
    clf = LaplaceUpdateClassifier()
    pipeline = make_pipeline(StandardScaler(), clf).fit(10 * X + 5, y)
    by_hand = clone(clf).fit(pipeline[0].transform(10 * X + 5), y)
    found = utilities(pipeline, 10 * POOL + 5, 10 * TARGET + 5)
    pool, target = (pipeline[0].transform(10 * part + 5) for part in (POOL, TARGET))
    np.testing.assert_allclose(found, utilities(by_hand, pool, target), atol=1e-9)


def test_a_clone_keeps_the_targets():
    strategy = clone(EPIG(TARGET, random_state=1))
    np.testing.assert_array_equal(strategy.get_params()["X_target"], TARGET)
    assert strategy.random_state == 1
