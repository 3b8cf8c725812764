import numpy as np
import pytest
import torch
from classifier_cases import AT_A_BOUND, X, arrays, data, module, same, y
from scipy.ndimage import rotate
from scipy.special import expit, log_softmax, softmax
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetClassifier
from torch import nn

from laplace_al import LaplaceUpdateClassifier


class TestNewtonDecrement:
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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


class TestEvidence:
    def test_it_is_that_of_the_fit(self):
        A, b = data(3)
        clf = LaplaceUpdateClassifier(prior_precision=1.0).fit(A, b)
        assert clf.log_marginal_likelihood() == clf.log_marginal_likelihood_value_
        assert clf.log_marginal_likelihood(1.0) == pytest.approx(clf.log_marginal_likelihood())

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
    @pytest.mark.parametrize("n_classes", [2, 3])
    @pytest.mark.parametrize("memory_size", [0, None])
    @pytest.mark.parametrize("curvature", ["secant", "categorical"])
    def test_its_derivative_is_that_of_refits(self, covariance, n_classes, memory_size, curvature):
        A, b = data(n_classes)
        A = A[:, 18:30]
        weights = np.random.default_rng(0).integers(0, 4, size=len(b))
        params = {
            "covariance": covariance,
            "memory_size": memory_size,
            "curvature": curvature,
            "tol": 1e-8,
        }

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

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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

    @pytest.mark.parametrize("value", [2.0, torch.tensor(1.0, requires_grad=True)])
    def test_of_much_data_another_value_or_a_gradient_takes_it(self, value):
        clf = LaplaceUpdateClassifier(prior_precision=1.0).fit(X[:500], y[:500])
        with pytest.raises(ValueError, match=r"another prior_precision .* memory_size=None"):
            clf.log_marginal_likelihood(value)

    def test_the_data_is_gone(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).partial_fit(X[100:101], y[100:101])
        with pytest.raises(ValueError, match=r"is not available.* with memory_size=None"):
            clf.log_marginal_likelihood()
        assert not hasattr(clf, "log_marginal_likelihood_value_")
