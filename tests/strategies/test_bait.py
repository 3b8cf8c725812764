import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import BAIT
from laplace_al.strategies.bait import Chosen

X = np.random.default_rng(0).normal(size=(80, 4))
PRIOR_PRECISION = 0.3


class Explicit:
    """Matrices built and inverted anew for every candidate."""

    def __init__(self, classifier, labelled, pool):
        self.prior_precision = classifier.prior_precision
        self.phi, self.h = self.rows(classifier, pool)
        self.pool = (self.phi.T * self.h) @ self.phi
        phi, h = self.rows(classifier, labelled)
        self.seen = np.sqrt(h)[:, None] * phi
        self.start = self.prior_precision * np.eye(phi.shape[1]) + (phi.T * h) @ phi

    @staticmethod
    def rows(classifier, X):
        phi = X
        if classifier.fit_intercept:
            phi = np.hstack([X, np.ones((len(X), 1))])
        logits = phi @ classifier.posterior_.mean.numpy()
        p = expit(logits) if logits.shape[1] == 1 else softmax(logits, axis=1)
        return phi, (p * (1 - p)).sum(axis=1)

    def trace(self, chosen):
        phi, h = self.phi[chosen], self.h[chosen]
        return np.trace(np.linalg.inv(self.start + (phi.T * h) @ phi) @ self.pool)

    def choose(self, n_instances, n_added, candidates):
        chosen = []
        while len(chosen) < n_added:
            left = [i for i in np.flatnonzero(candidates) if i not in chosen]
            chosen.append(min(left, key=lambda i: self.trace([*chosen, i])))
        while len(chosen) > n_instances:
            drop = min(chosen, key=lambda i: self.trace([j for j in chosen if j != i]))
            chosen.remove(drop)
        return chosen


class Orthogonal(Explicit):
    """From rows, which are not squared: right where the prior is lost in a sum of squares."""

    def trace(self, chosen):
        rows = np.sqrt(self.h)[:, None] * self.phi
        prior = np.sqrt(self.prior_precision) * np.eye(self.phi.shape[1])
        factor = np.linalg.qr(np.vstack([prior, self.seen, rows[chosen]]), mode="r")
        return np.square(np.linalg.solve(factor.T, rows.T)).sum()


def learner(n_classes, pool=X, **parameters):
    rng = np.random.default_rng(1)
    initial = rng.normal(size=(12, 4)) * [1, 1, 1, 0.1]
    return ActiveLearner(
        LaplaceUpdateClassifier(prior_precision=PRIOR_PRECISION, **parameters),
        BAIT(),
        pool,
        X_initial=initial,
        y_initial=np.arange(12) % n_classes,
    )


@pytest.mark.parametrize("oversample", [1, 2, 2.5])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_equals_explicit_inverses_for_every_candidate(n_classes, fit_intercept, oversample):
    active = learner(n_classes, fit_intercept=fit_intercept)
    explicit = Explicit(active.estimator_, active.instances_, X)
    candidates = np.random.default_rng(2).random(80) < 0.7
    positions = BAIT(oversample=oversample, random_state=0).query(
        active, X, 6, candidates=candidates
    )
    assert positions.dtype == np.int64
    expected = explicit.choose(6, int(np.ceil(oversample * 6)), candidates)
    np.testing.assert_array_equal(positions, expected)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_utility_is_what_the_trace_loses(covariance):
    active = learner(3, covariance=covariance)
    explicit = Explicit(active.estimator_, active.instances_, X)
    _, utilities = BAIT().query(active, X, return_utilities=True)
    expected = [explicit.trace([]) - explicit.trace([i]) for i in range(80)]
    np.testing.assert_allclose(utilities, expected, rtol=1e-9)


def test_a_classifier_alone_has_no_labelled_instances():
    classifier = LaplaceUpdateClassifier(prior_precision=PRIOR_PRECISION).fit(X, X[:, 0] > 0)
    _, utilities = BAIT().query(classifier, X, return_utilities=True)
    explicit = Explicit(classifier, X[:0], X)
    expected = [explicit.trace([]) - explicit.trace([i]) for i in range(80)]
    np.testing.assert_allclose(utilities, expected, rtol=1e-9)


def of_large_features(scale, prior_precision, n_classes, n_labelled):
    """A learner of some labels, whose classifier has seen enough for unsure predictions."""
    rng = np.random.default_rng(3)
    A = scale * rng.normal(size=(60, 4))
    y = (A[:, 0] / scale + rng.normal(size=60) > 0) + (n_classes - 2) * rng.integers(0, 2, size=60)
    classifier = LaplaceUpdateClassifier(prior_precision=prior_precision)
    if not n_labelled:
        return classifier.fit(A, y)
    start = {"X_initial": A[:n_labelled], "y_initial": y[:n_labelled]}
    return ActiveLearner(classifier, BAIT(), scale * X, **start)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("oversample", [1, 2, 8])
