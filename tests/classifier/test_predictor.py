import copy

import numpy as np
import pytest
import torch
from classifier_cases import (
    N_CLASSES,
    PLAIN,
    X,
    data,
    y,
)
from scipy.special import entr, expit, log_softmax, softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from torch.utils._python_dispatch import TorchDispatchMode

from laplace_al import LaplaceUpdateClassifier
from laplace_al.classifier.fitted import drawn_seed
from laplace_al.classifier.predictor import Predictor


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

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
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

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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
        change = after.calibration_.scores - before.calibration_.scores
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
        before = clf.calibration_.scores.copy()
        clf.partial_fit(A[60:61], b[60:61])
        kept.partial_fit(A[60:61], b[60:61])
        change = kept.calibration_.scores - before  # of the label, under hardly another model
        np.testing.assert_allclose(clf.calibration_.scores, 0.9 * before + change, atol=0.5)
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


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
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


class TestQuestions:
    READERS = {
        "decision_function",
        "latent_mean_and_variance",
        "pool_features",
        "pool_state",
        "predict",
        "predict_log_proba",
        "predict_proba",
        "predict_uncertainty",
        "sample_proba",
        "transform",
    }

    @pytest.mark.parametrize("name", sorted(READERS))
    @pytest.mark.parametrize("predictive", ["mean_field", "monte_carlo"])
    def test_they_change_nothing(self, name, predictive):
        clf = LaplaceUpdateClassifier(predictive=predictive, n_samples=20).fit(X[:30], y[:30])
        before = copy.copy(vars(clf))
        getattr(clf, name)(X[:5])
        assert vars(clf) == before

    def test_all_are_listed_here(self):
        said = {name for name in vars(Predictor) if callable(getattr(Predictor, name))}
        assert {name for name in said if not name.startswith(("_", "set_"))} == self.READERS | {
            "score"
        }


def test_a_seed_is_itself_drawn_alike():
    assert drawn_seed(3) == drawn_seed(np.random.RandomState(3)) != drawn_seed(4)
