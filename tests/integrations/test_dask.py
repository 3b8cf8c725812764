import contextlib
import copy
import enum
import itertools
import os
import signal
import subprocess
import sys
import threading

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
import simulated_device
import torch
from counting_network import CountingNetwork
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, TorchFeatures, compare
from laplace_al.integrations import dask as over_blocks
from laplace_al.model import block_fitting
from laplace_al.model.posterior import SharedPosterior
from laplace_al.strategies import (
    BADGE,
    BALD,
    CoreSet,
    MarginSampling,
    PowerSampling,
    Preselection,
    RandomSampling,
    VarianceSampling,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2000, 6))
y = np.array(["a", "b", "c"])[(X @ RNG.normal(size=(6, 3))).argmax(axis=1)]
X_BLOCKS = da.from_array(X, chunks=((700, 0, 300, 1000), (4, 2)))


class Letter(str, enum.Enum):  # noqa: UP042  a StrEnum is not cut to pieces
    A, B, C = "a", "b", "c"


SETTINGS = [
    {},
    {"covariance": "shared", "curvature": "gaussian", "calibration": None},
    {"covariance": "full", "class_weight": "balanced", "fit_intercept": False},
]


def close(found, expected, tol=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)


@pytest.fixture(scope="module")
def client():
    """Two processes of one thread each."""
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def here():
    """No cluster: Dask's threads of this process are not needed to compare numbers."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def fitted():
    return LaplaceUpdateClassifier().fit(X[:60], y[:60])


@pytest.mark.usefixtures("here")
class TestInOneProcess:
    @pytest.mark.parametrize("params", SETTINGS, ids=str)
    def test_fit_is_that_of_memory(self, params):
        weights = RNG.integers(0, 3, size=2000)
        expected = LaplaceUpdateClassifier(tol=1e-11, **params).fit(X, y, weights)
        clf = LaplaceUpdateClassifier(tol=1e-11, **params)
        assert over_blocks.fit(clf, X_BLOCKS, da.from_array(y, chunks=500), weights) is clf
        close(clf.predict_proba(X), expected.predict_proba(X))
        close(clf.posterior_.precision, expected.posterior_.precision, 1e-8)
        assert clf.classes_.tolist() == ["a", "b", "c"]
        assert clf.n_features_in_ == 6
        assert clf.temperature_ == pytest.approx(expected.temperature_)
        if clf.calibration:
            close(clf.loo_score_, expected.loo_score_)
            close(clf.log_marginal_likelihood(), expected.log_marginal_likelihood())
            with pytest.raises(ValueError, match=r"is not available.* fit was over blocks"):
                clf.log_marginal_likelihood(2.0)
        for each in (clf, expected):
            each.set_params(class_weight=None).partial_fit(X[:5], y[:5])
        close(clf.predict_proba(X), expected.predict_proba(X))

    def test_fit_examines_some_classes_at_a_time(self, monkeypatch):
        expected = over_blocks.fit(LaplaceUpdateClassifier(covariance="shared"), X_BLOCKS, y)
        monkeypatch.setattr(block_fitting, "_BYTES_AT_ONCE", 1)
        clf = over_blocks.fit(LaplaceUpdateClassifier(covariance="shared"), X_BLOCKS, y)
        close(clf.posterior_.precision, expected.posterior_.precision, 1e-12)
        close(clf.loo_score_, expected.loo_score_, 1e-12)

    def test_fit_with_an_extractor(self):
        network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        expected = LaplaceUpdateClassifier(network, tol=1e-11).fit(X, y)
        clf = over_blocks.fit(LaplaceUpdateClassifier(network, tol=1e-11), X_BLOCKS, y)
        close(clf.predict_proba(X), expected.predict_proba(X))

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_fit_by_the_scale_of_all_blocks(self, dtype):
        clf = LaplaceUpdateClassifier(dtype=dtype)
        A = X * np.logspace(-1, 1, X.shape[1]) + 0.5
        weights = np.random.default_rng(0).integers(0, 3, size=len(A))
        over_blocks.fit(clf, da.from_array(A, chunks=(300, -1)), y, weights)
        expected = clone(clf).fit(A, y, weights)
        assert clf.prior_precision_ == pytest.approx(expected.prior_precision_, rel=1e-4)
        assert clf.prior_precision == "scale"

    def test_partial_fit_by_the_scale_of_the_first_block(self):
        clf = over_blocks.partial_fit(LaplaceUpdateClassifier(), X_BLOCKS, y, classes=np.unique(y))
        first = X_BLOCKS.chunks[0][0]
        expected = LaplaceUpdateClassifier().partial_fit(X[:first], y[:first], np.unique(y))
        assert clf.prior_precision_ == expected.prior_precision_
        assert clf.prior_precision == "scale"
        over_blocks.partial_fit(clf, 100 * X_BLOCKS, y)
        assert clf.prior_precision_ == expected.prior_precision_

    def test_the_scale_of_a_block_around_a_pretrained_head(self):
        network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
        clf = LaplaceUpdateClassifier(network, head="pretrained", classes=np.unique(y))
        expected = clone(clf).partial_fit(X[:700], y[:700])
        over_blocks.partial_fit(clf, X_BLOCKS, y)
        assert clf.prior_precision_ == pytest.approx(expected.prior_precision_)

    def test_fit_that_fails_leaves_the_classifier(self, fitted):
        clf = clone(fitted).fit(X[:60], y[:60])
        before = dict(vars(clf))
        with pytest.raises(ValueError, match="one label per row of X: 2000; got"):
            over_blocks.fit(clf, X_BLOCKS, y[:-1])
        with pytest.raises(ValueError, match="needs a number or 'scale' for prior_precision"):
            over_blocks.fit(clf.set_params(prior_precision="loo"), X_BLOCKS, y)
        clf.set_params(prior_precision="scale")
        with pytest.raises(ValueError, match="at least 2 classes"):
            over_blocks.fit(clf, X_BLOCKS, np.full(2000, "a"))
        assert vars(clf) == before

    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            ([None, *y[1:]], "y must hold labels; got None at position 0"),
            (np.ma.array(y, mask=y == y[0]), "got a masked label at position 0"),
            (da.from_array(np.ma.array(y, mask=y == y[0])), "got a masked label at position 0"),
            ([0, *y[1:]], "of one kind; got numbers and text"),
        ],
    )
    def test_labels_that_are_none(self, labels, match):
        for learn in (over_blocks.fit, over_blocks.partial_fit):
            with pytest.raises(ValueError, match=match):
                learn(LaplaceUpdateClassifier(classes=["a", "b", "c"]), X_BLOCKS, labels)

    @pytest.mark.parametrize("blocks", [False, True])
    def test_members_of_an_enum(self, blocks):
        members = [Letter(label) for label in y]
        if blocks:
            members = da.from_array(np.array(members, dtype=object), chunks=500)
        for learn, given in (
            (over_blocks.fit, {}),
            (over_blocks.partial_fit, {"classes": list(Letter)}),
        ):
            clf = learn(LaplaceUpdateClassifier(prior_precision=1.0), X_BLOCKS, members, **given)
            twin = learn(LaplaceUpdateClassifier(prior_precision=1.0), X_BLOCKS, y, **given)
            np.testing.assert_array_equal(clf.predict_proba(X), twin.predict_proba(X))

    def test_a_pool_of_members_of_an_enum(self, fitted):
        pool = over_blocks.Pool(fitted, X_BLOCKS).teach([0, 1], [Letter.A, Letter.B])
        pool.teach(2, Letter.C)
        assert pool.labels_.tolist() == ["a", "b", "c"]
        for label in (None, np.nan, 1, b"a"):
            with pytest.raises(ValueError, match=r"y (must hold|has) labels"):
                pool.teach(3, label)

    def test_masked_weights(self):
        weights = np.ma.array(np.ones(2000), mask=np.arange(2000) == 7)
        for given in (weights, da.from_array(weights, chunks=500)):
            with pytest.raises(ValueError, match="sample_weight has masked values, 1 of 2000"):
                over_blocks.fit(LaplaceUpdateClassifier(), X_BLOCKS, y, given)

    def test_weights_of_classes(self):
        weights = np.where(y == "a", 3.0, 0.5)
        clf = LaplaceUpdateClassifier(class_weight="balanced")
        expected = clone(clf).fit(X, y, weights)
        close(over_blocks.fit(clf, X_BLOCKS, y, weights).coef_, expected.coef_, 1e-6)
        before = dict(vars(clf.set_params(class_weight={"a": np.nan})))
        with pytest.raises(ValueError, match=r"class_weight must be >= 0.*got \{'a': nan\}"):
            over_blocks.fit(clf, X_BLOCKS, y, weights)
        assert vars(clf) == before

    def test_unknown_sizes(self, fitted):
        unknown = X_BLOCKS[X_BLOCKS[:, 0] > 0]
        known = X[X[:, 0] > 0]
        assert np.isnan(unknown.shape[0])
        found = over_blocks.query(MarginSampling(random_state=0), fitted, unknown, 9)
        expected = MarginSampling(random_state=0).query(fitted, known, 9)
        np.testing.assert_array_equal(found, expected)
        close(over_blocks.predict_proba(fitted, unknown).compute(), fitted.predict_proba(known))
        close(over_blocks.features(unknown, np.square).compute(), known**2)
        assert np.isnan(unknown.shape[0])

    @pytest.mark.parametrize("weights", [np.ones(2001), 2.0, np.ones((2000, 1))])
    def test_one_weight_for_each_row(self, fitted, weights):
        for learn in (over_blocks.fit, over_blocks.partial_fit):
            with pytest.raises(ValueError, match=r"sample_weight must have shape \(2000,\)"):
                learn(clone(fitted), X_BLOCKS, y, sample_weight=weights)

    def test_parameters_stay_the_objects_that_they_are(self, client):
        clf = LaplaceUpdateClassifier(nn.Linear(6, 2), classes=["a", "b", "c"])
        before = clf.get_params(deep=False)
        over_blocks.partial_fit(clf, X_BLOCKS, y)
        assert all(value is before[name] for name, value in clf.get_params(deep=False).items())

    def test_no_rows(self, fitted):
        with pytest.raises(ValueError, match="X has 0 samples"):
            over_blocks.partial_fit(clone(fitted), X_BLOCKS[:0], y[:0], classes=["a", "b"])

    @pytest.mark.parametrize("begun", [False, True])
    @pytest.mark.parametrize("curvature", ["categorical", "gaussian"])
    def test_posteriors_learnt_apart_are_merged(self, begun, curvature):
        clf = LaplaceUpdateClassifier(covariance="shared", curvature=curvature, prior_precision=1.0)
        clf.partial_fit(X[:9], y[:9], classes=["a", "b", "c"])
        start = clf.posterior_
        if not begun:
            clf, start = clone(clf), SharedPosterior.prior(0 * start.mean, 1.0)
        parts = [slice(0, 700), slice(700, 1000), slice(1000, 2000)]
        learnt = []
        for part in parts:
            twin = clone(clf).fit(X[:9], y[:9]) if begun else clone(clf)
            if begun:
                twin.posterior_, twin._calibration = clf.posterior_, clf._calibration
            learnt.append(twin.partial_fit(X[part], y[part], classes=["a", "b", "c"]))
        precision = start.precision + sum(t.posterior_.precision - start.precision for t in learnt)
        over_blocks.partial_fit(clf, X_BLOCKS, y, classes=["a", "b", "c"])
        close(clf.posterior_.precision, precision, 1e-8)
        moved = sum(
            t.posterior_.precision @ t.posterior_.mean - start.precision @ start.mean
            for t in learnt
        )
        information = start.precision @ start.mean + moved
        close(clf.posterior_.mean, torch.linalg.solve(precision, information), 1e-8)
        scores = sum(t.calibration_.scores for t in learnt)
        if not begun:
            close(clf.calibration_.scores, scores)
        if curvature == "gaussian":  # nothing depends on what was learnt before
            whole = clone(clf)
            if begun:
                whole.partial_fit(X[:9], y[:9], classes=["a", "b", "c"])
            whole.partial_fit(X, y, classes=["a", "b", "c"])
            close(clf.posterior_.covariance, whole.posterior_.covariance, 1e-8)
        assert clf.score(X, y) > 0.9

    @pytest.mark.parametrize(
        "wrong", [{"forgetting": 0.9}, {"memory_size": 3}, {"prior_precision": "loo"}]
    )
    def test_what_cannot_be_merged_is_refused(self, wrong):
        with pytest.raises(ValueError, match=r"learnt separately .* forgetting=1, memory_size=0"):
            over_blocks.partial_fit(LaplaceUpdateClassifier(**wrong), X_BLOCKS, y)

    def test_the_first_update_needs_classes(self):
        with pytest.raises(ValueError, match="classes must be passed on the first call"):
            over_blocks.partial_fit(LaplaceUpdateClassifier(), X_BLOCKS, y)

    @pytest.mark.parametrize(
        "strategy",
        [
            MarginSampling(random_state=3),
            RandomSampling(random_state=3),
            BALD(n_samples=8, random_state=3),
            PowerSampling(MarginSampling(), random_state=3),
            Preselection(BADGE(), MarginSampling(), n_candidates=90, random_state=3),
            Preselection(CoreSet(), n_candidates=90, random_state=3),
        ],
        ids=lambda strategy: type(strategy).__name__,
    )
    def test_query_is_that_of_memory(self, strategy, fitted):
        candidates = np.random.default_rng(1).random(2000) < 0.9
        found = over_blocks.query(strategy, fitted, X_BLOCKS, 15, candidates=candidates)
        expected = strategy.query(fitted, X, 15, candidates=candidates)
        np.testing.assert_array_equal(found, expected)

    def test_no_mask_is_sent_in_vain(self, fitted, monkeypatch):
        masks, leaders = [], over_blocks._leaders

        def recorded(ranking, learner, block, candidates, *args):
            masks.append(candidates)
            return leaders(ranking, learner, block, candidates, *args)

        monkeypatch.setattr(over_blocks, "_leaders", recorded)
        over_blocks.query(MarginSampling(), fitted, X_BLOCKS)
        assert masks == [None] * 3
        over_blocks.query(MarginSampling(), fitted, X_BLOCKS, candidates=np.ones(2000, dtype=bool))
        assert sum(map(len, masks[3:])) == 2000

    def test_query_of_a_learner(self):
        learner = ActiveLearner(
            LaplaceUpdateClassifier(), MarginSampling(), X, X_initial=X[:60], y_initial=y[:60]
        )
        found = over_blocks.query(MarginSampling(random_state=0), learner, X_BLOCKS, 5)
        expected = MarginSampling(random_state=0).query(learner, X, 5)
        np.testing.assert_array_equal(found, expected)

    def test_wrong_queries_are_refused(self, fitted):
        with pytest.raises(TypeError, match="Preselection"):
            over_blocks.query(CoreSet(), fitted, X_BLOCKS)
        with pytest.raises(ValueError, match="size of the pool, 2000; got 2001"):
            over_blocks.query(MarginSampling(), fitted, X_BLOCKS, 2001)
        with pytest.raises(TypeError, match="X_pool must be a Dask array with a row for each"):
            over_blocks.query(MarginSampling(), fitted, X)
        with pytest.raises(ValueError, match="mask of 2000 booleans"):
            over_blocks.query(MarginSampling(), fitted, X_BLOCKS, candidates=[True])
        with pytest.raises(NotFittedError):
            over_blocks.query(MarginSampling(), LaplaceUpdateClassifier(), X_BLOCKS)
        with pytest.raises(ValueError, match="X has 0 samples"):
            over_blocks.predict_proba(fitted, X_BLOCKS[:0])

    def test_features_of_images(self):
        images = RNG.normal(size=(50, 1, 4, 4)).astype(np.float32)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
        expected = TorchFeatures(network).fit_transform(images)
        blocks = da.from_array(images, chunks=(20, 1, 2, 2))
        for extractor in (network, TorchFeatures(network)):
            found = over_blocks.features(blocks, extractor)
            assert (found.shape, found.dtype) == ((50, 5), np.float32)
            np.testing.assert_allclose(found, expected, rtol=1e-5)


class CountingRows(nn.Module):
    """Its features are its inputs."""

    def __init__(self):
        super().__init__()
        self.head, self.n_rows = nn.Linear(6, 2).double(), 0

    def forward(self, X):
        self.n_rows += len(X)
        return self.head(X)


def taught(pool, labels, n_calls, size=1):
    """A pool that has learnt labels at regular positions, in no order."""
    positions = np.random.default_rng(2).permutation(len(pool))[: n_calls * size]
    for some in positions.reshape(n_calls, size):
        pool.teach(some, labels[some])
    return pool


def assert_up_to_date(pool, X=X):
    close(pool.predict_proba().compute(), pool.classifier_.predict_proba(X), 1e-9)


@pytest.fixture
def n_scored(monkeypatch):
    """How many blocks were scored anew: a list of ones."""
    scored, scores_under = [], over_blocks._scores_under

    def counted(model, features):
        scored.append(1)
        return scores_under(model, features)

    monkeypatch.setattr(over_blocks, "_scores_under", counted)
    return scored


CHANGES = {
    "parameter": lambda clf: clf.set_params(predictive="plug_in"),
    "labels": lambda clf: clf.partial_fit(X[:3], y[:3]),
    "classes": lambda clf: clf.add_classes("d"),
}


@pytest.mark.usefixtures("here")
class TestPool:
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    @pytest.mark.parametrize("n_classes", [2, 3])
    @pytest.mark.parametrize("size", [1, 3])
    def test_predictions_follow_labels(self, covariance, n_classes, size, n_scored):
        labels = y if n_classes == 3 else np.where(y == "c", "a", y)
        clf = LaplaceUpdateClassifier(covariance=covariance).fit(X[:60], labels[:60])
        before = clf.predict_proba(X)
        pool = taught(over_blocks.Pool(clf, X_BLOCKS), labels, 8, size)
        assert_up_to_date(pool)
        assert len(n_scored) == 3  # of as many blocks, when it was made
        assert len(pool) == 2000
        np.testing.assert_array_equal(pool.labels_, labels[pool.positions_])
        assert len(pool.positions_) == 8 * size
        np.testing.assert_array_equal(clf.predict_proba(X), before)
        expected = clf.partial_fit(X[pool.positions_], pool.labels_)
        close(pool.classifier_.predict_proba(X), expected.predict_proba(X), 1e-9)

    @pytest.mark.parametrize(
        "params",
        [
            {"n_passes": 2},
            {"forgetting": 0.9},
            {"memory_size": 5},
            {"predictive": "monte_carlo", "random_state": 0},
            {"predictive": "bridge", "calibration": None},
            {"class_weight": {"a": 10.0, "b": 0.1, "c": 1.0}},
        ],
        ids=str,
    )
    def test_predictions_follow_whatever_the_settings(self, params):
        clf = LaplaceUpdateClassifier(**params).fit(X[:60], y[:60])
        assert_up_to_date(taught(over_blocks.Pool(clf, X_BLOCKS), y, 3, 2))

    def test_many_labels_are_scored_anew(self, fitted, n_scored):
        assert_up_to_date(taught(over_blocks.Pool(fitted, X_BLOCKS), y, 1, 200))
        assert len(n_scored) == 6

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_what_is_done_to_its_classifier_is_seen(self, change, fitted):
        pool = taught(over_blocks.Pool(fitted, X_BLOCKS), y, 3)
        change(pool.classifier_)
        assert_up_to_date(pool)

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_labels_are_taught_after_a_change(self, change, fitted):
        pool = taught(over_blocks.Pool(fitted, X_BLOCKS), y, 3)
        change(pool.classifier_)
        last = pool.classifier_.classes_[-1]
        assert_up_to_date(pool.teach(7, last))
        assert pool.labels_[-1] == last

    @pytest.mark.parametrize(
        "strategy",
        [
            MarginSampling(random_state=3),
            RandomSampling(random_state=3),
            VarianceSampling(random_state=3),
            BALD(n_samples=8, random_state=3),
            PowerSampling(MarginSampling(), random_state=3),
            PowerSampling(BALD(n_samples=8), random_state=3),
            Preselection(BADGE(), MarginSampling(), n_candidates=90, random_state=3),
            Preselection(Preselection(CoreSet(), n_candidates=50), n_candidates=90, random_state=3),
        ],
        ids=lambda strategy: type(strategy).__name__,
    )
    @pytest.mark.parametrize("extractor", [None, np.tanh])
    def test_query_is_that_of_memory(self, strategy, extractor):
        clf = LaplaceUpdateClassifier(extractor, random_state=0).fit(X[:60], y[:60])
        pool = taught(over_blocks.Pool(clf, X_BLOCKS), y, 10)
        candidates = np.ones(2000, dtype=bool)
        candidates[pool.positions_] = False
        expected = strategy.query(pool.classifier_, X, 15, candidates=candidates)
        np.testing.assert_array_equal(pool.query(strategy, 15), expected)

    def test_everything_is_asked_for_once(self, fitted):
        pool = over_blocks.Pool(fitted, X_BLOCKS[:40].rechunk((3, 6)))
        asked = []
        for _ in range(8):
            asked.append(pool.query(MarginSampling(random_state=0), 5))
            pool.teach(asked[-1], y[asked[-1]])
        assert sorted(np.concatenate(asked)) == list(range(40))
        with pytest.raises(ValueError, match="no candidate left"):
            pool.query(MarginSampling())

    def test_features_are_extracted_once(self):
        network = CountingRows()
        clf = LaplaceUpdateClassifier(network).fit(X[:60], y[:60])
        network.n_rows = 0
        pool = over_blocks.Pool(clf, X_BLOCKS)
        for strategy in (MarginSampling(), BALD(n_samples=8), Preselection(BADGE())):
            positions = pool.query(strategy, 3)
            pool.teach(positions, y[positions])
        others = np.setdiff1d(np.arange(300), pool.positions_)
        pool.teach(others, y[others])  # scored anew
        found = pool.predict_proba().compute()
        assert network.n_rows == 2000
        close(found, pool.classifier_.predict_proba(X), 1e-9)

    def test_the_posterior_goes_only_where_it_is_read(self, fitted, monkeypatch):
        sent, leaders = [], over_blocks._leaders_of_kept

        def recorded(ranking, shipped, *args):
            sent.append(hasattr(shipped[0], "posterior") or shipped[1] is not None)
            return leaders(ranking, shipped, *args)

        monkeypatch.setattr(over_blocks, "_leaders_of_kept", recorded)
        pool = over_blocks.Pool(fitted, X_BLOCKS)
        for ranking in (MarginSampling(), VarianceSampling(), PowerSampling(MarginSampling())):
            pool.query(ranking)
        pool.query(Preselection(BADGE()))
        assert not any(sent)
        assert len(sent) == 12
        pool.query(BALD())
        assert all(sent[12:])

    def test_a_graph_goes_back_so_many_labels(self, fitted, monkeypatch, n_scored):
        monkeypatch.setattr(over_blocks, "_MAX_FOLLOWED", 4)
        pool = taught(over_blocks.Pool(fitted, X_BLOCKS), y, 9)
        assert len(n_scored) == 3 + 3
        assert_up_to_date(pool)

    def test_blocks_that_lose_their_digits_are_scored_anew(self, monkeypatch, n_scored):
        rng = np.random.default_rng(0)
        wide = (10 * rng.normal(size=(500, 20))).astype(np.float32)
        wide[400:] *= 1e-3  # which no label makes certain
        labels = (wide[:, 0] > 0).astype(int)
        clf = LaplaceUpdateClassifier(
            covariance="shared", prior_precision=1e-3, curvature="gaussian"
        ).fit(wide[:4], [0, 1, 0, 1])
        monkeypatch.setattr(over_blocks, "_MAX_FOLLOWED", 1000)

        def error(pool):
            for i in range(4, 300):
                pool.teach(i, labels[i])
            variance = np.concatenate([scores.compute().variance for scores in pool._scored.blocks])
            anew = pool.classifier_.pool_state(wide).variance.numpy()
            return np.abs(variance / anew - 1).max()

        blocks = da.from_array(wide, chunks=(100, 20))
        assert error(over_blocks.Pool(clf, blocks)) < 0.1
        assert 5 < len(n_scored) < 100
        monkeypatch.setattr(over_blocks, "is_accurate", lambda *_: True)
        assert error(over_blocks.Pool(clf, blocks)) > 0.5

    def test_a_float32_pool(self, fitted):
        X32 = X.astype(np.float32)
        pool = taught(over_blocks.Pool(fitted, X_BLOCKS.astype(np.float32)), y, 20)
        assert pool._features[0].compute().tensor.dtype == torch.float32
        expected = pool.classifier_.predict_proba(X32)
        np.testing.assert_allclose(pool.predict_proba().compute(), expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.skipif(
        not simulated_device.IS_SUPPORTED, reason="this torch has no devices in Python"
    )
    @pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
    def test_blocks_stay_on_a_device(self, covariance):
        with simulated_device.SimulatedDevice():
            clf = LaplaceUpdateClassifier(covariance=covariance, device=simulated_device.NAME)
            pool = over_blocks.Pool(clf.fit(X[:60], y[:60]), X_BLOCKS)
            for strategy in (MarginSampling(), BALD(n_samples=8), Preselection(BADGE())):
                positions = pool.query(strategy, 2)
                pool.teach(positions, y[positions])
            kept = pool._features[0].compute(), pool._scored.blocks[0].compute()
            tensors = [tensor for part in kept for tensor in vars(part).values()]
            assert {tensor.device.type for tensor in tensors} == {simulated_device.NAME}
            assert pool._scored.n_followed == 3
            assert_up_to_date(pool)

    @pytest.mark.parametrize(
        ("indices", "labels", "message"),
        [
            (2000, "a", "between 0 and 1999, positions in X_pool; got .2000."),
            (-1, "a", "between 0 and 1999"),
            ([7, 7], ["a", "a"], "distinct positions"),
            ([8, 5], ["a", "a"], r"without a label; labelled already: \[5\]"),
            (8.0, "a", "integer positions"),
            (8, "z", r"not among the classes: \['z'\].*add_classes"),
            (8, None, "got None"),
            ([8, 9], "a", "one label per row of X: 2; got 1"),
        ],
        ids=str,
    )
    def test_wrong_labels_leave_it_as_it_was(self, indices, labels, message, fitted):
        pool = over_blocks.Pool(fitted, X_BLOCKS).teach(5, "a")
        before = dict(vars(pool))
        with pytest.raises(ValueError, match=message):
            pool.teach(indices, labels)
        assert all(vars(pool)[name] is value for name, value in before.items())
        assert_up_to_date(pool.teach([8], ["b"]))

    def test_a_pass_that_fails_leaves_it_as_it_was(self, fitted, monkeypatch):
        pool = over_blocks.Pool(fitted, X_BLOCKS)
        before = dict(vars(pool))

        def failing(*_):
            raise OSError("a disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(over_blocks, "_followed", failing)
            with pytest.raises(OSError, match="full"):
                pool.teach(5, "a")
        assert all(vars(pool)[name] is value for name, value in before.items())
        assert_up_to_date(pool.teach(5, "a"))

    def test_wrong_pools_and_queries_are_refused(self, fitted):
        with pytest.raises(TypeError, match="classifier must be a fitted LaplaceUpdateClassifier"):
            over_blocks.Pool(ActiveLearner(fitted, MarginSampling(), X), X_BLOCKS)
        with pytest.raises(NotFittedError):
            over_blocks.Pool(LaplaceUpdateClassifier(), X_BLOCKS)
        with pytest.raises(TypeError, match="X_pool must be a Dask array"):
            over_blocks.Pool(fitted, X)
        with pytest.raises(ValueError, match="X has 3 features"):
            over_blocks.Pool(fitted, X_BLOCKS[:, :3])
        with pytest.raises(ValueError, match="X_pool has 0 rows"):
            over_blocks.Pool(fitted, X_BLOCKS[:0])
        pool = over_blocks.Pool(fitted, X_BLOCKS).teach(5, "a")
        with pytest.raises(TypeError, match=r"Preselection\(CoreSet"):
            pool.query(CoreSet())
        with pytest.raises(TypeError, match="strategy must be one of laplace_al"):
            pool.query("margin")
        with pytest.raises(ValueError, match="size of the pool, 1999; got 2000"):
            pool.query(MarginSampling(), 2000)

    def test_dask_knows_what_a_worker_keeps(self, fitted):
        pool = over_blocks.Pool(fitted, X_BLOCKS)
        features, scores = pool._features[0].compute(), pool._scored.blocks[0].compute()
        assert 0 <= dask.sizeof.sizeof(features) - 700 * 6 * 8 < 100
        assert 0 <= dask.sizeof.sizeof(scores) - 700 * (3 + 3) * 8 < 100
        scores = pool.teach(5, "a")._scored.blocks[0].compute()
        assert 0 <= dask.sizeof.sizeof(scores) - 700 * (3 + 2 * 3) * 8 < 100


class TestOnACluster:
    def test_the_numbers_are_those_of_one_process(self, client):
        expected = LaplaceUpdateClassifier(tol=1e-11).fit(X, y)
        pool = X_BLOCKS.persist()
        clf = over_blocks.fit(LaplaceUpdateClassifier(tol=1e-11), pool, y)
        close(clf.predict_proba(X), expected.predict_proba(X))
        close(over_blocks.predict_proba(clf, pool).compute(), clf.predict_proba(X))
        strategy = MarginSampling(random_state=0)
        np.testing.assert_array_equal(
            over_blocks.query(strategy, clf, pool, 20), strategy.query(clf, X, 20)
        )
        again = LaplaceUpdateClassifier()
        over_blocks.partial_fit(again, pool, y, classes=["a", "b", "c"])
        with dask.config.set(scheduler="synchronous"):
            here = LaplaceUpdateClassifier()
            over_blocks.partial_fit(here, X_BLOCKS, y, classes=["a", "b", "c"])
        close(again.predict_proba(X), here.predict_proba(X))

    def test_the_extractor_goes_to_each_worker_once(self, client, tmp_path):
        network = CountingNetwork(tmp_path)
        blocks = da.from_array(X, chunks=(100, 6))
        found = over_blocks.features(blocks, network).compute()
        close(found, X)
        unpacked = [int(path.name.split("-")[0]) for path in tmp_path.iterdir()]
        workers = set(client.run(os.getpid).values())
        assert sorted(pid for pid in unpacked if pid in workers) == sorted(workers)

    def test_compare_runs_on_the_cluster(self, client):
        arguments = {"budget": 6, "n_initial": 6, "n_repeats": 2, "random_state": 0}
        strategies = [RandomSampling(), MarginSampling()]
        expected = compare(LaplaceUpdateClassifier(), strategies, X[:200], y[:200], **arguments)
        with joblib.parallel_config("dask"):
            found = compare(LaplaceUpdateClassifier(), strategies, X[:200], y[:200], **arguments)
        close(found.score.dropna(), expected.score.dropna())
        assert found.strategy.tolist() == expected.strategy.tolist()

    def test_a_pool_whose_cluster_was_restarted(self, client):
        clf = LaplaceUpdateClassifier().fit(X[:60], y[:60])
        pool = over_blocks.Pool(clf, X_BLOCKS).teach([100, 700], y[[100, 700]])
        expected = pool.query(MarginSampling(random_state=0), 5)
        client.restart()
        before = dict(vars(pool))
        for call in (
            lambda: pool.query(MarginSampling(random_state=0)),
            lambda: pool.teach(5, y[5]),
        ):
            with pytest.raises(RuntimeError, match=r"restarted or closed.* Make it anew"):
                call()
        assert vars(pool) == before
        pool = over_blocks.Pool(clf, X_BLOCKS).teach(pool.positions_, pool.labels_)
        found = pool.query(MarginSampling(random_state=0), 5)
        np.testing.assert_array_equal(found, expected)

    def test_a_worker_that_is_lost_changes_nothing(self, client, tmp_path):
        blocks = over_blocks.features(da.from_array(X, chunks=(100, 6)), CountingNetwork(tmp_path))
        clf = LaplaceUpdateClassifier(tol=1e-11).fit(X, y)
        before = client.run(os.getpid)
        victim = next(iter(before.values()))

        def kill():
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

        timer = threading.Timer(0.5, kill)
        timer.start()
        found = over_blocks.query(MarginSampling(random_state=0), clf, blocks, 20)
        timer.join()
        np.testing.assert_array_equal(found, MarginSampling(random_state=0).query(clf, X, 20))
        client.wait_for_workers(2)
        assert set(client.run(os.getpid).values()) != set(before.values())

    def test_a_pool_that_loses_a_worker_is_the_same(self, client):
        clf = LaplaceUpdateClassifier().fit(X[:60], y[:60])
        pool = taught(over_blocks.Pool(clf, da.from_array(X, chunks=(100, 6))), y, 5)
        victim, pid = next(iter(client.run(os.getpid).items()))
        assert {block.key for block in pool._scored.blocks} & set(client.has_what()[victim])
        os.kill(pid, signal.SIGKILL)
        client.wait_for_workers(2)
        for _ in range(3):
            positions = pool.query(MarginSampling(random_state=0), 3)
            is_open = np.isin(np.arange(2000), pool.positions_, invert=True)
            expected = MarginSampling(random_state=0).query(
                pool.classifier_, X, 3, candidates=is_open
            )
            np.testing.assert_array_equal(positions, expected)
            pool.teach(positions, y[positions])
        assert_up_to_date(pool)
        assert pool._scored.n_followed == 8
        assert pid not in client.run(os.getpid).values()


def test_defaults_of_the_scheduler_stay_after_the_first_use():
    code = """