@pytest.mark.parametrize("n_labelled", [0, 30])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("scale", "prior_precision"), [(1e4, 1.0), (1e6, 1.0), (1e6, 1e-2)])
def test_large_features(scale, prior_precision, n_classes, n_labelled, oversample):
    """At |phi|² / lambda of up to 1e14, where sums of squares have no digit left of lambda."""
    active = of_large_features(scale, prior_precision, n_classes, n_labelled)
    classifier = active if n_labelled == 0 else active.estimator_
    labelled = scale * X[:0] if n_labelled == 0 else active.instances_
    explicit = Orthogonal(classifier, labelled, scale * X)
    positions = BAIT(oversample=oversample, random_state=0).query(active, scale * X, 4)
    expected = explicit.choose(4, 4 * oversample, np.full(80, True))
    np.testing.assert_array_equal(np.sort(positions), np.sort(expected))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_prior_that_is_lost_beside_the_features():
    classifier = of_large_features(1e6, 1e-12, 2, 0)
    pool = 1e6 * np.repeat(X[:3], 4, axis=0)  # fewer directions than weights
    positions, utilities = BAIT(random_state=0).query(classifier, pool, 3, return_utilities=True)
    assert sorted(positions // 4) == [0, 1, 2]
    explicit = Orthogonal(classifier, pool[:0], pool)
    expected = [explicit.trace([]) - explicit.trace([i]) for i in range(12)]
    np.testing.assert_allclose(utilities, expected, rtol=1e-3)  # eps times |phi| / sqrt(lambda)


@pytest.mark.parametrize("n", [1, 5, 6, 8, 9, 40])
def test_losses_are_what_the_trace_gains(n):
    """Of so few that directions are unknown without one, and of more."""
    rng = np.random.default_rng(0)
    rows, root, pool = (rng.normal(size=shape) for shape in [(n, 4), (4, 4), (9, 4)])
    pool = pool.T @ pool

    def trace(is_in):
        precision = np.linalg.inv(root @ root.T) + rows[is_in].T @ rows[is_in]
        return np.trace(np.linalg.inv(precision) @ pool)

    chosen, is_in = Chosen(*map(torch.from_numpy, (rows, root, pool))), np.full(n, True)
    for position in rng.permutation(n):
        losses, left = chosen.losses(), np.flatnonzero(is_in)
        expected = [trace(is_in & (np.arange(n) != i)) - trace(is_in) for i in left]
        np.testing.assert_allclose(losses[left], expected, rtol=1e-7)
        is_in[position] = False
        chosen.drop(position)


def test_a_long_batch_does_not_drift():
    active = learner(3)
    explicit = Explicit(active.estimator_, active.instances_, X)
    positions = BAIT(oversample=1, random_state=0).query(active, X, 80)
    for i in (20, 40, 60, 75):
        left = positions[i:]
        best = min(explicit.trace([*positions[:i], j]) for j in left)
        assert explicit.trace(positions[: i + 1]) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_identical_instances_are_in_random_order(n_classes):
    pool = np.full((20, 4), 0.7)
    active = learner(n_classes, pool)
    orders = {tuple(BAIT(random_state=s).query(active, pool, 5)) for s in range(10)}
    assert len(orders) == 10


def test_constant_features_and_the_whole_pool():
    classifier = LaplaceUpdateClassifier().fit(np.ones((10, 4)), np.arange(10) % 3)
    positions = BAIT(random_state=0).query(classifier, np.ones((9, 4)), 9)
    assert sorted(positions) == list(range(9))


def test_single_precision_features_are_only_read():
    pool = X.astype(np.float32)
    pool.flags.writeable = False
    active = learner(3, pool)
    positions = BAIT(random_state=0).query(active, pool, 10)
    np.testing.assert_array_equal(positions, BAIT(random_state=0).query(active, X, 10))


def test_a_learner_without_a_posterior_is_refused():
    with pytest.raises(TypeError, match="BAIT needs the posterior of a LaplaceUpdateClassifier"):
        BAIT().query(LogisticRegression().fit(X, X[:, 0] > 0), X)


@pytest.mark.parametrize("wrong", [0.5, "2"])
def test_a_wrong_oversample_is_refused(wrong):
    with pytest.raises(ValueError, match="'oversample' parameter"):
        BAIT(oversample=wrong).query(learner(2), X)
