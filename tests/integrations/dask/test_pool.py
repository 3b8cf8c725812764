"""A pool on workers predicts as its classifier does, whatever that learns."""

import dask
import dask.array as da
import numpy as np
import pytest
import simulated_device
from dask.callbacks import Callback
from dask_blocks import X_BLOCKS, Letter, X, assert_up_to_date, close, taught, y
from sklearn.exceptions import NotFittedError
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.integrations import dask as over_blocks
from laplace_al.integrations.dask import pool as pool_module
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

pytestmark = pytest.mark.usefixtures("here")


class CountingRows(nn.Module):
    """Its features are its inputs."""

    def __init__(self):
        super().__init__()
        self.head, self.n_rows = nn.Linear(6, 2).double(), 0

    def forward(self, X):
        self.n_rows += len(X)
        return self.head(X)


@pytest.fixture
def n_scored():
    """The names of the tasks that scored a block anew."""
    names = []

    def noted(key, *_):
        names.extend([key] if str(key).startswith("scored-") else [])

    with Callback(pretask=noted):
        yield names


CHANGES = {
    "parameter": lambda clf: clf.set_params(predictive="plug_in"),
    "labels": lambda clf: clf.partial_fit(X[:3], y[:3]),
    "classes": lambda clf: clf.add_classes("d"),
}


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("size", [1, 3])
def test_predictions_follow_labels(covariance, n_classes, size, n_scored):
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
def test_predictions_follow_whatever_the_settings(params):
    clf = LaplaceUpdateClassifier(**params).fit(X[:60], y[:60])
    assert_up_to_date(taught(over_blocks.Pool(clf, X_BLOCKS), y, 3, 2))


def test_many_labels_are_scored_anew(fitted, n_scored):
    assert_up_to_date(taught(over_blocks.Pool(fitted, X_BLOCKS), y, 1, 200))
    assert len(n_scored) == 6


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_done_to_its_classifier_is_seen(change, fitted):
    pool = taught(over_blocks.Pool(fitted, X_BLOCKS), y, 3)
    change(pool.classifier_)
    assert_up_to_date(pool)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_labels_are_taught_after_a_change(change, fitted):
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
def test_query_is_that_of_memory(strategy, extractor):
    clf = LaplaceUpdateClassifier(extractor, random_state=0).fit(X[:60], y[:60])
    pool = taught(over_blocks.Pool(clf, X_BLOCKS), y, 10)
    candidates = np.ones(2000, dtype=bool)
    candidates[pool.positions_] = False
    expected = strategy.query(pool.classifier_, X, 15, candidates=candidates)
    np.testing.assert_array_equal(pool.query(strategy, 15), expected)


def test_everything_is_asked_for_once(fitted):
    pool = over_blocks.Pool(fitted, X_BLOCKS[:40].rechunk((3, 6)))
    asked = []
    for _ in range(8):
        asked.append(pool.query(MarginSampling(random_state=0), 5))
        pool.teach(asked[-1], y[asked[-1]])
    assert sorted(np.concatenate(asked)) == list(range(40))
    with pytest.raises(ValueError, match="no candidate left"):
        pool.query(MarginSampling())


def test_features_are_extracted_once():
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


class Noticing(MarginSampling):
    """Notes the posteriors that it could read."""

    seen = []

    def utilities(self, view, rng):
        self.seen.append(view.state.posterior)
        return super().utilities(view, rng)


class Reading(Noticing):
    reads_posterior, seen = True, []


def test_a_strategy_that_reads_no_posterior_is_sent_none(fitted):
    pool = over_blocks.Pool(fitted, X_BLOCKS)
    for strategy in (Noticing(), PowerSampling(Noticing()), Preselection(BADGE(), Noticing())):
        pool.query(strategy)
    assert Noticing.seen == [None] * 9
    pool.query(Reading())
    assert None not in Reading.seen


def test_blocks_that_lose_their_digits_are_scored_anew(monkeypatch, n_scored):
    rng = np.random.default_rng(0)
    wide = (10 * rng.normal(size=(500, 20))).astype(np.float32)
    wide[400:] *= 1e-3  # which no label makes certain
    labels = (wide[:, 0] > 0).astype(int)
    clf = LaplaceUpdateClassifier(
        covariance="shared", prior_precision=1e-3, curvature="gaussian"
    ).fit(wide[:4], [0, 1, 0, 1])
    monkeypatch.setattr(pool_module, "_MAX_FOLLOWED", 1000)

    def error(pool):
        for i in range(4, 300):
            pool.teach(i, labels[i])
        kept = dask.compute(*pool._known.scored.blocks)
        variance = np.concatenate([block.scores.variance for block in kept])
        anew = pool.classifier_.pool_state(wide).variance.numpy()
        return np.abs(variance / anew - 1).max()

    blocks = da.from_array(wide, chunks=(100, 20))
    assert error(over_blocks.Pool(clf, blocks)) < 0.1
    assert 5 < len(n_scored) < 100


def test_a_float32_pool(fitted):
    X32 = X.astype(np.float32)
    pool = taught(over_blocks.Pool(fitted, X_BLOCKS.astype(np.float32)), y, 20)
    expected = pool.classifier_.predict_proba(X32)
    np.testing.assert_allclose(pool.predict_proba().compute(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not simulated_device.IS_SUPPORTED, reason="this torch has no devices in Python")
@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_blocks_stay_on_a_device(covariance):
    with simulated_device.SimulatedDevice():
        clf = LaplaceUpdateClassifier(covariance=covariance, device=simulated_device.NAME)
        pool = over_blocks.Pool(clf.fit(X[:60], y[:60]), X_BLOCKS)
        for strategy in (MarginSampling(), BALD(n_samples=8), Preselection(BADGE())):
            positions = pool.query(strategy, 2)
            pool.teach(positions, y[positions])
        features, kept = dask.compute(pool._features[0], pool._known.scored.blocks[0])
        tensors = features.tensor, *kept.scores, kept.when_scored
        assert {tensor.device.type for tensor in tensors} == {simulated_device.NAME}
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
def test_wrong_labels_leave_it_as_it_was(indices, labels, message, fitted):
    pool = over_blocks.Pool(fitted, X_BLOCKS).teach(5, "a")
    before = dict(vars(pool))
    with pytest.raises(ValueError, match=message):
        pool.teach(indices, labels)
    assert all(vars(pool)[name] is value for name, value in before.items())
    assert_up_to_date(pool.teach([8], ["b"]))


def test_a_pass_that_fails_leaves_it_as_it_was(fitted):
    pool = over_blocks.Pool(fitted, X_BLOCKS)
    before = dict(vars(pool))

    def failing(key, *_):
        if str(key).startswith("followed-"):
            raise OSError("a disk is full")

    with Callback(pretask=failing), pytest.raises(OSError, match="full"):
        pool.teach(5, "a")
    assert all(vars(pool)[name] is value for name, value in before.items())
    assert_up_to_date(pool.teach(5, "a"))


def test_wrong_pools_and_queries_are_refused(fitted):
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


def test_a_pool_of_members_of_an_enum(fitted):
    pool = over_blocks.Pool(fitted, X_BLOCKS).teach([0, 1], [Letter.A, Letter.B])
    pool.teach(2, Letter.C)
    assert pool.labels_.tolist() == ["a", "b", "c"]
    for label in (None, np.nan, 1, b"a"):
        with pytest.raises(ValueError, match=r"y (must hold|has) labels"):
            pool.teach(3, label)
