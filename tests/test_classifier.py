import copy
import inspect
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.linalg import LinAlgWarning
from scipy.ndimage import rotate
from scipy.sparse import csr_matrix
from scipy.special import entr, expit, log_softmax, softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import compute_class_weight
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from laplace_al import LaplaceUpdateClassifier, TorchFeatures
from laplace_al.inputs.features import Extracted

X, y = load_digits(return_X_y=True)
X = X / 16
PAPER = {
    "covariance": "shared",
    "curvature": "gaussian",
    "update": "newton",
    "step_size": 10,
    "calibration": None,
}
# The probabilities of the mean, as they come.
PLAIN = {"predictive": "plug_in", "calibration": None}
SETTINGS = [
    {"covariance": covariance, "update": update, "curvature": curvature, "fit_intercept": intercept}
    for covariance, intercept in [("shared", True), ("shared", False), ("per_class", True)]
    for update in ("map", "newton")
    for curvature in ("categorical", "gaussian")
]
N_CLASSES = [2, 3, 10]


def data(n_classes, n=120):
    rows = np.flatnonzero(y < n_classes)[:n]
    return X[rows], y[rows]


def module(n_outputs=10, *, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, n_outputs, bias=bias)).double()


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 3, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )


def arrays(clf):
    return [clf.posterior_.mean.clone(), clf.posterior_.root.clone()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


AT_A_BOUND = "ignore:prior_precision=.* chose:sklearn.exceptions.ConvergenceWarning"


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
        clf = LaplaceUpdateClassifier(**params)
        weighted = clone(clf).fit(A, b, sample_weight=weights)
        repeated = clone(clf).fit(A.repeat(weights, axis=0), b.repeat(weights))
        np.testing.assert_allclose(weighted.predict_proba(A), repeated.predict_proba(A), rtol=1e-7)

    @pytest.mark.parametrize("params", SETTINGS)
    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_balanced_weights_count_repetitions(self, params, n_classes):
        A, b = data(n_classes)
        weights = np.random.default_rng(0).integers(0, 4, size=len(b)) * (1 + (b == 0))
        clf = LaplaceUpdateClassifier(class_weight="balanced", **params, calibration=None)
        weighted = clone(clf).fit(A, b, sample_weight=weights)
        repeated = clone(clf).fit(A.repeat(weights, axis=0), b.repeat(weights))
        np.testing.assert_allclose(weighted.predict_proba(A), repeated.predict_proba(A), rtol=1e-7)

    def test_balanced_weights_do_not_count_a_class_that_has_none(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(class_weight="balanced", classes=[0, 1, 2])
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
            class_weight="balanced", fit_intercept=False, prior_precision=1.0
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
        clf = LaplaceUpdateClassifier(warm_start=True).fit(A[:390], b[:390])
        cold = LaplaceUpdateClassifier().fit(A, b)
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

    @pytest.mark.parametrize("covariance", ["shared", "per_class"])
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
                covariance=covariance, prior_precision=prior_precision, dtype=dtype
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


class TestPartialFit:
    @pytest.mark.parametrize("params", SETTINGS)
    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_a_then_b_is_a_and_b(self, params, n_classes):
        A, b = data(n_classes)
        base = LaplaceUpdateClassifier(classes=range(n_classes), **params).fit(A[:40], b[:40])
        parts = copy.deepcopy(base).partial_fit(A[40:55], b[40:55]).partial_fit(A[55:], b[55:])
        whole = copy.deepcopy(base).partial_fit(A[40:], b[40:])
        single = copy.deepcopy(base)
        for row in range(40, len(A)):
            single.partial_fit(A[[row]], b[[row]])
        for other in (parts, single):
            for value, truth in zip(arrays(other), arrays(whole), strict=True):
                torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-11)

    def test_from_the_prior(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(prior_precision=1.0).partial_fit(
            A[:1], b[:1], classes=[0, 1, 2]
        )
        assert clf.classes_.tolist() == [0, 1, 2]
        assert clf.predict(A[:1]) == b[:1]
        declared = LaplaceUpdateClassifier(classes=[0, 1, 2], prior_precision=1.0).partial_fit(
            A[:1], b[:1]
        )
        assert same(arrays(clf), arrays(declared))

    def test_weights(self):
        A, b = data(3)
        base = LaplaceUpdateClassifier().fit(A[:60], b[:60])
        weights = np.r_[np.zeros(10), np.ones(10)]
        weighted = copy.deepcopy(base).partial_fit(A[60:80], b[60:80], sample_weight=weights)
        absent = copy.deepcopy(base).partial_fit(A[70:80], b[70:80])
        for value, truth in zip(arrays(weighted), arrays(absent), strict=True):
            torch.testing.assert_close(value, truth)

    def test_class_weight(self):
        A, b = data(3)
        base = LaplaceUpdateClassifier(class_weight={0: 3.0}).fit(A[:60], b[:60])
        twin = copy.deepcopy(base).set_params(class_weight=None)
        base.partial_fit(A[60:], b[60:])
        twin.partial_fit(A[60:], b[60:], sample_weight=np.where(b[60:] == 0, 3.0, 1.0))
        assert same(arrays(base), arrays(twin))

    def test_weights_of_other_classes_than_those_of_the_call(self):
        A, b = data(3)
        base = LaplaceUpdateClassifier(class_weight={0: 3.0}).fit(A[:60], b[:60])
        twin = copy.deepcopy(base).set_params(class_weight=None)
        row = np.flatnonzero(b == 1)[-1:]
        assert same(arrays(base.partial_fit(A[row], [1])), arrays(twin.partial_fit(A[row], [1])))

    @pytest.mark.parametrize("params", SETTINGS)
    def test_passes_repeat_the_update(self, params):
        A, b = data(3)
        base = LaplaceUpdateClassifier(**params).fit(A[:60], b[:60])
        twice = copy.deepcopy(base).set_params(n_passes=2).partial_fit(A[60:], b[60:])
        again = base.partial_fit(A[60:], b[60:]).partial_fit(A[60:], b[60:])
        assert same(arrays(twice), arrays(again))

    def test_it_moves_towards_the_refit(self):
        A, b = data(10, n=600)
        base = LaplaceUpdateClassifier(prior_precision=0.1, **PLAIN).fit(A[:50], b[:50])
        target = clone(base).fit(A[:80], b[:80]).predict_proba(A[80:])
        before = np.abs(base.predict_proba(A[80:]) - target).sum(axis=1).mean() / 2
        base.partial_fit(A[50:80], b[50:80])
        after = np.abs(base.predict_proba(A[80:]) - target).sum(axis=1).mean() / 2
        assert after < before / 2

    def test_more_rows_than_a_block(self):
        base = LaplaceUpdateClassifier().fit(X[:100], y[:100])
        whole = copy.deepcopy(base).partial_fit(X[100:700], y[100:700])
        for start in range(100, 700, 50):
            base.partial_fit(X[start : start + 50], y[start : start + 50])
        np.testing.assert_allclose(base.predict_proba(X), whole.predict_proba(X), atol=1e-10)

    @pytest.mark.parametrize("n_passes", [1, 2])
    @pytest.mark.parametrize("step_size", [1, 10])
    def test_golden_numbers_of_the_paper(self, golden, step_size, n_passes):
        """From the trained head, through the public API."""
        numbers = golden("gaussian")
        network = nn.Sequential(nn.Identity(), nn.Linear(12, 4, bias=False)).double()
        network[1].weight.data = numbers["mean"].T.clone()
        clf = LaplaceUpdateClassifier(
            network,
            head="pretrained",
            fit_intercept=False,
            n_passes=n_passes,
            classes=range(4),
            **PAPER | {"step_size": step_size, "prior_precision": 1.0},
        )
        n_train = len(numbers["features_train"])
        clf.fit(numbers["features_train"], np.arange(n_train) % 4)
        np.testing.assert_allclose(clf.posterior_.precision, numbers["precision"], rtol=1e-10)
        np.testing.assert_allclose(
            clf.decision_function(numbers["features_test"]),
            numbers["mean_field_logits"],
            rtol=1e-10,
        )
        clf.partial_fit(numbers["features_new"], numbers["y_new"])
        name = f"newton_gamma{step_size}_passes{n_passes}"
        for ours, theirs in [("mean", "mean"), ("covariance", "covariance")]:
            truth = numbers[f"{name}_{theirs}"]
            error = (getattr(clf.posterior_, ours) - truth).abs().max() / truth.abs().max()
            assert error < 1e-10


class TestOrder:
    """Labels class by class, few against many, and what a memory does about them."""

    @staticmethod
    def learnt(order, **params):
        clf = LaplaceUpdateClassifier(prior_precision=0.09, classes=range(10), **PLAIN | params)
        for rows in np.split(order, range(20, 600, 20)):
            clf.partial_fit(X[rows], y[rows])
        return clf.score(X[1000:], y[1000:])

    @pytest.mark.parametrize("covariance", ["per_class", "shared"])
    def test_classes_one_after_the_other(self, covariance):
        by_class = np.argsort(y[:600], kind="stable")
        shuffled = self.learnt(np.arange(600), covariance=covariance)
        in_order = self.learnt(by_class, covariance=covariance)
        assert in_order > shuffled - 0.03
        assert self.learnt(by_class, covariance=covariance, memory_size=50) > in_order - 0.005

    @pytest.mark.parametrize("memory_size", [0, 30])
    @pytest.mark.parametrize("block", [1, 60])
    @pytest.mark.parametrize("prior_precision", [0.04, 1.0])
    def test_few_labels_do_not_overrule_many(self, memory_size, block, prior_precision):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(3000, 4))
        b = A[:, 0] > 0
        params = {"prior_precision": prior_precision, "memory_size": memory_size} | PLAIN
        clf = LaplaceUpdateClassifier(**params).fit(A[:1500], b[:1500])
        for row in range(1500, 1560, block):
            clf.partial_fit(A[row : row + block], ~b[row : row + block])
        assert clf.score(A[1560:], b[1560:]) > 0.95

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_blocks_are_sequences(self, covariance, n_classes):
        A, b = data(n_classes)
        A = A[:, 18:38]
        params = {"covariance": covariance, "prior_precision": 0.1, "classes": range(n_classes)}
        at_once, one_by_one = (LaplaceUpdateClassifier(**params | PLAIN) for _ in range(2))
        at_once.partial_fit(A[:70], b[:70])
        for row in range(70):
            one_by_one.partial_fit(A[[row]], b[[row]])
        np.testing.assert_allclose(at_once.coef_, one_by_one.coef_, atol=1e-8)
        np.testing.assert_allclose(
            at_once.posterior_.precision, one_by_one.posterior_.precision, rtol=1e-6, atol=1e-8
        )

    def test_structures_of_two_classes_are_the_same(self):
        A, b = data(2)
        order = np.argsort(b, kind="stable")
        of = {}
        for covariance in ("shared", "per_class", "full"):
            clf = LaplaceUpdateClassifier(covariance=covariance, classes=range(2), **PLAIN)
            of[covariance] = clf.partial_fit(A[order], b[order]).posterior_.precision.numpy()
        np.testing.assert_allclose(of["per_class"], of["shared"], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(of["full"], of["shared"], rtol=1e-8, atol=1e-10)


class TestForgetting:
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    def test_old_labels_fade_and_the_prior_stays(self, covariance):
        A, b = data(3)
        A = A[:, 20:24]
        clf = LaplaceUpdateClassifier(
            covariance=covariance, curvature="gaussian", prior_precision=2.0, forgetting=0.9
        ).fit(A[:50], b[:50])
        data_before = clf.posterior_.precision - 2.0 * torch.eye(clf.posterior_.root.shape[1])
        clf.partial_fit(A[50:53], b[50:53])
        phi = torch.tensor(np.c_[A[50:53], np.ones(3)])
        if covariance == "full":
            phi = torch.kron(phi, torch.eye(3).double())
        fade = torch.tensor([0.81, 0.9, 1.0]).repeat_interleave(len(phi) // 3).double()
        expected = 2.0 * torch.eye(phi.shape[1]) + 0.9**3 * data_before + (phi.T * fade) @ phi
        torch.testing.assert_close(clf.posterior_.precision, expected)

    def test_it_follows_a_drift(self):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(400, 3))
        b = (A[:, 0] > 0) ^ (np.arange(400) >= 200)  # the classes swap
        accuracy = {}
        for forgetting in (1.0, 0.95):
            clf = LaplaceUpdateClassifier(
                forgetting=forgetting, classes=[False, True], prior_precision=1.0
            )
            clf.partial_fit(A[:200], b[:200])
            right = []
            for row in range(200, 400):  # each is predicted before it is learnt
                right.append(clf.predict(A[[row]]) == b[[row]])
                clf.partial_fit(A[[row]], b[[row]])
            accuracy[forgetting] = np.mean(right)
        assert accuracy[0.95] > 0.8
        assert accuracy[0.95] > accuracy[1.0] + 0.1


class TestAddClasses:
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_the_old_classes_keep_their_logits(self, covariance, n_classes):
        A, b = data(n_classes)
        A = A[:, 18:38]
        names = np.array(["b", "d", "f"])
        clf = LaplaceUpdateClassifier(covariance=covariance, **PLAIN)
        clf.fit(A, names[b])
        before = clf.predict_log_proba(A)
        assert clf.add_classes(["c", "a"]) is clf
        assert clf.classes_.tolist() == sorted([*names[:n_classes], "c", "a"])
        old = np.isin(clf.classes_, names)
        after = clf.predict_log_proba(A)[:, old]
        shift = after - before
        np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-9)
        np.testing.assert_allclose(clf.coef_[~old], 0, atol=1e-15)

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    def test_a_new_class_is_learnt(self, covariance):
        A, b = data(4, n=200)
        A = A[:, 18:38]
        clf = LaplaceUpdateClassifier(covariance=covariance, prior_precision=0.1)
        first = np.flatnonzero(b < 2)[:20]
        clf.fit(A[first], b[first]).add_classes([2, 3])
        rest = np.setdiff1d(np.arange(200), first)
        clf.partial_fit(A[rest], b[rest])
        assert clf.score(A, b) > 0.85

    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            ([1], r"labels must be new and distinct; got \[1\]"),
            ([11, 11], "labels must be new and distinct"),
            ([], "labels must be new and distinct|kind"),
            (["eleven"], "labels must be of the kind of the classes so far, numbers; got text"),
        ],
    )
    def test_wrong_labels_change_nothing(self, labels, match):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100])
        TestErrors.check(clf, "add_classes", (labels,), match)

    def test_before_fit(self):
        with pytest.raises(NotFittedError):
            LaplaceUpdateClassifier().add_classes([1])


