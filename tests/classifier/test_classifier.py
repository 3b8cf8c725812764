import inspect
import warnings

import numpy as np
import pytest
import torch
from classifier_cases import (
    N_CLASSES,
    PLAIN,
    SETTINGS,
    X,
    data,
    y,
)
from scipy.linalg import LinAlgWarning
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils import compute_class_weight

from laplace_al import LaplaceUpdateClassifier


class TestFit:
    @pytest.mark.parametrize("n_classes", N_CLASSES)
    @pytest.mark.parametrize("prior_precision", [0.01, 1.0, 50.0])
    def test_the_mode_is_that_of_logistic_regression(self, n_classes, prior_precision):
        A, b = data(n_classes)
        clf = LaplaceUpdateClassifier(prior_precision=prior_precision, **PLAIN)
        twin = LogisticRegression(
            C=1 / prior_precision, fit_intercept=False, tol=1e-10, max_iter=10_000
        )
        augmented = np.c_[A, np.ones(len(A))]
        np.testing.assert_allclose(
            clf.fit(A, b).predict_proba(A),
            twin.fit(augmented, b).predict_proba(augmented),
            atol=1e-5,
        )
        assert clf.coef_.shape == twin.coef_[:, :-1].shape
        np.testing.assert_allclose(clf.coef_, twin.coef_[:, :-1], atol=1e-4)
        np.testing.assert_allclose(clf.intercept_, twin.coef_[:, -1], atol=1e-4)

    @pytest.mark.parametrize("params", SETTINGS)
    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_weights_are_repetitions(self, params, n_classes):
        A, b = data(n_classes)
        weights = np.random.default_rng(0).integers(0, 4, size=len(b))
        clf = LaplaceUpdateClassifier(**params, tol=1e-8)
        weighted = clone(clf).fit(A, b, sample_weight=weights)
        repeated = clone(clf).fit(A.repeat(weights, axis=0), b.repeat(weights))
        np.testing.assert_allclose(weighted.predict_proba(A), repeated.predict_proba(A), rtol=1e-7)

    @pytest.mark.parametrize("params", SETTINGS)
    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_balanced_weights_count_repetitions(self, params, n_classes):
        A, b = data(n_classes)
        weights = np.random.default_rng(0).integers(0, 4, size=len(b)) * (1 + (b == 0))
        clf = LaplaceUpdateClassifier(class_weight="balanced", **params, calibration=None, tol=1e-8)
        weighted = clone(clf).fit(A, b, sample_weight=weights)
        repeated = clone(clf).fit(A.repeat(weights, axis=0), b.repeat(weights))
        np.testing.assert_allclose(weighted.predict_proba(A), repeated.predict_proba(A), rtol=1e-7)

    def test_balanced_weights_do_not_count_a_class_that_has_none(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(class_weight="balanced", classes=[0, 1, 2], tol=1e-8)
        weighted = clone(clf).fit(A, b, sample_weight=b > 0)
        absent = clone(clf).fit(A[b > 0], b[b > 0])
        np.testing.assert_allclose(weighted.predict_proba(A), absent.predict_proba(A), rtol=1e-7)

    @pytest.mark.skipif(
        "sample_weight" not in inspect.signature(compute_class_weight).parameters,
        reason="as of a later scikit-learn",
    )
    def test_balanced_weights_are_those_of_logistic_regression(self):
        A, b = data(3)
        weights = np.random.default_rng(0).uniform(0.1, 5, size=len(b))
        clf = LaplaceUpdateClassifier(
            class_weight="balanced", fit_intercept=False, prior_precision=1.0, tol=1e-8
        )
        twin = LogisticRegression(fit_intercept=False, class_weight="balanced", tol=1e-9)
        np.testing.assert_allclose(
            clf.fit(A, b, weights).coef_, twin.fit(A, b, weights).coef_, atol=1e-5
        )

    def test_class_weight_multiplies_sample_weight(self):
        A, b = data(3)
        by_class = LaplaceUpdateClassifier(class_weight={0: 2.0, 2: 0.5}).fit(A, b)
        by_weight = LaplaceUpdateClassifier().fit(A, b, sample_weight=np.array([2, 1, 0.5])[b])
        np.testing.assert_allclose(by_class.predict_proba(A), by_weight.predict_proba(A))

    def test_balanced_class_weight(self):
        A, b = data(3)
        rows = np.r_[np.flatnonzero(b == 0)[:30], np.flatnonzero(b > 0)[:15]]
        balanced = LaplaceUpdateClassifier(class_weight="balanced").fit(A[rows], b[rows])
        weights = len(rows) / (3 * np.bincount(b[rows]))
        by_hand = LaplaceUpdateClassifier(class_weight=dict(enumerate(weights)))
        np.testing.assert_allclose(
            balanced.predict_proba(A), by_hand.fit(A[rows], b[rows]).predict_proba(A)
        )

    def test_classes_beyond_those_in_y(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(classes=[4, 0, 1, 2, 3]).fit(A, b)
        assert clf.classes_.tolist() == [0, 1, 2, 3, 4]
        probabilities = clf.predict_proba(A)
        assert probabilities.shape == (len(A), 5)
        np.testing.assert_allclose(probabilities[:, 3], probabilities[:, 4])
        assert (
            LaplaceUpdateClassifier(classes=["a", "b"]).fit(A, ["b"] * len(A)).predict(A[:1]) == "b"
        )

    def test_warm_start_reaches_the_same_mode_in_fewer_steps(self):
        A, b = data(10, n=400)
        clf = LaplaceUpdateClassifier(warm_start=True, tol=1e-8).fit(A[:390], b[:390])
        cold = LaplaceUpdateClassifier(tol=1e-8).fit(A, b)
        assert clf.fit(A, b).n_iter_ < cold.n_iter_
        np.testing.assert_allclose(clf.coef_, cold.coef_, atol=1e-7)

    def test_fit_forgets(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier().fit(X[:, :5], y).fit(A, b)
        np.testing.assert_array_equal(clf.coef_, LaplaceUpdateClassifier().fit(A, b).coef_)

    def test_too_few_steps_warn(self):
        with pytest.warns(ConvergenceWarning, match=r"from the MAP after max_iter=1 ") as caught:
            LaplaceUpdateClassifier(max_iter=1).fit(X, y)
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("n_classes", N_CLASSES)
    @pytest.mark.parametrize("curvature", ["categorical", "gaussian"])
    def test_the_precision_is_the_sum(self, n_classes, curvature):
        A, b = data(n_classes)
        clf = LaplaceUpdateClassifier(
            covariance="shared", prior_precision=0.3, curvature=curvature, **PLAIN
        ).fit(A, b)
        p = clf.predict_proba(A).max(axis=1)
        h = np.ones(len(A)) if curvature == "gaussian" else p * (1 - p)
        phi = np.c_[A, np.ones(len(A))]
        precision = 0.3 * np.eye(65) + (phi.T * h) @ phi
        np.testing.assert_allclose(clf.posterior_.precision, precision, atol=1e-10)
        np.testing.assert_allclose(clf.posterior_.covariance, np.linalg.inv(precision), atol=1e-10)

    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_the_default_is_stiffer_by_the_fifth_root_of_the_secant(self, n_classes):
        A, b = data(n_classes)
        params = {"covariance": "per_class", "prior_precision": 0.3} | PLAIN
        clf = LaplaceUpdateClassifier(**params).fit(A, b)
        phi = np.c_[A, np.ones(len(A))]
        logits = phi @ clf.posterior_.mean.numpy()
        expected = np.zeros((logits.shape[1], 65, 65))
        softmax_of = expit if n_classes == 2 else lambda z: softmax(z, axis=1)
        p, y_of = softmax_of(logits), (b[:, None] if n_classes == 2 else np.eye(n_classes)[b])
        without = np.empty_like(logits)
        for k in range(logits.shape[1]):  # left out by the inverse of the precision
            h = p[:, k] * (1 - p[:, k])
            inverse = np.linalg.inv(0.3 * np.eye(65) + (phi.T * h) @ phi)
            v = np.einsum("nd,de,ne->n", phi, inverse, phi)
            without[:, k] = logits[:, k] - v / (1 - h * v) * (y_of - p)[:, k]
        secant = (p - softmax_of(without)) / (logits - without)
        h = p * (1 - p)
        stiff = np.where(secant > 0, h**0.8 * np.maximum(secant, 0) ** 0.2, h)
        for k in range(logits.shape[1]):
            expected[k] = 0.3 * np.eye(65) + (phi.T * stiff[:, k]) @ phi
        np.testing.assert_allclose(
            clf.posterior_.precision, expected.squeeze(), rtol=1e-4, atol=1e-4
        )
        assert (stiff > h * 1.05).any()

    @pytest.mark.parametrize(
        ("n_classes", "covariance", "expected"),
        [(2, "auto", "shared"), (10, "auto", "per_class"), (10, "full", "full")],
    )
    def test_the_structure_in_use(self, n_classes, covariance, expected):
        A, b = data(n_classes)
        clf = LaplaceUpdateClassifier(covariance=covariance).fit(A[:, :20], b)
        assert clf.covariance_ == expected
        assert clf.partial_fit(A[:3, :20], b[:3]).covariance_ == expected

    def test_a_structure_that_does_not_fit_into_memory(self):
        wide = np.random.default_rng(0).normal(size=(20, 30_000))
        match = r"covariance='per_class' needs .* GiB for 30001 features and 10 outputs"
        clf = LaplaceUpdateClassifier(covariance="per_class", classes=range(10))
        with pytest.raises(ValueError, match=match):
            clf.fit(wide, np.arange(20) % 10)
        assert not hasattr(clf, "classes_")

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
    def test_float32(self, covariance):
        A, b = data(10)
        double = LaplaceUpdateClassifier(covariance=covariance).fit(A[:100], b[:100])
        single = LaplaceUpdateClassifier(covariance=covariance, dtype="float32")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            single.fit(A[:100], b[:100])
        for _ in range(2):
            assert single.posterior_.root.dtype == single.posterior_.mean.dtype == torch.float32
            np.testing.assert_allclose(single.predict_proba(A), double.predict_proba(A), atol=1e-4)
            double.partial_fit(A[100:], b[100:])
            single.partial_fit(A[100:], b[100:])

    @pytest.mark.parametrize(
        ("covariance", "n", "prior_precision"),
        [
            ("per_class", 600, 1.0),
            ("per_class", 600, 1e-2),
            ("per_class", 100, 1e-3),
            ("per_class", 100, 1e-5),
            ("shared", 100, 1e-3),
        ],
    )
    def test_float32_keeps_its_digits_where_all_labels_are_sure(
        self, covariance, n, prior_precision
    ):
        fitted = {}
        for dtype in ("float64", "float32"):
            clf = LaplaceUpdateClassifier(
                covariance=covariance, prior_precision=prior_precision, dtype=dtype, tol=1e-8
            )
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                fitted[dtype] = clf.fit(16 * X[:n], y[:n])
        double, single = fitted.values()
        rows = 16 * X[n : n + 300]
        (_, variance), (_, found) = (clf.latent_mean_and_variance(rows) for clf in (double, single))
        np.testing.assert_allclose(found, variance, rtol=1e-4)
        np.testing.assert_allclose(
            single.predict_proba(rows), double.predict_proba(rows), atol=2e-5
        )
        assert single.log_marginal_likelihood_value_ == pytest.approx(
            double.log_marginal_likelihood_value_, abs=1e-3
        )

    @pytest.mark.parametrize("curvature", ["secant", "categorical"])
    @pytest.mark.parametrize(
        ("dtype", "shape", "scale", "prior_precision"),
        [
            ("float32", (100, 384), 1.0, 1e-4),
            ("float64", (20, 3), 1e6, 1e-4),
            ("float64", (20, 3), 1e6, 1e-8),
        ],
    )
    def test_either_of_two_classes_may_be_the_first(
        self, curvature, dtype, shape, scale, prior_precision
    ):
        A = scale * np.random.default_rng(0).normal(size=shape)
        b = (A[:, 0] > 0).astype(int)
        clf = LaplaceUpdateClassifier(
            curvature=curvature, dtype=dtype, prior_precision=prior_precision
        )
        one, other = (clone(clf).fit(A[:-5], labels[:-5]) for labels in (b, 1 - b))
        assert one.log_marginal_likelihood_value_ == pytest.approx(
            other.log_marginal_likelihood_value_, abs=1e-3
        )
        for _ in range(2):
            mean, variance = one.latent_mean_and_variance(A)
            other_mean, other_variance = other.latent_mean_and_variance(A)
            np.testing.assert_allclose(-other_mean, mean, rtol=1e-4)
            np.testing.assert_allclose(other_variance, variance, rtol=1e-4)
            one.partial_fit(A[-5:], b[-5:])
            other.partial_fit(A[-5:], 1 - b[-5:])


class TestHonestNumbers:
    """What did not work out is said, with the cure."""

    def test_a_search_that_ends_at_its_largest(self):
        A = np.tile([[-1.0], [1.0]], (20, 1))
        match = r"prior_precision='evidence' chose .*, the largest value tried: .* Set a number"
        with pytest.warns(ConvergenceWarning, match=match) as seen:
            LaplaceUpdateClassifier(prior_precision="evidence").fit(A, np.repeat([0, 1], 20))
        assert seen[0].filename == __file__

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_features_beside_which_the_prior_is_lost(self):
        A = np.array([[1e12, 1e12], [-1e12, -1e12], [1e12, 1e12]])
        clf = LaplaceUpdateClassifier(prior_precision=1e-10)
        with pytest.warns(LinAlgWarning, match=r"prior_precision is lost.* StandardScaler"):
            clf.fit(A, [0, 1, 1])
