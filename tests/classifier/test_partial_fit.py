import copy
import pickle

import numpy as np
import pytest
import torch
from classifier_cases import (
    N_CLASSES,
    PAPER,
    PLAIN,
    SETTINGS,
    X,
    arrays,
    assert_refused,
    data,
    module,
    same,
    y,
)
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch import nn

from laplace_al import LaplaceUpdateClassifier


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

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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
        for covariance in ("shared", "per_class", "low_rank", "full"):
            clf = LaplaceUpdateClassifier(covariance=covariance, classes=range(2), **PLAIN)
            of[covariance] = clf.partial_fit(A[order], b[order]).posterior_.precision.numpy()
        np.testing.assert_allclose(of["per_class"], of["shared"], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(of["full"], of["shared"], rtol=1e-8, atol=1e-10)


class TestForgetting:
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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
        assert_refused(clf, "add_classes", (labels,), match)

    def test_before_fit(self):
        with pytest.raises(NotFittedError):
            LaplaceUpdateClassifier().add_classes([1])


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


def memory_of(clf):
    return clf.fitted_.model.memory


class TestMemory:
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
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

    @pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
    def test_more_memory_is_closer_to_a_refit(self, covariance):
        A = X[:, 18:38]
        params = PLAIN | {"covariance": covariance, "prior_precision": 0.01}
        refitted = LaplaceUpdateClassifier(**params).fit(A[:160], y[:160]).predict_proba(A)
        distance = []
        for memory_size in (0, 60, 120, 160):
            clf = LaplaceUpdateClassifier(memory_size=memory_size, **params).fit(A[:100], y[:100])
            for row in range(100, 160):
                clf.partial_fit(A[[row]], y[[row]])
            assert memory_of(clf) is None or len(memory_of(clf).features) == min(memory_size, 160)
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
        before, evidence = clf.fitted_, clf.log_marginal_likelihood()
        assert clf.partial_fit(A[b == 2], b[b == 2]) is clf
        assert clf.fitted_ is before
        assert clf.log_marginal_likelihood() == evidence
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
            assert_refused(clf, "partial_fit", (A[:1], b[:1]), match)  # before it is full
            assert_refused(clf.fit(A[:50], b[:50]), "partial_fit", (A[:1], b[:1]), match)

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
        assert len(memory_of(clf).features) == 10
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
        assert len(memory_of(clf).features) == 50
        assert memory_of(clf.set_params(memory_size=0).partial_fit(X[:1], y[:1])) is None

    def test_it_survives_a_pickle(self):
        clf = LaplaceUpdateClassifier(memory_size=30).fit(X[:100], y[:100])
        other = pickle.loads(pickle.dumps(clf))
        for each in (clf, other):
            each.partial_fit(X[100:110], y[100:110])
        assert same(arrays(clf), arrays(other))