class TestPredictions:
    @pytest.mark.parametrize("n_classes", N_CLASSES)
    @pytest.mark.parametrize("predictive", ["mean_field", "plug_in", "bridge", "monte_carlo"])
    def test_the_methods_agree(self, n_classes, predictive):
        A, b = data(n_classes)
        names = np.array(list("abcdefghij"))
        clf = LaplaceUpdateClassifier(predictive=predictive).fit(A, names[b])
        logits, probabilities = clf.decision_function(A), clf.predict_proba(A)
        assert logits.shape == ((len(A),) if n_classes == 2 else (len(A), n_classes))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        np.testing.assert_allclose(np.exp(clf.predict_log_proba(A)), probabilities)
        np.testing.assert_array_equal(clf.predict(A), clf.classes_[probabilities.argmax(axis=1)])
        expected = expit(logits) if n_classes == 2 else softmax(logits, axis=1)[:, 1]
        np.testing.assert_allclose(probabilities[:, 1], expected)

    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_mean_field_is_its_formula(self, n_classes):
        A, b = data(n_classes)
        clf = LaplaceUpdateClassifier(covariance="shared", calibration=None).fit(A, b)
        mean, variance = clf.latent_mean_and_variance(A)
        phi = np.c_[A, np.ones(len(A))]
        covariance = np.linalg.inv(clf.posterior_.precision.numpy())
        np.testing.assert_allclose(variance, np.einsum("nd,de,ne->n", phi, covariance, phi))
        weights = np.c_[clf.coef_, clf.intercept_]
        np.testing.assert_allclose(mean, (phi @ weights.T).squeeze(), atol=1e-12)
        logits = (mean.T / np.sqrt(1 + np.pi / 8 * variance)).T
        np.testing.assert_allclose(clf.decision_function(A), logits, atol=1e-12)

    def test_tiny_probabilities_have_logarithms(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(prior_precision=1e-4, **PLAIN).fit(A, b)
        far = 1000 * A[:5]
        logits = clf.decision_function(far)
        np.testing.assert_allclose(clf.predict_log_proba(far), log_softmax(logits, axis=1))
        assert np.isfinite(clf.predict_log_proba(far)).all()

    def test_samples_average_to_the_mean_logits(self):
        A, b = data(2)
        clf = LaplaceUpdateClassifier().fit(A, b)
        samples = clf.sample_proba(A[:5], n_samples=4000, random_state=0)
        assert samples.shape == (4000, 5, 2)
        np.testing.assert_allclose(samples.sum(axis=2), 1)
        np.testing.assert_allclose(samples.mean(axis=0), clf.predict_proba(A[:5]), atol=0.03)
        np.testing.assert_array_equal(samples, clf.sample_proba(A[:5], 4000, random_state=0))
        assert clf.set_params(random_state=1, n_samples=3).sample_proba(A[:5]).shape == (3, 5, 2)

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    def test_samples_are_those_of_the_weights(self, covariance):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(covariance=covariance, calibration=None, prior_precision=1.0)
        clf.fit(A[:, 18:30], b).partial_fit(A[:5, 18:30], b[:5])
        samples = clf.sample_proba(A[:7, 18:30], n_samples=20_000, random_state=0)
        assert samples.shape == (20_000, 7, 3)
        mean, variance = clf.latent_mean_and_variance(A[:7, 18:30])
        odds = np.log(samples[:, :, 1] / samples[:, :, 0])
        np.testing.assert_allclose(odds.mean(axis=0), mean[:, 1] - mean[:, 0], atol=0.05)
        if covariance == "shared":  # independent logits: variances add up
            np.testing.assert_allclose(odds.var(axis=0), 2 * variance, rtol=0.05)

    @pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (2.5, TypeError)])
    def test_a_number_of_samples_that_is_none(self, wrong, error):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100])
        with pytest.raises(error, match="n_samples"):
            clf.sample_proba(X, n_samples=wrong)
        with pytest.raises(ValueError, match="The 'n_samples' parameter"):
            clf.set_params(n_samples=wrong).predict_uncertainty(X)

    def test_far_from_the_data_it_is_less_sure(self):
        A, b = data(2)
        plain = LaplaceUpdateClassifier(predictive="plug_in").fit(A, b)
        unsure = LaplaceUpdateClassifier().fit(A, b)
        outside = -5 * A
        confidence = [clf.predict_proba(outside).max(axis=1).mean() for clf in (unsure, plain)]
        assert confidence[0] < confidence[1]

    @pytest.mark.parametrize(
        "method",
        [
            "predict",
            "predict_proba",
            "predict_log_proba",
            "decision_function",
            "latent_mean_and_variance",
            "sample_proba",
            "predict_uncertainty",
            "transform",
        ],
    )
    def test_before_fit(self, method):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            getattr(LaplaceUpdateClassifier(), method)(X)