import dask
import dask.array as da
from laplace_al import LaplaceUpdateClassifier
from laplace_al.integrations import dask as over_blocks
from laplace_al.strategies import MarginSampling
clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
with dask.config.set(scheduler="synchronous"):
    over_blocks.query(MarginSampling(), clf, da.from_array([[-1.0], [1.0]]), 1)
dask.config.get("distributed.worker")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("learn", [over_blocks.fit, over_blocks.partial_fit])
@pytest.mark.parametrize(
    "change", [lambda clf: clf.partial_fit(X[:50], y[:50]), lambda clf: clf.set_params(n_samples=7)]
)
def test_a_change_by_another_thread_is_not_lost(learn, change):
    clf = LaplaceUpdateClassifier(prior_precision=1.0).fit(X[:100], y[:100])
    changed = change(copy.copy(clf))
    calls = itertools.count()

    def meanwhile(block):
        if next(calls) == 2:  # before it, fit has read some rows
            change(clf)
        return block

    blocks = X_BLOCKS.rechunk({1: -1}).map_blocks(meanwhile, meta=np.empty((0, 6)), dtype=float)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(RuntimeError, match=r"was changed by another thread during (partial_)?fit"),
    ):
        learn(clf, blocks, y)
    close(clf.predict_proba(X[:20]), changed.predict_proba(X[:20]))
    assert clf.n_samples == changed.n_samples
    with dask.config.set(scheduler="synchronous"):
        assert learn(clf, X_BLOCKS, y) is clf
