"""Features, fits and updates over blocks are those of memory."""

import copy
import itertools
import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
import torch
from dask_blocks import RNG, X_BLOCKS, Letter, X, close, y
from sklearn.base import clone
from torch import nn

from laplace_al import LaplaceUpdateClassifier, TorchFeatures
from laplace_al.integrations import dask as over_blocks
from laplace_al.model import rows
from laplace_al.model.posterior import SharedPosterior

pytestmark = pytest.mark.usefixtures("here")

SETTINGS = [
    {},
    {"covariance": "shared", "curvature": "gaussian", "calibration": None},
    {"covariance": "full", "class_weight": "balanced", "fit_intercept": False},
]


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_fit_is_that_of_memory(params):
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


def test_fit_examines_some_classes_at_a_time(monkeypatch):
    expected = over_blocks.fit(LaplaceUpdateClassifier(covariance="shared"), X_BLOCKS, y)
    monkeypatch.setattr(rows, "_BYTES_AT_ONCE", 1)
    clf = over_blocks.fit(LaplaceUpdateClassifier(covariance="shared"), X_BLOCKS, y)
    close(clf.posterior_.precision, expected.posterior_.precision, 1e-12)
    close(clf.loo_score_, expected.loo_score_, 1e-12)


def test_fit_with_an_extractor():
    network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    expected = LaplaceUpdateClassifier(network, tol=1e-11).fit(X, y)
    clf = over_blocks.fit(LaplaceUpdateClassifier(network, tol=1e-11), X_BLOCKS, y)
    close(clf.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fit_by_the_scale_of_all_blocks(dtype):
    clf = LaplaceUpdateClassifier(dtype=dtype)
    A = X * np.logspace(-1, 1, X.shape[1]) + 0.5
    weights = np.random.default_rng(0).integers(0, 3, size=len(A))
    over_blocks.fit(clf, da.from_array(A, chunks=(300, -1)), y, weights)
    expected = clone(clf).fit(A, y, weights)
    assert clf.prior_precision_ == pytest.approx(expected.prior_precision_, rel=1e-4)
    assert clf.prior_precision == "scale"


def test_partial_fit_by_the_scale_of_the_first_block():
    clf = over_blocks.partial_fit(LaplaceUpdateClassifier(), X_BLOCKS, y, classes=np.unique(y))
    first = X_BLOCKS.chunks[0][0]
    expected = LaplaceUpdateClassifier().partial_fit(X[:first], y[:first], np.unique(y))
    assert clf.prior_precision_ == expected.prior_precision_
    assert clf.prior_precision == "scale"
    over_blocks.partial_fit(clf, 100 * X_BLOCKS, y)
    assert clf.prior_precision_ == expected.prior_precision_


def test_the_scale_of_a_block_around_a_pretrained_head():
    network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    clf = LaplaceUpdateClassifier(network, head="pretrained", classes=np.unique(y))
    expected = clone(clf).partial_fit(X[:700], y[:700])
    over_blocks.partial_fit(clf, X_BLOCKS, y)
    assert clf.prior_precision_ == pytest.approx(expected.prior_precision_)


def test_fit_that_fails_leaves_the_classifier(fitted):
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


@pytest.mark.parametrize("blocks", [False, True])
def test_members_of_an_enum(blocks):
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


def test_weights_of_classes():
    weights = np.where(y == "a", 3.0, 0.5)
    clf = LaplaceUpdateClassifier(class_weight="balanced")
    expected = clone(clf).fit(X, y, weights)
    close(over_blocks.fit(clf, X_BLOCKS, y, weights).coef_, expected.coef_, 1e-6)
    before = dict(vars(clf.set_params(class_weight={"a": np.nan})))
    with pytest.raises(ValueError, match=r"class_weight must be >= 0.*got \{'a': nan\}"):
        over_blocks.fit(clf, X_BLOCKS, y, weights)
    assert vars(clf) == before


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("curvature", ["categorical", "gaussian"])
def test_posteriors_learnt_apart_are_merged(begun, curvature):
    clf = LaplaceUpdateClassifier(covariance="shared", curvature=curvature, prior_precision=1.0)
    clf.partial_fit(X[:9], y[:9], classes=["a", "b", "c"])
    start = clf.posterior_
    if not begun:
        clf, start = clone(clf), SharedPosterior.prior(0 * start.mean, 1.0)
    parts = [slice(0, 700), slice(700, 1000), slice(1000, 2000)]
    learnt = []
    for part in parts:
        twin = copy.copy(clf)
        learnt.append(twin.partial_fit(X[part], y[part], classes=["a", "b", "c"]))
    precision = start.precision + sum(t.posterior_.precision - start.precision for t in learnt)
    over_blocks.partial_fit(clf, X_BLOCKS, y, classes=["a", "b", "c"])
    close(clf.posterior_.precision, precision, 1e-8)
    moved = sum(
        t.posterior_.precision @ t.posterior_.mean - start.precision @ start.mean for t in learnt
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
def test_what_cannot_be_merged_is_refused(wrong):
    with pytest.raises(ValueError, match=r"learnt separately .* forgetting=1, memory_size=0"):
        over_blocks.partial_fit(LaplaceUpdateClassifier(**wrong), X_BLOCKS, y)


def test_the_first_update_needs_classes():
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        over_blocks.partial_fit(LaplaceUpdateClassifier(), X_BLOCKS, y)


def test_features_of_images():
    images = RNG.normal(size=(50, 1, 4, 4)).astype(np.float32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    expected = TorchFeatures(network).fit_transform(images)
    blocks = da.from_array(images, chunks=(20, 1, 2, 2))
    for extractor in (network, TorchFeatures(network)):
        found = over_blocks.features(blocks, extractor)
        assert (found.shape, found.dtype) == ((50, 5), np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


LEARN = pytest.mark.parametrize("learn", [over_blocks.fit, over_blocks.partial_fit])


def blocks_with(change, clf):
    """Blocks of X, and a change of the classifier while the third of them is made."""
    calls = itertools.count()

    def meanwhile(block):
        if next(calls) == 2:  # before it, fit has read some rows
            change(clf)
        return block

    return X_BLOCKS.rechunk({1: -1}).map_blocks(meanwhile, meta=np.empty((0, 6)), dtype=float)


@LEARN
def test_labels_learnt_by_another_thread_are_not_lost(learn):
    clf = LaplaceUpdateClassifier(prior_precision=1.0).fit(X[:100], y[:100])
    changed = copy.copy(clf).partial_fit(X[:50], y[:50])
    blocks = blocks_with(lambda clf: clf.partial_fit(X[:50], y[:50]), clf)
    with pytest.raises(RuntimeError, match=r"was changed by another thread during (partial_)?fit"):
        learn(clf, blocks, y)
    close(clf.predict_proba(X[:20]), changed.predict_proba(X[:20]))
    assert learn(clf, X_BLOCKS, y) is clf


@LEARN
def test_a_parameter_set_by_another_thread_stays_set(learn):
    clf = LaplaceUpdateClassifier(prior_precision=1.0).fit(X[:100], y[:100])
    expected = learn(copy.copy(clf), X_BLOCKS, y).set_params(predictive="plug_in")
    learn(clf, blocks_with(lambda clf: clf.set_params(predictive="plug_in"), clf), y)
    assert clf.predictive == "plug_in"
    close(clf.predict_proba(X[:20]), expected.predict_proba(X[:20]))


def test_labels_in_blocks_leave_the_extractor_the_one_it_is():
    clf = LaplaceUpdateClassifier(nn.Linear(6, 2)).fit(X[:60], y[:60])
    before = clf.extractor_
    assert over_blocks.partial_fit(clf, X_BLOCKS, y).extractor_ is before


LABELS = ["a", "b", "c"]
WIDE_BLOCKS = X_BLOCKS * 10.0 ** np.arange(0, 12, 2)  # beside the last column, the prior is lost


@pytest.mark.parametrize(
    "call",
    [
        lambda: over_blocks.fit(LaplaceUpdateClassifier(max_iter=1), X_BLOCKS, y),
        lambda: over_blocks.fit(LaplaceUpdateClassifier(), X_BLOCKS, y[:, None]),
        lambda: over_blocks.partial_fit(LaplaceUpdateClassifier(classes=LABELS), WIDE_BLOCKS, y),
        lambda: over_blocks.partial_fit(LaplaceUpdateClassifier(), X_BLOCKS, y[:, None], LABELS),
    ],
)
def test_warnings_point_at_the_line_of_the_user(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    places = {(warning.filename, warning.lineno) for warning in caught}
    assert places == {(__file__, call.__code__.co_firstlineno)}


@pytest.mark.parametrize("name", over_blocks.__all__)
def test_public_names_can_be_pickled(name):
    thing = getattr(over_blocks, name)
    assert pickle.loads(pickle.dumps(thing)) is thing


def test_uncertain_labels_are_learnt_over_blocks():
    rng = np.random.default_rng(0)
    rows, P = rng.normal(size=(60, 4)), rng.dirichlet(np.ones(3), size=60)
    blocks, soft = da.from_array(rows, chunks=(20, 4)), da.from_array(P, chunks=(30, 3))
    clf = LaplaceUpdateClassifier(classes=[0, 1, 2], prior_precision=1.0, curvature="gaussian")
    whole = clone(clf).fit(rows, P)
    in_blocks = over_blocks.fit(clone(clf), blocks, soft)
    np.testing.assert_allclose(in_blocks.predict_proba(rows), whole.predict_proba(rows), atol=1e-9)
    learnt = over_blocks.partial_fit(clone(clf), blocks, P).posterior_
    twin = clone(clf).partial_fit(rows, P).posterior_
    np.testing.assert_allclose(learnt.precision, twin.precision, rtol=1e-9, atol=1e-9)