class TestCalibration:
    @pytest.mark.parametrize("covariance", ["shared", "per_class"])
    @pytest.mark.parametrize("prior_precision", [0.01, 1.0, 10.0])
    @pytest.mark.parametrize("predictive", ["mean_field", "plug_in", "bridge", "monte_carlo"])
    def test_it_is_close_to_the_best_temperature(self, covariance, prior_precision, predictive):
        rows = np.random.default_rng(0).permutation(len(y))
        train, test = rows[:100], rows[800:]
        clf = LaplaceUpdateClassifier(
            covariance=covariance, prior_precision=prior_precision, predictive=predictive
        )
        clf.set_params(n_samples=100).fit(X[train], y[train])
        logits = clf.posterior_.logits(torch.from_numpy(np.c_[X[test], np.ones(len(test))])).numpy()
        best = min(log_loss(y[test], softmax(b * logits, axis=1)) for b in np.logspace(-1, 1, 41))
        assert log_loss(y[test], clf.predict_proba(X[test])) < 1.06 * best

    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_the_score_is_that_of_the_probabilities(self, n_classes):
        A, b = data(n_classes)
        weights = np.random.default_rng(0).integers(0, 3, size=len(b))
        clf = LaplaceUpdateClassifier().fit(A, b, sample_weight=weights)
        assert clf.loo_proba_.shape == (len(A), n_classes)
        np.testing.assert_allclose(clf.loo_proba_.sum(axis=1), 1)
        accuracy = np.average(clf.loo_proba_.argmax(axis=1) == b, weights=weights)
        assert clf.loo_score_.accuracy == pytest.approx(accuracy)
        loss = log_loss(b, clf.loo_proba_, sample_weight=weights)
        assert clf.loo_score_.log_likelihood == pytest.approx(-loss)

    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_left_out_is_refitted_without(self, n_classes):
        A, b = data(n_classes, n=40)
        clf = LaplaceUpdateClassifier(predictive="plug_in", prior_precision=1.0).fit(A, b)
        refitted = []
        for row in range(len(A)):
            rest = np.arange(len(A)) != row
            other = LaplaceUpdateClassifier(**PLAIN, prior_precision=1.0).fit(A[rest], b[rest])
            logits = other.decision_function(A[[row]]) / clf.temperature_
            refitted.append(expit(logits[0]) if n_classes == 2 else softmax(logits[0]))
        ours = clf.loo_proba_[:, 1] if n_classes == 2 else clf.loo_proba_
        np.testing.assert_allclose(ours, refitted, atol=0.02 if n_classes == 2 else 0.08)

    def test_accuracy_of_labels_that_were_left_out_is_honest(self):
        rows = np.random.default_rng(1).permutation(len(y))
        clf = LaplaceUpdateClassifier(prior_precision=0.1).fit(X[rows[:200]], y[rows[:200]])
        assert clf.loo_score_.accuracy == pytest.approx(
            clf.score(X[rows[200:]], y[rows[200:]]), abs=0.03
        )
        assert clf.score(X[rows[:200]], y[rows[:200]]) > clf.loo_score_.accuracy + 0.03

    def test_one_label_of_each_class(self):
        first = [np.flatnonzero(y == k)[0] for k in range(10)]
        clf = LaplaceUpdateClassifier().fit(X[first], y[first])
        plain = clone(clf).set_params(calibration=None).fit(X[first], y[first])
        assert clf.temperature_ == plain.temperature_ == 1
        np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))
        assert not hasattr(plain, "loo_proba_")
        assert not hasattr(plain, "loo_score_")

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    def test_a_stream_is_predicted_before_it_is_learnt(self, covariance):
        A, b = data(3)
        A = A[:, 18:30]
        clf = LaplaceUpdateClassifier(
            covariance=covariance, prior_precision=30.0, predictive="plug_in"
        )
        clf.fit(A[:30], b[:30])
        twin = copy.deepcopy(clf).set_params(calibration=None)
        assert clf.partial_fit(A[30:31], b[30:31]).temperature_ != twin.temperature_
        losses = []
        for row in range(30, 60):
            logits = twin.posterior_.logits(torch.from_numpy(np.r_[A[row], 1.0])[None])
            losses.append(log_softmax(logits.numpy()[0] / np.exp(0.2))[b[row]])
            twin.partial_fit(A[[row]], b[[row]])
        before = LaplaceUpdateClassifier(**clf.get_params()).fit(A[:30], b[:30])
        after = clf.partial_fit(A[31:60], b[31:60])
        change = after._calibration.scores - before._calibration.scores
        assert change[21] == pytest.approx(sum(losses))  # log T = 0.2
        assert after.temperature_ < 1

    def test_a_then_b_is_a_and_b(self):
        A, b = data(10)
        base = LaplaceUpdateClassifier().fit(A[:40], b[:40])
        parts = copy.deepcopy(base).partial_fit(A[40:55], b[40:55]).partial_fit(A[55:], b[55:])
        whole = copy.deepcopy(base).partial_fit(A[40:], b[40:])
        assert parts.temperature_ == pytest.approx(whole.temperature_, rel=1e-9)

    def test_labels_that_fade_fade_from_the_temperature(self):
        A, b = data(10)
        clf = LaplaceUpdateClassifier(forgetting=0.9).fit(A[:60], b[:60])
        kept = copy.deepcopy(clf).set_params(forgetting=1.0)
        before = clf._calibration.scores.copy()
        clf.partial_fit(A[60:61], b[60:61])
        kept.partial_fit(A[60:61], b[60:61])
        change = kept._calibration.scores - before  # of the label, under hardly another model
        np.testing.assert_allclose(clf._calibration.scores, 0.9 * before + change, atol=0.5)
        assert abs(0.1 * before).max() > 2

    def test_new_classes_leave_nothing_that_does_not_know_them(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).add_classes([10])
        for name in ("loo_proba_", "loo_score_", "log_marginal_likelihood_value_"):
            assert not hasattr(clf, name)
        assert clf.temperature_ != 1

    def test_a_stream_of_its_own(self):
        clf = LaplaceUpdateClassifier(prior_precision=30.0, classes=range(10))
        plain = LaplaceUpdateClassifier(prior_precision=30.0, classes=range(10), calibration=None)
        rows = np.random.default_rng(0).permutation(len(y))
        for some in np.split(rows[:200], 20):
            clf.partial_fit(X[some], y[some])
            plain.partial_fit(X[some], y[some])
        losses = [log_loss(y[rows[800:]], c.predict_proba(X[rows[800:]])) for c in (clf, plain)]
        assert losses[0] < 0.6 * losses[1]


class TestNewtonDecrement:
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_against_its_definition(self, covariance, n_classes):
        A, b = data(n_classes)
        A = A[:, 20:30]
        clf = LaplaceUpdateClassifier(covariance=covariance, prior_precision=0.5)
        clf.fit(A[:60], b[:60]).partial_fit(A[60:], b[60:])
        weight = np.random.default_rng(0).uniform(size=len(b))
        Phi = np.column_stack([A, np.ones(len(A))])
        W = clf.posterior_.mean.numpy()
        onehot = b[:, None] == clf.classes_
        if n_classes == 2:
            residual = onehot[:, 1:] - expit(Phi @ W)
        else:
            residual = onehot - softmax(Phi @ W, axis=1)
        gradient = 0.5 * W - Phi.T @ (weight[:, None] * residual)
        covariances = clf.posterior_.covariance.numpy()
        if covariance == "full":
            square = gradient.ravel() @ covariances @ gradient.ravel()
        elif covariances.ndim == 2:
            square = np.trace(gradient.T @ covariances @ gradient)
        else:
            square = np.einsum("dk,kde,ek", gradient, covariances, gradient)
        decrement = clf.newton_decrement(A, b, sample_weight=weight)
        np.testing.assert_allclose(decrement, np.sqrt(square))

    def test_zero_after_a_fit_and_more_after_updates(self):
        A, b = data(10, 200)
        clf = LaplaceUpdateClassifier().fit(A[:100], b[:100])
        assert clf.newton_decrement(A[:100], b[:100]) < 1e-4
        clf.partial_fit(A[100:], b[100:])
        drift = clf.newton_decrement(A, b)
        assert drift > 0.1
        assert clf.fit(A, b).newton_decrement(A, b) < 1e-4
        clf = LaplaceUpdateClassifier(memory_size=None).fit(A[:100], b[:100])
        assert clf.partial_fit(A[100:], b[100:]).newton_decrement(A, b) < 0.1 * drift

    def test_half_its_square_is_what_the_objective_can_fall_by(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(
            curvature="categorical", covariance="full", prior_precision=1.0
        )
        clf.fit(A[:110], b[:110]).partial_fit(A[110:], b[110:])
        anew = LaplaceUpdateClassifier(prior_precision=1.0).fit(A, b)

        def objective(model):
            W = model.posterior_.mean.numpy()
            logits = np.column_stack([A, np.ones(len(A))]) @ W
            return -log_softmax(logits, axis=1)[np.arange(len(b)), b].sum() + (W**2).sum() / 2

        fall = objective(clf) - objective(anew)
        assert 0.5 < clf.newton_decrement(A, b) ** 2 / 2 / fall < 2

    def test_weights_of_classes_count(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(class_weight={0: 3.0}).fit(A, b)
        assert clf.newton_decrement(A, b) < 1e-4
        assert clf.set_params(class_weight=None).newton_decrement(A, b) > 0.1

    def test_balanced_weights_count_sample_weights(self):
        A, b = data(3)
        weights = np.where(b == 0, 5.0, 1.0)
        clf = LaplaceUpdateClassifier(class_weight="balanced").fit(A, b, weights)
        assert clf.newton_decrement(A, b, weights) < 1e-4
        assert clf.newton_decrement(A, b) > 0.01

    def test_a_pretrained_head_is_its_own_prior(self):
        net = module()
        clf = LaplaceUpdateClassifier(net, head="pretrained", classes=range(10)).fit(X[:50], y[:50])
        gone = clf.newton_decrement(X[:50], y[:50], sample_weight=1e-9)
        assert gone < 1e-6

    def test_errors(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier()
        with pytest.raises(NotFittedError):
            clf.newton_decrement(A, b)
        with pytest.raises(ValueError, match="not among the classes"):
            clf.fit(A, b).newton_decrement(A[:1], [7])


class TestPriorPrecision:
    def test_evidence(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(prior_precision="evidence").fit(A, b)
        values = [
            LaplaceUpdateClassifier(prior_precision=p).fit(A, b).log_marginal_likelihood_value_
            for p in clf.prior_precision_ * np.array([0.3, 1.0, 3.0])
        ]
        assert np.argmax(values) == 1
        assert clf.log_marginal_likelihood_value_ == pytest.approx(values[1])
        again = LaplaceUpdateClassifier(prior_precision=clf.prior_precision_).fit(A, b)
        assert same(arrays(clf), arrays(again)) or np.allclose(clf.coef_, again.coef_, atol=1e-6)

    def test_leave_one_out(self):
        A, b = data(10, n=100)
        clf = LaplaceUpdateClassifier(prior_precision="loo").fit(A, b)
        for p in clf.prior_precision_ * np.array([0.01, 100.0]):
            other = LaplaceUpdateClassifier(prior_precision=p).fit(A, b)
            assert other.loo_score_.log_likelihood < clf.loo_score_.log_likelihood

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_every_structure(self, covariance, n_classes):
        A, b = data(n_classes)
        params = {"covariance": covariance, "calibration": None, "curvature": "gaussian"}
        clf = LaplaceUpdateClassifier(prior_precision="evidence", **params).fit(A[:, 18:30], b)
        assert np.isfinite(clf.log_marginal_likelihood_value_)
        assert clf.partial_fit(A[:5, 18:30], b[:5]).prior_precision_ > 0

    @pytest.mark.filterwarnings(AT_A_BOUND)
    def test_separable_data_is_bounded(self):
        clf = LaplaceUpdateClassifier(prior_precision="evidence").fit([[-1.0], [1.0]], [0, 1])
        assert 1e-6 <= clf.prior_precision_ <= 1000
        clf = LaplaceUpdateClassifier(prior_precision="loo").fit([[-1.0], [1.0]] * 2, [0, 1] * 2)
        assert 1e-6 <= clf.prior_precision_ <= 200

    @pytest.mark.parametrize("prior_precision", ["evidence", "loo"])
    def test_a_stream_takes_its_first_labels(self, prior_precision):
        clf = LaplaceUpdateClassifier(prior_precision=prior_precision, classes=range(10))
        fitted = clone(clf).fit(X[:50], y[:50])
        clf.partial_fit(X[:50], y[:50])
        assert clf.prior_precision_ == pytest.approx(fitted.prior_precision_)
        assert clf.partial_fit(X[50:60], y[50:60]).prior_precision_ == clf.prior_precision_

    @pytest.mark.filterwarnings(AT_A_BOUND)
    def test_leave_one_out_that_says_nothing_leaves_it_to_the_evidence(self):
        first = [np.flatnonzero(y == k)[0] for k in range(10)]
        by_loo, by_evidence = (
            LaplaceUpdateClassifier(prior_precision=name).fit(X[first], y[first])
            for name in ("loo", "evidence")
        )
        assert by_loo.prior_precision_ == by_evidence.prior_precision_

    def test_scale_makes_units_immaterial(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(prior_precision="scale", fit_intercept=False)
        plain, scaled = clone(clf).fit(A[:60], b[:60]), clone(clf).fit(1000 * A[:60], b[:60])
        for model, unit in ((plain, 1), (scaled, 1000)):
            model.partial_fit(unit * A[60:70], b[60:70])
        assert scaled.prior_precision_ == pytest.approx(1e6 * plain.prior_precision_)
        expected = plain.predict_proba(A[70:])
        np.testing.assert_allclose(scaled.predict_proba(1000 * A[70:]), expected, atol=1e-6)

    def test_scale_chooses_once(self):
        clf = LaplaceUpdateClassifier(prior_precision="scale", classes=range(10))
        fitted = clone(clf).fit(X[:50], y[:50])
        clf.partial_fit(X[:50], y[:50])
        assert clf.prior_precision_ == fitted.prior_precision_
        assert clf.partial_fit(3 * X[50:60], y[50:60]).prior_precision_ == clf.prior_precision_
        again = LaplaceUpdateClassifier(prior_precision=fitted.prior_precision_, classes=range(10))
        assert same(arrays(again.fit(X[:50], y[:50])), arrays(fitted))

    @pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
    def test_scale_of_raw_tables(self, load):
        """No worse than a fixed number where one column rules the total variance."""
        A, b = load(return_X_y=True)
        scale, fixed = (
            cross_val_score(LaplaceUpdateClassifier(prior_precision=value), A, b, cv=5).mean()
            for value in ("scale", 1.0)
        )
        assert scale > fixed - 0.01
        assert scale > 0.9

    def test_scale_from_one_label(self):
        clf = LaplaceUpdateClassifier(prior_precision="scale", classes=range(10))
        clf.partial_fit(X[:1], y[:1])
        squares = np.append(X[0] ** 2, 1)
        largest = 30 * np.quantile(squares[squares > 0], 0.5, method="lower")
        assert clf.prior_precision_ == pytest.approx(0.01 * squares.clip(max=largest).sum())
        assert clf.predict(X[:1]) == y[:1]

    def test_scale_around_a_trained_head(self):
        clf = LaplaceUpdateClassifier(module(), head="pretrained", prior_precision="scale")
        clf.fit(X[:100], y[:100])
        variance = clf.transform(X[:100]).var(axis=0).sum()
        assert clf.prior_precision_ == pytest.approx(4 * variance)

    @pytest.mark.parametrize("is_turned", [False, True])
    def test_a_few_labels_leave_a_good_head_good(self, is_turned):
        """Random labels of what it knows cost nothing, those of a new kind help."""
        rows = np.random.default_rng(0).permutation(len(X))
        images, labels = X.reshape(-1, 8, 8)[rows], y[rows]
        torch.manual_seed(0)
        net = NeuralNetClassifier(
            nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double(),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=3e-3,
            max_epochs=40,
            train_split=None,
            verbose=0,
        ).fit(X[rows[:600]], labels[:600])
        A, b = images[600:], labels[600:]
        if is_turned:
            A = rotate(A, 25, axes=(1, 2), reshape=False, order=1)
        A = A.reshape(-1, 64)
        before = net.score(A[300:], b[300:])
        n_labels, least = (200, 0.02) if is_turned else (50, -0.01)
        for seed in range(5):
            some = np.random.default_rng(seed).permutation(300)[:n_labels]
            clf = LaplaceUpdateClassifier(
                net, head="pretrained", prior_precision="scale", classes=range(10)
            )
            assert clf.partial_fit(A[some], b[some]).score(A[300:], b[300:]) > before + least

    @pytest.mark.filterwarnings(AT_A_BOUND)
    def test_a_trained_head(self):
        clf = LaplaceUpdateClassifier(module(), head="pretrained", prior_precision="evidence")
        assert np.isfinite(clf.fit(X[:100], y[:100]).prior_precision_)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_an_intercept_set_after_a_fit_waits_for_the_next(fit_intercept):
    A, b = data(3)
    clf = LaplaceUpdateClassifier(fit_intercept=fit_intercept).fit(A, b)
    expected, shape = clf.predict_proba(A), clf.coef_.shape
    clf.set_params(fit_intercept=not fit_intercept)
    np.testing.assert_array_equal(clf.predict_proba(A), expected)
    np.testing.assert_allclose(clf.pool_state(A).predict_proba(), expected)
    assert clf.coef_.shape == shape
    assert clf.intercept_.any() == fit_intercept
    assert clf.partial_fit(A[:5], b[:5]).coef_.shape == shape
    assert clf.fit(A, b).intercept_.any() != fit_intercept


@pytest.mark.parametrize("method", ["partial_fit", "log_marginal_likelihood"])
def test_what_is_remembered_is_not_refitted_without_a_warning(method):
    A, b = load_iris(return_X_y=True)
    clf = LaplaceUpdateClassifier(memory_size=None, prior_precision=1e-4).fit(A[::8], b[::8])
    args = (A, b) if method == "partial_fit" else (1e-6,)
    match = f"{method} is .* from the MAP after max_iter=1"
    with pytest.warns(ConvergenceWarning, match=match) as caught:
        getattr(clf.set_params(max_iter=1), method)(*args)
    assert caught[0].filename == __file__


class TestEvidence:
    def test_it_is_that_of_the_fit(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(prior_precision=1.0).fit(A, b)
        assert clf.log_marginal_likelihood() == clf.log_marginal_likelihood_value_
        assert clf.log_marginal_likelihood(1.0) == pytest.approx(clf.log_marginal_likelihood())

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    def test_of_another_prior_with_the_data(self, covariance):
        A, b = data(3)
        A = A[:, 18:30]
        clf = LaplaceUpdateClassifier(
            covariance=covariance, memory_size=None, prior_precision=1.0
        ).fit(A, b)
        other = clone(clf).set_params(prior_precision=7.0).fit(A, b)
        assert clf.log_marginal_likelihood(7.0) == pytest.approx(other.log_marginal_likelihood())
        assert clf.partial_fit(A[:9], b[:9]).log_marginal_likelihood() == pytest.approx(
            clone(clf).fit(np.r_[A, A[:9]], np.r_[b, b[:9]]).log_marginal_likelihood(), rel=1e-6
        )

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    @pytest.mark.parametrize("n_classes", [2, 3])
    @pytest.mark.parametrize("memory_size", [0, None])
    @pytest.mark.parametrize("curvature", ["secant", "categorical"])
    def test_its_derivative_is_that_of_refits(self, covariance, n_classes, memory_size, curvature):
        A, b = data(n_classes)
        A = A[:, 18:30]
        weights = np.random.default_rng(0).integers(0, 4, size=len(b))
        params = {"covariance": covariance, "memory_size": memory_size, "curvature": curvature}

        def evidence(value):
            clf = LaplaceUpdateClassifier(prior_precision=value, **params)
            return clf.fit(A, b, weights).log_marginal_likelihood_value_

        clf = LaplaceUpdateClassifier(prior_precision=0.4, **params).fit(A, b, weights)
        prior_precision = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        value = clf.log_marginal_likelihood(prior_precision)
        (slope,) = torch.autograd.grad(value, prior_precision)
        expected = (evidence(0.4004) - evidence(0.3996)) / 8e-4
        assert float(value.detach()) == pytest.approx(evidence(0.4), rel=1e-9)
        assert float(slope) == pytest.approx(expected, rel=2e-3)
        assert clf.log_marginal_likelihood(0.44) == pytest.approx(evidence(0.44), abs=0.05)

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    def test_the_derivative_for_a_trained_head(self, covariance):
        """The mean stays where it is; only the determinant changes."""
        params = {"feature_extractor": module(), "head": "pretrained", "covariance": covariance}
        evidence = [
            LaplaceUpdateClassifier(prior_precision=value, **params).fit(X[:60], y[:60])
            for value in (2.002, 2.0, 1.998)
        ]
        above, here, below = (clf.log_marginal_likelihood() for clf in evidence)
        prior_precision = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        value = evidence[1].log_marginal_likelihood(prior_precision)
        (slope,) = torch.autograd.grad(value, prior_precision)
        assert float(value.detach()) == here
        assert float(slope) == pytest.approx((above - below) / 0.004, rel=1e-3)

    def test_a_tensor_of_one_number_gives_a_tensor_without_shape(self):
        clf = LaplaceUpdateClassifier(prior_precision=1.0).fit(X[:100], y[:100])
        value = clf.log_marginal_likelihood(torch.ones(1, dtype=torch.float64))
        assert value.shape == ()
        assert float(value) == clf.log_marginal_likelihood()

    @pytest.mark.parametrize("value", [0, -1.0, np.inf, np.nan, torch.tensor(-1.0)])
    @pytest.mark.parametrize("memory_size", [0, None])
    def test_no_prior_precision(self, value, memory_size):
        clf = LaplaceUpdateClassifier(memory_size=memory_size).fit(X[:100], y[:100])
        with pytest.raises(ValueError, match=r"prior_precision must be finite and > 0; got"):
            clf.log_marginal_likelihood(value)

    @pytest.mark.parametrize("value", ["loo", [1.0], torch.ones(2)])
    def test_not_a_number(self, value):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100])
        with pytest.raises(TypeError, match=r"prior_precision must be a number.* got (str|list|T)"):
            clf.log_marginal_likelihood(value)

    def test_a_fit_that_found_none(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(covariance="shared", curvature="gaussian", calibration=None)
        with pytest.raises(ValueError, match=r"the fit did not compute it.* calibration='loo'"):
            clf.fit(A, b).log_marginal_likelihood()

    def test_the_data_is_gone(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).partial_fit(X[100:101], y[100:101])
        with pytest.raises(ValueError, match=r"is not available.* with memory_size=None"):
            clf.log_marginal_likelihood()
        assert not hasattr(clf, "log_marginal_likelihood_value_")


class TestMemory:
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_all_remembered_is_a_refit(self, covariance, n_classes):
        A, b = data(n_classes)
        A = A[:, 18:30]
        weights = np.random.default_rng(0).uniform(0, 2, size=len(b))
        params = PLAIN | {"covariance": covariance, "prior_precision": 0.01}
        clf = LaplaceUpdateClassifier(memory_size=None, **params)
        refitted = clone(clf).fit(A, b, sample_weight=weights)
        clf.fit(A[:40], b[:40], sample_weight=weights[:40])
        for rows in (slice(40, 41), slice(41, 120)):
            clf.partial_fit(A[rows], b[rows], sample_weight=weights[rows])
        distance = np.abs(clf.predict_proba(A) - refitted.predict_proba(A)).sum(axis=1) / 2
        assert distance.max() < 1e-3
        from_the_prior = clone(clf).set_params(classes=range(n_classes))
        from_the_prior.partial_fit(A, b, sample_weight=weights)
        distance = np.abs(from_the_prior.predict_proba(A) - refitted.predict_proba(A))
        assert distance.sum(axis=1).max() / 2 < 2e-3

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    def test_more_memory_is_closer_to_a_refit(self, covariance):
        A = X[:, 18:38]
        params = PLAIN | {"covariance": covariance, "prior_precision": 0.01}
        refitted = LaplaceUpdateClassifier(**params).fit(A[:160], y[:160]).predict_proba(A)
        distance = []
        for memory_size in (0, 60, 120, 160):
            clf = LaplaceUpdateClassifier(memory_size=memory_size, **params).fit(A[:100], y[:100])
            for row in range(100, 160):
                clf.partial_fit(A[[row]], y[[row]])
            assert clf._memory is None or len(clf._memory.features) == min(memory_size, 160)
            distance.append(np.abs(clf.predict_proba(A) - refitted).sum(axis=1).mean() / 2)
        assert sorted(distance, reverse=True) == distance
        assert distance[-1] < 1e-3

    @pytest.mark.parametrize(
        "params", [{"forgetting": 0.9}, {"memory_size": 10}, {"memory_size": None}, {"n_passes": 2}]
    )
    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_weight_0_is_absence(self, params, method):
        """It makes nothing fade, and replaces nothing that is remembered."""
        A, b = data(3)
        weights = np.random.default_rng(0).integers(0, 3, size=40)
        there = weights > 0
        clf = LaplaceUpdateClassifier(classes=range(3), **params)
        twin = clone(clf)
        getattr(clf, method)(A[:40], b[:40], sample_weight=weights)
        getattr(twin, method)(A[:40][there], b[:40][there], sample_weight=weights[there])
        for each in (clf, twin):
            each.partial_fit(A[40:43], b[40:43])
        np.testing.assert_allclose(clf.coef_, twin.coef_, atol=1e-8)
        np.testing.assert_allclose(clf.posterior_.covariance, twin.posterior_.covariance, atol=1e-8)
        assert clf.temperature_ == pytest.approx(twin.temperature_)

    def test_labels_of_classes_without_weight_change_nothing(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(class_weight={2: 0.0}).fit(A, b)
        before = dict(vars(clf))
        assert clf.partial_fit(A[b == 2], b[b == 2]) is clf
        assert all(vars(clf)[name] is before[name] for name in ("posterior_", "_calibration"))
        assert clf.log_marginal_likelihood() == before["log_marginal_likelihood_value_"]
        for method in ("fit", "partial_fit"):
            with pytest.raises(ValueError, match="class_weight must leave some instance"):
                getattr(clone(clf).set_params(classes=range(3)), method)(A[b == 2], b[b == 2])

    @pytest.mark.parametrize("memory_size", [None, 20])
    def test_labels_fade(self, memory_size):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(
            forgetting=0.9, memory_size=memory_size, classes=range(3), prior_precision=1.0
        )
        if memory_size is None:
            clf.partial_fit(A[:50], b[:50])
            weights = 0.9 ** np.arange(49, -1, -1)
            twin = LaplaceUpdateClassifier(classes=range(3), prior_precision=1.0).fit(
                A[:50], b[:50], weights
            )
            np.testing.assert_allclose(clf.coef_, twin.coef_, atol=0.01)
        else:
            match = "forgetting < 1 needs memory_size"
            TestErrors.check(clf, "partial_fit", (A[:1], b[:1]), match)  # before it is full
            TestErrors.check(clf.fit(A[:50], b[:50]), "partial_fit", (A[:1], b[:1]), match)

    @pytest.mark.parametrize("memory_size", [None, 20])
    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_new_classes(self, memory_size, n_classes):
        A, b = data(4)
        A = A[:, 18:38]
        old = b < n_classes
        clf = LaplaceUpdateClassifier(memory_size=memory_size, **PLAIN)
        clf.fit(A[old], b[old] + 1).add_classes([0, 4] if n_classes == 3 else [0, 3, 4])
        clf.partial_fit(A, b + 1)
        assert clf.score(A, b + 1) > 0.95
        if memory_size is None:
            both = np.r_[A[old], A], np.r_[b[old], b] + 1
            refitted = clone(clf).set_params(classes=range(5)).fit(*both)
            # one logit is two of half the weights, whose prior is another
            tolerance = 0.05 if n_classes == 2 else 2e-3
            np.testing.assert_allclose(
                clf.predict_proba(A), refitted.predict_proba(A), atol=tolerance
            )

    def test_a_trained_head_remembers_what_came_after(self):
        clf = LaplaceUpdateClassifier(module(), head="pretrained", memory_size=None)
        before = clf.fit(X[:100], y[:100]).predict_proba(X[100:110])
        clf.partial_fit(X[100:110], y[100:110])
        after = clf.predict_proba(X[100:110])
        assert len(clf._memory.features) == 10
        learnt = np.arange(10), y[100:110]
        assert np.log(after[learnt]).mean() > np.log(before[learnt]).mean()

    def test_passes_count_what_is_remembered_again(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(memory_size=None, n_passes=3, **PLAIN).fit(A[:60], b[:60])
        clf.partial_fit(A[60:], b[60:])
        twin = LaplaceUpdateClassifier(**PLAIN)
        twin.fit(A, b, sample_weight=np.r_[np.ones(60), np.full(60, 3.0)])
        np.testing.assert_allclose(clf.predict_proba(A), twin.predict_proba(A), atol=2e-3)

    def test_a_memory_that_begins_later(self):
        clf = LaplaceUpdateClassifier(prior_precision=0.1).fit(X[:100], y[:100])
        clf.set_params(memory_size=None).partial_fit(X[100:150], y[100:150])
        assert len(clf._memory.features) == 50
        assert clf.set_params(memory_size=0).partial_fit(X[:1], y[:1])._memory is None

    def test_it_survives_a_pickle(self):
        clf = LaplaceUpdateClassifier(memory_size=30).fit(X[:100], y[:100])
        other = pickle.loads(pickle.dumps(clf))
        for each in (clf, other):
            each.partial_fit(X[100:110], y[100:110])
        assert same(arrays(clf), arrays(other))


class TestUncertainty:
    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_the_parts_add_up(self, n_classes):
        A, b = data(n_classes)
        clf = LaplaceUpdateClassifier(prior_precision=1.0).fit(A, b)
        total, aleatoric, epistemic = clf.predict_uncertainty(X[:300])
        assert total.shape == aleatoric.shape == epistemic.shape == (300,)
        np.testing.assert_allclose(total, aleatoric + epistemic)
        assert (epistemic >= 0).all()
        assert (aleatoric >= 0).all()
        assert (total <= np.log(n_classes) + 1e-12).all()
        draws = clf.sample_proba(X[:300])
        np.testing.assert_allclose(total, entr(draws.mean(axis=0)).sum(axis=1))
        np.testing.assert_allclose(aleatoric, entr(draws).sum(axis=2).mean(axis=0))

    def test_what_is_far_away_is_unknown_and_what_overlaps_is_not(self):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(500, 2))
        b = (A[:, 0] + rng.normal(size=500) > 0).astype(int)
        clf = LaplaceUpdateClassifier().fit(A, b)
        _, aleatoric, epistemic = clf.predict_uncertainty([[0.0, 0.0], [0.0, 30.0]])
        assert aleatoric[0] > 0.68
        assert epistemic[1] > 10 * epistemic[0]


class TestMonteCarlo:
    def test_it_is_the_mean_of_the_samples(self):
        clf = LaplaceUpdateClassifier(predictive="monte_carlo", n_samples=77).fit(X[:100], y[:100])
        mean = clf.sample_proba(X).mean(axis=0)
        np.testing.assert_allclose(clf.predict_proba(X), mean)
        np.testing.assert_array_equal(clf.predict_proba(X), clf.predict_proba(X))
        np.testing.assert_allclose(clf.predict_proba(X[5:9]), mean[5:9])

    def test_the_seed_is_the_parameter(self):
        clf = LaplaceUpdateClassifier(predictive="monte_carlo", n_samples=20)
        default, other, same_seed, rng = (
            clone(clf).set_params(random_state=seed).fit(X[:100], y[:100]).predict_proba(X)
            for seed in (None, 1, 1, np.random.RandomState(1))
        )
        assert not np.array_equal(default, other)
        np.testing.assert_array_equal(same_seed, other)
        np.testing.assert_array_equal(rng, other)

    @pytest.mark.parametrize("n_classes", N_CLASSES)
    def test_mean_field_is_close_to_it(self, n_classes):
        A, b = data(n_classes)
        params = {"calibration": None, "prior_precision": 0.1}
        closed = LaplaceUpdateClassifier(**params).fit(A, b)
        drawn = LaplaceUpdateClassifier(predictive="monte_carlo", **params).fit(A, b)
        plain = LaplaceUpdateClassifier(predictive="plug_in", **params).fit(A, b)
        test = X[y < n_classes][120:]
        truth = drawn.predict_proba(test)
        distance, of_plain = (
            np.abs(clf.predict_proba(test) - truth).sum(axis=1).mean() / 2
            for clf in (closed, plain)
        )
        assert distance < 0.12
        assert distance < of_plain


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that is made."""

    n_numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                held = min(tensor.numel(), tensor.untyped_storage().size() // tensor.itemsize)
                self.n_numbers = max(self.n_numbers, held)
        return result


@pytest.mark.parametrize("covariance", ["shared", "per_class"])
def test_no_tensor_grows_with_rows_times_classes_times_features(covariance):
    n, size, n_classes = 4000, 20, 16
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(n, size)), np.arange(n) % n_classes
    clf = LaplaceUpdateClassifier(covariance=covariance)
    with LargestTensor() as largest:
        clf.fit(A, b).partial_fit(A, b).predict_proba(A)
        clf.latent_mean_and_variance(A)
    assert n * size <= largest.n_numbers < 2 * n * size
    assert largest.n_numbers < min(n**2, n * n_classes**2, n * n_classes * size) / 4


class TestFeatureExtractor:
    def test_it_is_the_same_as_its_features(self):
        network = module()
        features = TorchFeatures(network).fit_transform(X)
        whole = LaplaceUpdateClassifier(network).fit(X[:100], y[:100])
        last = LaplaceUpdateClassifier().fit(features[:100], y[:100])
        np.testing.assert_allclose(whole.transform(X), features)
        for _ in range(2):
            np.testing.assert_allclose(whole.predict_proba(X), last.predict_proba(features))
            whole.partial_fit(X[100:150], y[100:150])
            last.partial_fit(features[100:150], y[100:150])

    @pytest.mark.parametrize("shape", [(-1, 1, 8, 8), (-1, 8, 8)])
    def test_images(self, shape):
        images = X.reshape(shape).astype(np.float32)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        clf = LaplaceUpdateClassifier(network).fit(images[:300], y[:300])
        assert clf.partial_fit(images[300:400], y[300:400]).score(images, y) > 0.6

    def test_a_callable_on_text(self):
        def encode(texts):
            return np.array([[len(text), text.count("!")] for text in texts], dtype=float)

        clf = LaplaceUpdateClassifier(encode).fit(
            ["no", "yes!!", "nope", "yes yes!!!"], [0, 1, 0, 1]
        )
        assert clf.predict(["sure!!!!"]) == 1

    def test_a_fitted_transformer_is_used_as_it_is(self):
        pca = PCA(5).fit(X)
        clf = clone(LaplaceUpdateClassifier(pca)).fit(X[:100], y[:100])
        np.testing.assert_allclose(clf.transform(X), pca.transform(X), atol=1e-12)

    def test_copies_share_the_module(self):
        network = module()
        clf = LaplaceUpdateClassifier(network, prior_precision=3.0).fit(X[:50], y[:50])
        assert clone(clf).feature_extractor is network
        assert clone(clf).prior_precision == 3.0
        twin = copy.deepcopy(clf)
        assert twin.feature_extractor is network
        np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
        before = arrays(clf)
        twin.partial_fit(X[50:60], y[50:60])
        assert same(before, arrays(clf))

    def test_the_module_is_pickled_once(self):
        clf = LaplaceUpdateClassifier(module(), classes=range(10)).fit(X[:50], y[:50])
        network_bytes = len(pickle.dumps(clf.feature_extractor))
        head = LaplaceUpdateClassifier(classes=range(10)).fit(clf.transform(X[:50]), y[:50])
        assert len(pickle.dumps(clf)) < 1.5 * network_bytes + len(pickle.dumps(head))
        twin = pickle.loads(pickle.dumps(clf))
        assert twin.extractor_.feature_extractor is twin.feature_extractor
        np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))

    def test_parameters_reach_the_extractor(self, capsys):
        clf = LaplaceUpdateClassifier(module(), batch_size=7, verbose=1).fit(X[:20], y[:20])
        assert clf.extractor_.batch_size == 7
        assert "3/3" in capsys.readouterr().err

    def test_a_given_torch_features_is_not_fitted(self):
        features = TorchFeatures(module(), layer="0")
        clf = LaplaceUpdateClassifier(features).fit(X[:50], y[:50])
        assert not hasattr(features, "layer_")
        assert clf.extractor_.layer_ == "0"


class TestPretrainedHead:
    @pytest.mark.parametrize("bias", [True, False])
    def test_the_mean_is_the_trained_layer(self, bias):
        network = module(bias=bias)
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN)
        clf.fit(X[:100], y[:100])
        logits = network(torch.from_numpy(X)).detach().numpy()
        np.testing.assert_allclose(clf.decision_function(X), logits, atol=1e-12)
        assert not hasattr(clf, "n_iter_")
        mean = clf.posterior_.mean.clone()
        clf.partial_fit(X[100:110], y[100:110])
        assert not torch.equal(clf.posterior_.mean, mean)
        np.testing.assert_allclose(network(torch.from_numpy(X)).detach().numpy(), logits)

    @pytest.mark.parametrize("ending", [torch.squeeze, lambda z: torch.sigmoid(z).squeeze()])
    def test_a_stream_of_single_rows_into_a_module_that_squeezes(self, ending):
        class Squeezing(nn.Sequential):
            def forward(self, X):
                return ending(super().forward(X))

        network = Squeezing(*module(1))
        streams = [
            LaplaceUpdateClassifier(each, head="pretrained", classes=[0, 1])
            for each in (network, network[:])
        ]
        for i in range(3):
            for clf in streams:
                clf.partial_fit(X[i : i + 1], y[i : i + 1] % 2)
        mean, expected = (clf.posterior_.mean for clf in streams)
        assert torch.equal(mean, expected)

    def test_a_stream_never_forgets_the_trained_layer(self):
        network = module()
        clf = LaplaceUpdateClassifier(network, head="pretrained", forgetting=0.5)
        clf.fit(X[:100], y[:100])
        head = clf.posterior_.mean.clone()
        torch.testing.assert_close(clf.posterior_.forget(0.0).mean, head)
        clf.partial_fit(X[100:101], y[100:101])
        torch.testing.assert_close(clf.posterior_.forget(0.0).mean, head)

    def test_two_outputs_become_one_logit(self):
        network = module(2)
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN)
        clf.fit(X[y < 2], y[y < 2])
        expected = torch.softmax(network(torch.from_numpy(X)), dim=1).detach()
        np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-12)

    def test_one_output_is_the_logit(self):
        network = module(1)
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN)
        clf.fit(X[y < 2], y[y < 2])
        expected = torch.sigmoid(network(torch.from_numpy(X)))[:, 0].detach()
        np.testing.assert_allclose(clf.predict_proba(X)[:, 1], expected, atol=1e-12)

    def test_from_the_head_without_any_old_data(self):
        clf = LaplaceUpdateClassifier(module(), head="pretrained", classes=range(10))
        clf.partial_fit(X[:5], y[:5])
        assert clf.predict_proba(X).shape == (len(X), 10)

    def test_a_skorch_net(self):
        net = NeuralNetClassifier(module(), criterion=nn.CrossEntropyLoss, verbose=0, max_epochs=1)
        net.fit(X, y)
        clf = LaplaceUpdateClassifier(net, head="pretrained", **PLAIN).fit(X, y)
        logits = torch.as_tensor(net.forward(X))
        np.testing.assert_allclose(clf.decision_function(X), logits, atol=1e-6)

    @pytest.mark.parametrize(
        ("extractor", "message"),
        [
            (None, r"needs a feature_extractor .*; got None"),
            (np.square, "last nn.Linear of an nn.Module or skorch net.*got ufunc"),
            (TorchFeatures(module(), layer="0"), r"got layer='0'"),
            (module(7), r"has 7 outputs for 10 classes .* Pass classes="),
        ],
    )
    def test_a_head_that_is_not_there(self, extractor, message):
        with pytest.raises(ValueError, match=message):
            LaplaceUpdateClassifier(extractor, head="pretrained").fit(X, y)

    @pytest.mark.parametrize("how", ["fit", "partial_fit", "argument", "pickle", "file"])
    @pytest.mark.parametrize("dtype", [str, object, int])
    def test_outputs_in_the_order_of_classes(self, how, dtype, tmp_path):
        network = module(3)
        given = np.array(["30", "100", "9"]).astype(dtype)
        A, b = X[:60], given[np.arange(60) % 3]
        expected = torch.softmax(network(torch.from_numpy(A)), dim=1).detach().numpy()
        order = np.argsort(given)
        if how == "argument":
            clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN)
            clf.partial_fit(A, b, classes=given, sample_weight=1e-12)
        else:
            clf = LaplaceUpdateClassifier(network, head="pretrained", classes=given, **PLAIN)
            if how == "partial_fit":
                clf.partial_fit(A, b, sample_weight=1e-12)
            else:
                clf.fit(A, b)
        if how == "pickle":
            clf = pickle.loads(pickle.dumps(clf))
        if how == "file" and dtype is not object:
            clf.save(tmp_path / "clf")
            clf = LaplaceUpdateClassifier.load(tmp_path / "clf", network)
        np.testing.assert_array_equal(clf.classes_, np.sort(given))
        np.testing.assert_allclose(clf.predict_proba(A), expected[:, order], atol=1e-9)
        np.testing.assert_array_equal(clf.predict(A), given[expected.argmax(axis=1)])
        new = np.array(["5"]).astype(dtype)
        clf.add_classes(new)
        places = np.searchsorted(clf.classes_, given)
        logits = network(torch.from_numpy(A)).detach().numpy()
        np.testing.assert_allclose(clf.decision_function(A)[:, places], logits, atol=1e-9)

    @pytest.mark.parametrize("n_outputs", [1, 2])
    def test_two_outputs_in_the_order_of_classes(self, n_outputs):
        network = module(n_outputs)
        clf = LaplaceUpdateClassifier(
            network, head="pretrained", classes=["yes", "no"], predictive="plug_in"
        )
        clf.set_params(calibration=None).fit(X[:20], np.array(["no", "yes"] * 10))
        logits = network(torch.from_numpy(X)).detach().numpy()
        of_no = softmax(logits, axis=1)[:, 1] if n_outputs == 2 else expit(logits[:, 0])
        np.testing.assert_allclose(clf.predict_proba(X), np.c_[of_no, 1 - of_no], atol=1e-12)

    @pytest.mark.parametrize(
        "labels", [np.arange(11).astype(str), [f"LABEL_{i}" for i in range(11)]]
    )
    def test_an_order_that_texts_have_and_outputs_have_not(self, labels):
        labels = np.asarray(labels)
        network, b = module(len(labels)), labels[np.arange(66) % len(labels)]
        clf = LaplaceUpdateClassifier(network, head="pretrained")
        with pytest.raises(ValueError, match=r"which is hardly the order .* Pass classes="):
            clf.fit(X[:66], b)
        clf.set_params(classes=labels, **PLAIN).fit(X[:66], b)
        outputs = network(torch.from_numpy(X[:66])).detach().numpy().argmax(axis=1)
        np.testing.assert_array_equal(clf.predict(X[:66]), labels[outputs])

    @pytest.mark.parametrize("n_classes", [2, 3])
    @pytest.mark.parametrize("how", ["fit", "partial_fit"])
    def test_labels_that_fit_another_order_are_told(self, n_classes, how):
        network = module(n_classes)
        outputs = network(torch.from_numpy(X)).detach().numpy().argmax(axis=1)
        names = np.array(["zebra", "ant", "cow"])[:n_classes]
        b = names[outputs]
        clf = LaplaceUpdateClassifier(network, head="pretrained", classes=np.sort(names))
        with pytest.warns(UserWarning, match=r"would 100% if its outputs .* Pass classes=") as said:
            getattr(clf, how)(X[:200], b[:200])
        assert said[0].filename == __file__
        clf = LaplaceUpdateClassifier(network, head="pretrained", classes=names)
        assert getattr(clf, how)(X[:200], b[:200]).score(X, b) > 0.95

    def test_the_order_of_a_skorch_net(self):
        names = np.array(["10", "9", "z"])
        net = NeuralNetClassifier(
            module(3), criterion=nn.CrossEntropyLoss, classes=names, verbose=0, max_epochs=1
        )
        b = np.arange(90) % 3
        net.fit(X[:90], b)
        clf = LaplaceUpdateClassifier(net, head="pretrained", **PLAIN).fit(X[:90], names[b])
        np.testing.assert_array_equal(clf.predict(X), names[net.forward(X).numpy().argmax(1)])

    @pytest.mark.parametrize("ends", [[nn.Softmax(dim=1)], [nn.LogSoftmax(dim=1)]])
    def test_what_softmax_makes_of_it(self, ends):
        network = nn.Sequential(*module(), *ends).float()
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN).fit(X[:100], y[:100])
        expected = softmax(module().float()(torch.from_numpy(X).float()).detach(), axis=1)
        np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda z: -z, "-1 times"),
            (lambda z: z * 20, "20 times"),
            (lambda z: z.flip(1), "in another order"),
            (torch.sigmoid, "a sigmoid for each class on its own"),
            (lambda z: torch.nn.functional.dropout(z), "is not made by one"),
        ],
    )
    @pytest.mark.parametrize("how", ["fit", "partial_fit", "_fit_in_blocks"])
    @pytest.mark.filterwarnings("ignore:feature_extractor .* has no nn.Linear:UserWarning")
    def test_a_network_that_is_not_its_head(self, change, found, how):
        network = module()
        network.register_forward_hook(lambda net, args, output: change(output))
        params = {"head": "pretrained", "prior_precision": 1.0, "classes": range(10)}
        clf = LaplaceUpdateClassifier(network, **params)
        call = getattr(clf, how)
        rows = (X[:9], y, None, None) if how == "_fit_in_blocks" else (X[:50], y[:50])
        with pytest.raises(ValueError, match=rf"{found}.*head='fit'"):
            call(*rows)
        assert not hasattr(clf, "posterior_")
        if found.endswith("times"):
            assert LaplaceUpdateClassifier(network).fit(X, y).score(X, y) > 0.8

    def test_what_only_some_inputs_of_the_first_batch_show(self):
        network = module()
        clf, odd = LaplaceUpdateClassifier(network, head="pretrained"), X.copy()
        network.register_forward_hook(
            lambda net, args, z: torch.where(args[0][:, :1] > 2, z.flip(1), z)
        )
        clf.fit(odd, y)
        odd[100, 0] = 3.0
        with pytest.raises(ValueError, match=r"off by up to .* from what its last nn\.Linear '2'"):
            clf.fit(odd, y)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_coarse_networks(self, dtype):
        network = module().to(dtype)
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN).fit(X[:100], y[:100])
        logits = network(torch.from_numpy(X).to(dtype)).detach().float()
        np.testing.assert_allclose(clf.decision_function(X), logits, atol=0.05)

    def test_a_bias_is_not_dropped(self):
        clf = LaplaceUpdateClassifier(module(), head="pretrained", fit_intercept=False)
        with pytest.raises(ValueError, match="bias, which fit_intercept=False would drop"):
            clf.fit(X, y)


class TestNetworkThatChanges:
    """Features of other weights are not mixed with what was learnt on the old ones."""

    CALLS = {
        "predict": lambda clf: clf.predict(X[:5]),
        "transform": lambda clf: clf.transform(X[:5]),
        "sample": lambda clf: clf.sample_proba(X[:5], 2),
        "pool": lambda clf: clf.pool_state(X[:5]),
        "partial_fit": lambda clf: clf.partial_fit(X[:5], y[:5]),
        "known features": lambda clf: clf.partial_fit(Extracted(np.ones((1, 16))), [0]),
        "refit on them": lambda clf: clf.fit(Extracted(np.ones((10, 16))), range(10)),
    }

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("wrap", [lambda net: net, TorchFeatures])
    def test_calls_are_refused_until_the_next_fit(self, call, wrap):
        network = module()
        clf = LaplaceUpdateClassifier(wrap(network), classes=range(10)).fit(X[:100], y[:100])
        expected, before = clf.predict_proba(X), copy.deepcopy(network.state_dict())
        with torch.no_grad():
            network[0].weight.add_(0.1)
        state = vars(clf)
        with pytest.raises(RuntimeError, match=r"Sequential has other weights .* Fit again"):
            self.CALLS[call](clf)
        assert vars(clf) is state
        twin = copy.deepcopy(clf).fit(X[:100], y[:100])
        assert not np.allclose(twin.predict_proba(X), expected)
        network.load_state_dict(before)
        np.testing.assert_array_equal(clf.predict_proba(X), expected)
        self.CALLS[call](clf)

    def test_a_copy_in_another_process_or_place_does_not_mind(self):
        clf = LaplaceUpdateClassifier(module()).fit(X[:100], y[:100])
        expected = clf.predict(X)
        for twin in (copy.deepcopy(clf), pickle.loads(pickle.dumps(clf))):
            np.testing.assert_array_equal(twin.predict(X), expected)

    def test_a_skorch_net_that_is_trained_further(self):
        net = NeuralNetClassifier(module(), criterion=nn.CrossEntropyLoss, verbose=0, max_epochs=1)
        net.fit(X, y)
        clf = LaplaceUpdateClassifier(net).fit(X, y)
        for train in (net.partial_fit, net.fit):
            train(X, y)
            with pytest.raises(RuntimeError, match="has other weights"):
                clf.predict(X)
            clf.fit(X, y).predict(X)


class TestScikitLearn:
    def test_pipeline(self):
        pipeline = make_pipeline(StandardScaler(), LaplaceUpdateClassifier(module()))
        assert cross_val_score(pipeline, X[:500], y[:500], cv=3).mean() > 0.7

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_grid_search(self, n_jobs):
        search = GridSearchCV(
            LaplaceUpdateClassifier(),
            {"prior_precision": [1.0, 1e3]},
            scoring="neg_log_loss",
            n_jobs=n_jobs,
            cv=3,
        )
        assert search.fit(X[:300], y[:300]).best_params_ == {"prior_precision": 1.0}

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_grid_search_through_a_pipeline_with_a_network(self, n_jobs):
        network = module()
        pipeline = make_pipeline(StandardScaler(), LaplaceUpdateClassifier(network))
        grid = {"laplaceupdateclassifier__prior_precision": [0.1, 10.0]}
        search = GridSearchCV(pipeline, grid, n_jobs=n_jobs, cv=2).fit(X[:200], y[:200])
        assert search.best_estimator_[-1].feature_extractor is network
        assert search.best_score_ > 0.5

    def test_calibrated_classifier(self):
        clf = CalibratedClassifierCV(LaplaceUpdateClassifier(), cv=3).fit(X[:300], y[:300])
        assert clf.score(X[300:], y[300:]) > 0.8

    @pytest.mark.parametrize("extractor", [None, module()])
    def test_joblib_dump(self, extractor, tmp_path):
        clf = LaplaceUpdateClassifier(extractor).fit(X[:100], y[:100])
        joblib.dump(clf, tmp_path / "clf.joblib")
        twin = joblib.load(tmp_path / "clf.joblib")
        np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
        twin.partial_fit(X[100:120], y[100:120])

    @pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
    @pytest.mark.parametrize("extractor", [None, module()])
    def test_frames(self, frame, extractor):
        names = [f"pixel {i}" for i in range(64)]
        named = frame(dict(zip(names, X.T, strict=True)))
        labels = pd.Series(y) if frame is pd.DataFrame else pl.Series(y)
        clf = LaplaceUpdateClassifier(extractor).fit(named[:100], labels[:100])
        assert clf.feature_names_in_.tolist() == names
        clf.partial_fit(named[100:150], labels[100:150])
        expected = LaplaceUpdateClassifier(extractor).fit(X[:100], y[:100])
        expected.partial_fit(X[100:150], y[100:150])
        np.testing.assert_array_equal(clf.predict_proba(named), expected.predict_proba(X))
        other = frame(dict(zip(["other", *names[1:]], X.T, strict=True)))
        with pytest.raises(ValueError, match="feature names should match"):
            clf.predict(other)

    def test_read_only_memory_map(self, tmp_path):
        np.save(tmp_path / "X.npy", X)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        clf = LaplaceUpdateClassifier().fit(mapped[:100], y[:100])
        clf.partial_fit(mapped[100:150], y[100:150]).predict_proba(mapped)

    def test_set_output_of_transform(self):
        clf = LaplaceUpdateClassifier(module()).set_output(transform="pandas").fit(X, y)
        assert clf.transform(X).columns[-1] == "laplaceupdateclassifier15"

    def test_results_own_their_memory(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100])
        before = arrays(clf)
        for array in (clf.coef_, clf.intercept_, clf.transform(X[:3])):
            array[:] = np.nan
        assert same(before, arrays(clf))

    def test_no_warnings(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LaplaceUpdateClassifier().fit(X, y).partial_fit(X, y).predict_proba(X)


WRONG = {
    "prior_precision": [0, -1.0, np.nan, np.inf, None],
    "covariance": ["diagonal", None],
    "curvature": ["hessian"],
    "update": ["sgd"],
    "step_size": [0, -1],
    "n_passes": [0, 1.5],
    "predictive": ["probit"],
    "n_samples": [0],
    "fit_intercept": ["yes"],
    "head": ["train"],
    "classes": [3],
    "class_weight": ["auto"],
    "forgetting": [0, 1.1],
    "dtype": ["float16"],
    "max_iter": [0],
    "tol": [-1],
    "warm_start": ["yes"],
    "batch_size": [0],
    "device": [3],
    "random_state": ["seed"],
    "verbose": ["yes"],
}


class TestErrors:
    """Each names the argument, and leaves the object bit for bit as it was."""

    @pytest.fixture(params=[None, "network"])
    def fitted(self, request):
        extractor = None if request.param is None else module()
        return LaplaceUpdateClassifier(extractor).fit(X[:100], y[:100])

    @staticmethod
    def check(clf, method, args, match, error=ValueError, **kwargs):
        before, numbers = dict(vars(clf)), arrays(clf) if hasattr(clf, "posterior_") else []
        with pytest.raises(error, match=match):
            getattr(clf, method)(*args, **kwargs)
        assert vars(clf) == before
        assert same(numbers, arrays(clf) if numbers else [])

    @pytest.mark.parametrize(
        ("name", "value"),
        [(name, value) for name in WRONG for value in WRONG[name]],
    )
    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_wrong_parameters(self, name, value, method):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).set_params(**{name: value})
        match = (
            rf"The '{name}' parameter of LaplaceUpdateClassifier must be .*Got {value!r} instead"
        )
        self.check(clf, method, (X, y), match)

    def test_wrong_parameters_of_a_prediction(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).set_params(predictive="probit")
        self.check(clf, "predict_proba", (X,), "The 'predictive' parameter")

    def test_a_change_of_dtype_waits_for_the_next_fit(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).set_params(dtype="float32")
        assert clf.partial_fit(X[100:110], y[100:110]).posterior_.mean.dtype == torch.float64
        assert clf.predict_proba(X).shape == (len(X), 10)
        assert clf.fit(X[:100], y[:100]).posterior_.mean.dtype == torch.float32

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_inputs_that_are_not_finite(self, fitted, method, wrong):
        A = X[:5].copy()
        A[2, 3] = wrong
        self.check(fitted, method, (A, y[:5]), "Input X contains (NaN|infinity)")
        self.check(fitted, "predict", (A,), "Input X contains (NaN|infinity)")

    def test_the_number_of_features(self, fitted):
        match = "X has 63 features, but LaplaceUpdateClassifier is expecting 64"
        self.check(fitted, "partial_fit", (X[:5, 1:], y[:5]), match)
        self.check(fitted, "predict", (X[:5, 1:],), match)

    def test_sparse_inputs(self, fitted):
        self.check(fitted, "fit", (csr_matrix(X), y), "dense data is required", TypeError)

    def test_labels_outside_classes(self, fitted):
        match = r"labels that are not among the classes: \[11, 12\]; known are \[0, .*add_classes"
        self.check(fitted, "partial_fit", (X[:3], [1, 11, 12]), match)
        clf = LaplaceUpdateClassifier(classes=[0, 1])
        self.check(clf, "fit", (X[:3], [0, 1, 2]), r"not among the classes: \[2\]")

    def test_no_classes_on_the_first_partial_fit(self):
        clf = LaplaceUpdateClassifier()
        match = "classes must be passed on the first call to partial_fit"
        self.check(clf, "partial_fit", (X, y), match)

    def test_other_classes_on_a_later_partial_fit(self, fitted):
        match = "is not the same as on last call to partial_fit"
        self.check(fitted, "partial_fit", (X[:3], y[:3]), match, classes=range(9))
        fitted.partial_fit(X[:3], y[:3], classes=range(10))

    def test_other_classes_than_the_parameter(self):
        clf = LaplaceUpdateClassifier(classes=range(10))
        self.check(clf, "partial_fit", (X[:3], y[:3]), "the parameter classes", classes=range(9))

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    @pytest.mark.parametrize(
        ("weights", "match"),
        [
            ([1, -1, 1], "sample_weight must be >= 0; got -1"),
            ([0, 0, 0], "sample_weight is zero for every instance"),
            ([1, np.nan, 1], "sample_weight must hold finite numbers.* contains NaN"),
            ([1, None, 1], "sample_weight must hold finite numbers.* contains NaN"),
            (pd.array([1, None, 1], dtype="Int64"), "sample_weight must hold finite.* NaN"),
            ([1, pd.NA, 1], "sample_weight must hold finite numbers"),
            (np.ma.array([1, 9, 1], mask=[0, 1, 0]), "sample_weight has masked values, 1 of 3"),
            (np.array(["2020"] * 3, dtype="datetime64[Y]"), "sample_weight .* datetime64"),
            (iter([1, 2, 3]), "sample_weight must hold finite numbers"),
            ([1, 1], r"sample_weight must have shape \(3,\).* got \(2,\)"),
        ],
    )
    def test_wrong_weights(self, fitted, method, weights, match):
        self.check(fitted, method, (X[:3], y[:3]), match, sample_weight=weights)

    @pytest.mark.parametrize(
        "method",
        [
            "fit",
            "partial_fit",
            "newton_decrement",
            "predict",
            "predict_proba",
            "transform",
            "score",
        ],
    )
    def test_masked_values(self, fitted, method):
        masked = np.ma.array(X[:3], mask=np.arange(X[:3].size).reshape(X[:3].shape) == 1)
        args = (y[:3],) if method in ("fit", "partial_fit", "newton_decrement", "score") else ()
        self.check(fitted, method, (masked, *args), r"X has masked values, 1 of .*X.filled")
        labels = np.ma.array(y[:3], mask=[False, True, False])
        if method == "score":
            weights = np.ma.array(np.ones(3), mask=[False, True, False])
            match = "sample_weight has masked values"
            self.check(fitted, method, (X[:3], y[:3]), match, sample_weight=weights)
        if args:
            match = "y must hold labels; got a masked label at position 1"
            self.check(fitted, method, (X[:3], labels), match)

    @pytest.mark.parametrize("method", ["fit", "partial_fit", "newton_decrement", "score"])
    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            ([0, None, 1], "y must hold labels; got None at position 1"),
            (["a", np.nan, "b"], "y must hold labels; got nan at position 1"),
            ([0, "a", 1], "y must hold labels of one kind"),
            ([True, 2, 1], "y must hold labels of one kind"),
            ([b"a", b"b", b"c"], r"label.decode\(\)"),
        ],
    )
    def test_labels_that_are_none(self, fitted, method, labels, match):
        self.check(fitted, method, (X[:3], labels), match)

    def test_negative_class_weight(self, fitted):
        fitted.set_params(class_weight={0: -1.0})
        self.check(fitted, "fit", (X, y), "class_weight must be >= 0")

    @pytest.mark.parametrize("method", ["fit", "partial_fit", "newton_decrement"])
    @pytest.mark.parametrize(
        "class_weight",
        [{0: np.nan}, {0: np.inf}, {0: 1e16}, {0: -1e-300}, dict.fromkeys(range(10), 0), {"0": 1}],
    )
    def test_wrong_weights_of_classes(self, fitted, method, class_weight):
        fitted.set_params(class_weight=class_weight)
        self.check(fitted, method, (X, y), "class_weight must .*got .*Give")

    def test_balanced_weights_of_a_stream(self, fitted):
        fitted.set_params(class_weight="balanced")
        self.check(fitted, "partial_fit", (X, y), "needs all labels at once")

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_wrong_labels(self, fitted, method):
        self.check(fitted, method, (X[:3], [0.5, 1.2, 3.7]), "Unknown label type")
        self.check(fitted, method, (X[:3], y[:2]), "y must have one label per row of X: 3; got 2")
        self.check(fitted, method, (X[:3], None), "requires y to be passed")

    def test_one_class(self, fitted):
        self.check(fitted, "fit", (X[:3], [1, 1, 1]), r"at least 2 classes to fit; got 1 class")
        weights = [1, 1, 0]
        match = r"positive weight: \[1\]. Pass classes="
        self.check(fitted, "fit", (X[:3], [1, 1, 0]), match, sample_weight=weights)
        clf = LaplaceUpdateClassifier(classes=["one"])
        self.check(clf, "fit", (X[:3], ["one"] * 3), "classes must hold at least 2 labels")

    @pytest.mark.parametrize(
        ("extractor", "match"),
        [
            (lambda X: X[:, 0], r"one row of features per input"),
            (lambda X: X * np.nan, "NaN or infinity for 2 of 2 inputs"),
            (lambda X: X[:, : len(X)], r"returned 5 features, but 2 when it was fitted"),
            (convolutional(), "has the convolution '1' as its head"),
            (TorchFeatures(module(), layer="fc"), r"layer='fc' is not a layer"),
        ],
    )
    def test_wrong_extractors(self, fitted, extractor, match):
        fitted.set_params(feature_extractor=extractor)
        self.check(fitted, "fit", (X[:5], y[:5]), match)
        self.check(LaplaceUpdateClassifier(extractor), "fit", (X[:5], y[:5]), match)

    def test_a_device_that_is_not_there(self, fitted):
        fitted.set_params(device="cuda:99")
        self.check(fitted, "fit", (X, y), r"device='cuda:99' is not available.*device='cpu'")

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
    def test_failures_inside_the_network(self, method, error):
        network = module()
        clf = LaplaceUpdateClassifier(network).fit(X[:100], y[:100])

        def fail(*_):
            raise error

        handle = network[0].register_forward_hook(fail)
        self.check(clf, method, (X, y), None, error)
        handle.remove()
        clf.partial_fit(X[:5], y[:5])


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
